"""The watch over a new encoder: a worse one is taken back, one as good is not, and little data says nothing."""

from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.events_pb2 import Impression, ImpressionItem

from services.publisher.encoders.watch import SearchBounds, SearchWatch, counts
from services.publisher.replay import Closed
from services.text.names import keeps_before
from tests.publisher.encoders.parts import NOW, Log, Made, Stage
from tests.publisher.encoders.test_encoders import items

SHARE = 0.3
BOUNDS = SearchBounds(share=SHARE, watch_us=3_600_000_000)
HOUR_US = 3_600_000_000


def search(user: str, clicked: bool, time_us: int = NOW + 1_000_000_000, **others: object) -> Closed:
    said = {"query": "red shoe", "closed_loop": True, **others}
    shown = [ImpressionItem(item_id="a", shown=True), ImpressionItem(item_id="b", position=1, shown=True)]
    impression = Impression(user_id=user, time_us=time_us, items=shown, **said)  # type: ignore[arg-type]
    return Closed(impression, (0, 1), (0, int(clicked)), ("click",))


def shoppers(watch: SearchWatch, now: float, before: float, count: int, seed: int = 0) -> None:
    """So many search once; a click comes with one probability from the new encoder's answers, another from the old."""
    chance = np.random.default_rng(seed)
    for n in range(count):
        user = f"{seed}-{n}"
        rate = before if keeps_before(user, SHARE) else now
        watch.labelled(search(user, bool(chance.random() < rate)))


def test_a_worse_encoder_is_noticed() -> None:
    watch = SearchWatch(BOUNDS)
    shoppers(watch, 0.2, 0.5, 1_000)
    verdict = watch.step("t2", NOW)
    assert not verdict.passed
    assert verdict.reason.startswith("found")
    figures = watch.figures()
    assert figures["shoppers"] + figures["shoppers_before"] == 1_000
    assert figures["found"] == pytest.approx(0.2, abs=0.05)
    assert figures["found_before"] == pytest.approx(0.5, abs=0.08)


def test_one_as_good_is_almost_never_stopped_however_often_one_looks() -> None:
    stopped = 0
    for seed in range(100):
        watch, passed = SearchWatch(BOUNDS), True
        for look in range(20):
            shoppers(watch, 0.4, 0.4, 60, seed=1_000 * seed + look)
            passed &= watch.step("t2", NOW).passed
        stopped += not passed
    assert stopped <= 5  # 2 % are allowed: more than 5 of 100 has a chance of 1.5 %


def test_few_shoppers_say_nothing() -> None:
    watch = SearchWatch(BOUNDS)
    shoppers(watch, 0.0, 1.0, 100)
    verdict = watch.step("t2", NOW)
    assert verdict.passed
    assert "not judged" in verdict.checks[0].detail


def test_a_shopper_counts_once_and_only_since_the_switch() -> None:
    watch = SearchWatch(BOUNDS)
    for _ in range(3):
        watch.labelled(search("ada", True))
    watch.labelled(search("bo", True, time_us=NOW - 1))
    watch.step("t2", NOW)
    assert watch.figures()["shoppers"] + watch.figures()["shoppers_before"] == 1
    watch.step("t3", NOW)
    assert watch.figures()["shoppers"] + watch.figures()["shoppers_before"] == 0


@pytest.mark.parametrize("others", [{"query": ""}, {"closed_loop": False}, {"page": 1}])
def test_only_first_pages_of_answers_to_searches_count(others: dict[str, object]) -> None:
    assert counts(search("ada", True).impression)
    assert not counts(search("ada", True, **others).impression)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("encoders"))


@pytest.fixture
def watched(tmp_path: Path, made: Made) -> Stage:
    """A second encoder has just taken the place of the first."""
    log = Log()
    log.entries(*items())
    stage = Stage(tmp_path / "store", log, BOUNDS)
    made.candidate(stage.root)
    stage.steps()
    assert not stage.outside.routes[-1].HasField("before")  # the first is compared with nobody
    made.candidate(stage.root, seed=1, day=2)
    stage.steps()
    return stage


def test_some_shoppers_keep_the_one_before_until_its_time_is_over(watched: Stage) -> None:
    book, route = watched.encoders.book, watched.outside.routes[-1]
    assert book.serving is not None
    assert book.previous is not None
    assert (route.encoder, route.before.encoder) == (book.serving.encoder, book.previous.encoder)
    assert (route.before.slot, route.before.epoch, list(route.before.at)) == ("ta", 1, ["one"])
    assert route.before.share == pytest.approx(SHARE)
    watched.again()
    watched.steps()
    assert watched.outside.routes[-1].before.encoder == book.previous.encoder  # after a restart, too
    watched.steps(at_us=NOW + HOUR_US + 60_000_000)
    assert not watched.outside.routes[-1].HasField("before")
    assert watched.audit.entries()[-1]["decision"] == "watched"


def test_one_that_shoppers_find_less_by_is_taken_back(watched: Stage) -> None:
    second = watched.outside.routes[-1]
    shoppers(watched.watch, 0.2, 0.6, 1_000)
    watched.steps()
    route = watched.outside.routes[-1]
    assert (route.encoder, route.HasField("before")) == (second.before.encoder, False)
    entry = watched.audit.entries()[-1]
    assert (entry["decision"], entry["actor"]) == ("rolled_back", "watch")
    assert entry["checks"][0]["passed"] is False


def test_a_candidate_waits_until_the_watch_is_over(watched: Stage, made: Made) -> None:
    serving = watched.outside.routes[-1].encoder
    third = made.candidate(watched.root, seed=2, day=3)
    watched.steps()
    assert watched.outside.routes[-1].encoder == serving
    watched.steps(at_us=NOW + HOUR_US + 60_000_000)
    assert watched.outside.routes[-1].encoder == third


def test_a_person_may_go_back_while_it_is_watched(watched: Stage) -> None:
    before = watched.outside.routes[-1].before.encoder
    watched.encoders.rollback("ada", "looks odd")
    watched.steps()
    assert (watched.outside.routes[-1].encoder, watched.encoders.book.switched_us) == (before, 0)


def test_a_route_that_another_lies_over_is_said_again(watched: Stage) -> None:
    said = len(watched.outside.routes)
    watched.steps()
    assert len(watched.outside.routes) == said
    watched.models.say_again()
    watched.steps()
    assert len(watched.outside.routes) == said + 1
    again, before = watched.outside.routes[-1], watched.outside.routes[-2]
    assert (again.encoder, again.epoch, again.before) == (before.encoder, before.epoch, before.before)
