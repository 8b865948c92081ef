"""A trial from start to end over the topic's own rows: who is promoted, who is dropped, and what a restart changes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from freshrank.v1.events_pb2 import DEGRADATION_POPULAR
from freshrank.v1.models_pb2 import ArmSplit, PromoteArmRequest, StartTrialRequest, StopTrialRequest

from services.common import records
from services.common.arms import Share, Split
from services.common.errors import Conflict, InvalidInput, NotFound, TemporaryError
from services.publisher.arms import book as books
from services.publisher.arms.referee import Referee
from services.publisher.audit import Audit
from tests.publisher.arms.labels import KEY, SECOND, Crowd, Shown, messages

START = 1_000 * SECOND
STICKY = 20 * SECOND


class Court:
    """A referee with its file, its audit record, and what gateways were told."""

    def __init__(self, folder: Path, champions: dict[str, str] | None = None) -> None:
        self.folder, self.told = folder, list[ArmSplit]()
        self.champions = champions or {"main": "r1", "new": "r2", "third": "r3"}
        self.audit = Audit(folder / "audit.jsonl")
        self.referee = self.restarted()

    def restarted(self) -> Referee:
        """The referee after a restart."""
        self.referee = Referee(self.folder / "arms.json", self.audit, self.told.append, lambda: self.champions)
        return self.referee

    def start(self, *challengers: str, share: float = 0.3, **more: float) -> Split:
        """Begin a trial; returns its split."""
        request = StartTrialRequest(
            challengers=challengers, share=share, sticky_us=STICKY, most_us=1_000 * SECOND, **more
        )
        self.referee.start(request, START)
        self.referee.found({0: 0})
        return self.referee.book.split

    def take(self, values: Sequence[bytes], first: int = 0, until: int | None = None) -> None:
        """Messages of one partition, a look after every hundred."""
        for offset in range(first, len(values) if until is None else until):
            self.referee.apply(0, offset, values[offset], KEY)
            if offset % 100 == 99:
                self.look(offset + 1)
        self.look(len(values))

    def look(self, offset: int, now_us: int = START + 300 * SECOND, frozen: bool = False) -> None:
        """Close what is over."""
        self.referee.step(now_us, frozen, {0: offset})

    def decisions(self) -> list[str]:
        """Of the audit record."""
        return [entry["decision"] for entry in self.audit.entries()]


@pytest.fixture
def court(tmp_path: Path) -> Court:
    return Court(tmp_path)


def crowd(split: Split, rates: dict[str, float], seed: int = 1, seconds: int = 160) -> list[bytes]:
    return messages(Crowd(split, rates, seed=seed).lists(START, seconds))


def test_a_better_arm_is_promoted_and_gateways_are_told(court: Court) -> None:
    split = court.start("new")
    assert [c.arm for c in court.told[-1].challengers] == ["new"]
    court.take(crowd(split, {"main": 0.2, "new": 0.4}))
    assert court.referee.book.split == Split("new")
    assert (court.told[-1].incumbent, list(court.told[-1].challengers)) == ("new", [])
    standing = court.referee.book.standings[0]
    assert (standing.state, standing.figures["lift_low"] > 0) == ("promoted", True)
    assert court.decisions() == ["trial_started", "arm_promoted", "trial_ended"]
    entry = court.audit.entries()[1]
    assert entry["arm"] == "new"
    assert {check["name"] for check in entry["checks"]} == {"coverage", "diversity", "top_item", "degraded"}


def test_a_worse_arm_is_dropped_and_its_shoppers_go_back(court: Court) -> None:
    split = court.start("new")
    court.take(crowd(split, {"main": 0.4, "new": 0.2}))
    assert court.referee.book.split == Split("main")
    assert court.referee.book.standings[0].reason.startswith("surely worse")


def test_of_two_challengers_the_dropped_ones_shoppers_return_and_the_others_stay_where_they_are(court: Court) -> None:
    split = court.start("new", "third", share=0.25)
    rates = {"main": 0.3, "new": 0.05, "third": 0.3}
    court.take(crowd(split, rates, seconds=160))
    after = court.referee.book.split
    assert [(c.arm, c.share) for c in after.challengers] == [("main", 0.25), ("third", 0.25)]
    users = [f"user{n}" for n in range(200)]
    assert [u for u in users if split.arm_of(u, START) == "third"] == [
        u for u in users if after.arm_of(u, START) == "third"
    ]
    assert not [u for u in users if after.arm_of(u, START) == "new"]
    assert [s.state for s in court.referee.book.standings] == ["dropped", "running"]


def test_an_equal_arm_is_never_promoted_and_ends_when_its_time_is_over(court: Court) -> None:
    split = court.start("new")
    court.take(crowd(split, {"main": 0.3, "new": 0.3}))
    assert court.referee.book.running
    court.look(0, now_us=START + 1_001 * SECOND)
    assert court.referee.book.standings[0].reason == "not surely better within the time given"
    assert court.referee.book.split == Split("main")


def test_a_better_arm_that_shows_one_item_to_all_is_not_promoted(court: Court) -> None:
    split = court.start("new")
    lists = Crowd(split, {"main": 0.2, "new": 0.4}).lists(START, 160)
    various = [
        Shown(s.user, s.time_us, s.arm, s.clicks, tuple(f"i{(n * 4 + k) % 400}" for k in range(4)))
        if s.arm == "main"
        else s
        for n, s in enumerate(lists)
    ]
    court.take(messages(various))
    assert court.referee.book.standings[0].reason.startswith("better, but coverage")
    assert court.referee.book.split == Split("main")


def test_while_releases_are_frozen_nothing_is_promoted(court: Court) -> None:
    split = court.start("new")
    values = crowd(split, {"main": 0.2, "new": 0.4})
    for offset, value in enumerate(values):
        court.referee.apply(0, offset, value, KEY)
    court.look(len(values), frozen=True)
    assert court.referee.book.running
    assert court.referee.book.standings[0].figures["lift_low"] > 0


@pytest.mark.parametrize("cut", [700, 3_333, 6_100])
def test_a_restart_counts_nothing_twice_and_loses_nothing(tmp_path: Path, cut: int) -> None:
    whole, broken = Court(tmp_path / "a"), Court(tmp_path / "b")
    split = whole.start("new")
    assert broken.start("new") == split
    values = crowd(split, {"main": 0.3, "new": 0.3})
    whole.take(values)
    broken.take(values, until=cut)
    resume = broken.restarted().book.counted.resume[0]
    assert resume <= cut
    broken.take(values, first=resume)
    assert broken.referee.book.counted.to_json() == whole.referee.book.counted.to_json()
    assert broken.referee.book.counted.late == 0


def test_a_repeated_message_and_one_that_cannot_be_read_change_nothing(tmp_path: Path) -> None:
    once, twice = Court(tmp_path / "a"), Court(tmp_path / "b")
    split = once.start("new")
    twice.start("new")
    values = crowd(split, {"main": 0.3, "new": 0.3}, seconds=100)
    once.take(values)
    for offset, value in enumerate(values):
        for again in (value, value, b"\x03\x01 no batch", None):
            twice.referee.apply(0, offset, again, KEY)
    twice.look(len(values))
    assert twice.referee.book.counted.units == once.referee.book.counted.units > 0
    assert twice.referee.book.counted.reward == once.referee.book.counted.reward


def test_programs_do_not_count_but_answers_without_a_model_do(court: Court) -> None:
    split = court.start("new")
    moments = [START + 10 * SECOND + n for n in range(50)]
    people = [Shown(f"user{n}", at, split.arm_of(f"user{n}", at)) for n, at in enumerate(moments)]
    robots = [Shown(f"bot{n}", at, "main", 4, weight=0.0) for n, at in enumerate(moments)]
    popular = [
        Shown(f"late{n}", at, "main", weight=0.0, degradation=DEGRADATION_POPULAR) for n, at in enumerate(moments)
    ]
    later = [Shown("user0", START + 100 * SECOND, "main")]
    court.take(messages([*people, *robots, *popular, *later]))
    assert court.referee.book.counted.units == 100
    assert court.referee.book.counted.reward == 0


def test_what_was_served_before_gateways_knew_does_not_count_and_strays_are_told(court: Court) -> None:
    split = court.start("new")
    other = {"main": "new", "new": "main"}
    early = [Shown(f"user{n}", START + SECOND, "main", 1) for n in range(20)]
    strays = [Shown(f"user{n}", at, other[split.arm_of(f"user{n}", at)]) for n in range(20) for at in [START + STICKY]]
    later = [Shown("user0", START + 100 * SECOND, "main")]
    court.take(messages([*early, *strays, *later]))
    assert (court.referee.book.counted.units, court.referee.periods.strayed) == (20, 21 - _right(split, later))


def _right(split: Split, shown: list[Shown]) -> int:
    return sum(split.arm_of(s.user, s.time_us) == s.arm for s in shown)


def test_a_forgotten_shopper_leaves_the_open_period(court: Court) -> None:
    court.start("new")
    for offset, value in enumerate(messages([Shown("ann", START + STICKY, "main", 1)])):
        court.referee.apply(0, offset, value, KEY)
    forget = {"src_offset": [99], "src_index": [0], "kind": [records.FORGET], "user": ["ann"]}
    court.referee.apply(0, 99, records.encode(records.batch_of(records.EXAMPLES, forget)), KEY)
    court.take(messages([Shown("bob", START + 5 * STICKY, "main")] * 1))
    assert court.referee.book.counted.units == 0


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        pytest.param(StartTrialRequest(), "challengers", id="nobody"),
        pytest.param(StartTrialRequest(challengers=["main"]), "challengers[0]", id="the incumbent"),
        pytest.param(StartTrialRequest(challengers=["new", "new"]), "challengers[0]", id="twice"),
        pytest.param(StartTrialRequest(challengers=["../x"]), "challengers[0]", id="a path"),
        pytest.param(StartTrialRequest(challengers=["new"], share=0.95), "share", id="all shoppers"),
        pytest.param(StartTrialRequest(challengers=["new"], share=-1), "share", id="negative share"),
        pytest.param(StartTrialRequest(challengers=["new"], error=0.9), "error", id="any error"),
        pytest.param(StartTrialRequest(challengers=["new"], sticky_us=5), "sticky_us", id="never sticky"),
        pytest.param(StartTrialRequest(challengers=["new"], least_us=9, most_us=5), "least_us", id="ends before"),
        pytest.param(StartTrialRequest(challengers=["new"], reward={"click": -1}), "reward[click]", id="punished"),
    ],
)
def test_terms_that_make_no_sense_name_their_field(court: Court, request_: StartTrialRequest, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        court.referee.start(request_, START)
    assert caught.value.field == field
    assert not court.referee.book.running


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda r: r.start(StartTrialRequest(challengers=["nobody"]), START), NotFound),
        (lambda r: r.stop(StopTrialRequest(), START), Conflict),
        (lambda r: r.promote(PromoteArmRequest(arm="main"), START), Conflict),
        (lambda r: r.promote(PromoteArmRequest(arm="nobody"), START), NotFound),
    ],
)
def test_what_cannot_be_done_is_refused(court: Court, act: Callable[[Referee], None], error: type[Exception]) -> None:
    with pytest.raises(error):
        act(court.referee)
    assert court.referee.book.split == Split("main")


def test_a_person_ends_a_trial_or_promotes_and_a_second_one_waits(court: Court) -> None:
    court.start("new")
    with pytest.raises(Conflict):
        court.start("third")
    court.referee.stop(StopTrialRequest(actor="ada"), START + SECOND)
    assert court.referee.book.standings[0].state == books.STOPPED
    court.referee.promote(PromoteArmRequest(arm="third", actor="ada"), START + 2 * SECOND)
    assert court.restarted().book.split == Split("third")
    court.start("main")
    assert court.referee.book.split.challengers == (Share("main", 0.3),)


def test_gateways_are_told_again_when_the_broker_was_away(tmp_path: Path) -> None:
    away, told = [True], list[ArmSplit]()

    def publish(split: ArmSplit) -> None:
        if away[0]:
            raise TemporaryError("away")
        told.append(split)

    referee = Referee(tmp_path / "arms.json", Audit(tmp_path / "a.jsonl"), publish, lambda: {"main": "r", "new": "q"})
    with pytest.raises(TemporaryError):
        referee.start(StartTrialRequest(challengers=["new"]), START)
    away[0] = False
    referee.sync(START)
    referee.sync(START)
    assert [[c.arm for c in split.challengers] for split in told] == [["new"]]
