"""Partitions added to a log: what follows is what would have been with as many from the start."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import Conflict
from services.common.ids import partition_of
from services.common.plans import ViewPlan
from services.common.records import FORGET, IMPRESSION, Message
from services.common.snapshots import pack, unpack
from services.common.stage import Snapshot
from services.common.topics import INTERACTIONS, ITEM_INTERACTIONS
from services.features.by_item import ItemFold
from services.features.by_user import UserFold
from services.features.fold import Outputs, ViewsFold
from services.features.reshard import Move, resharded
from tests.features.makers import HOUR, MINUTE, START, Row, event, feature, message, same, tick, values_of, view_of
from tests.features.test_functions import CASES, ITEM_CASES, QUERY_CASES, rows
from tests.features.test_restart import renamed

USERS = [f"u{n}" for n in range(9)]
SEARCH = 6
LAST = tick(START + 5 * HOUR)


def plan() -> list[ViewPlan]:
    """A feature of each function, by user, session, shopper and category, by item, and by query."""
    first = {(case.function, case.view): case for case in (*CASES, *ITEM_CASES, *QUERY_CASES)}
    named = [renamed(number, case) for number, case in enumerate(first.values())]
    views = dict.fromkeys(one.view for one in named)
    return [view_of(*(one for one in named if one.view == view)) for view in views]


@st.composite
def theirs(draw: st.DrawFn) -> Row:
    """A row of one of many shoppers, each with a session of their own.

    Searches have none: which of them is given up depends on the clock, and each partition has its own.
    """
    user, row = draw(st.sampled_from(USERS)), draw(rows())
    session = draw(st.sampled_from([None, f"s-{user}"])) if row["kind"] not in (SEARCH, IMPRESSION) else None
    return {**row, "user": user, "session": session}


many = st.lists(st.lists(theirs(), max_size=6), min_size=1, max_size=5)


class Installation:
    """The folds of all partitions, fed as ingest and the user stages would feed them."""

    def __init__(self, partitions: int, views: Sequence[ViewPlan]) -> None:
        self.partitions = partitions
        self.users: list[ViewsFold] = [UserFold(views, p, partitions) for p in range(partitions)]
        self.items: list[ViewsFold] = [ItemFold(views, partition=p, partitions=partitions) for p in range(partitions)]
        self.logs: dict[tuple[str, int], list[Message]] = {}
        self.values: dict[Any, Any] = {}
        self.written: list[tuple[str, str]] = []

    def take(self, batch: Sequence[Row]) -> None:
        """Rows of a batch, each on the partition of its shopper; a tick on all."""
        for number, fold in enumerate(self.users):
            mine = [r for r in batch if "user" not in r or partition_of(r["user"], self.partitions) == number]
            if mine:
                place = fold.next_offset
                sent = [
                    {**row, "src_offset": row.get("src_offset", place), "src_index": n} for n, row in enumerate(mine)
                ]
                self._keep(INTERACTIONS.name, number, message(place, sent))
                out = fold.apply([self.logs[INTERACTIONS.name, number][-1]])
                self._publish(out)
                for target, values in out.items.items():
                    for value in values:
                        one = Message(self.items[target].next_offset, value)
                        self._keep(ITEM_INTERACTIONS.name, target, one)
                        self._publish(self.items[target].apply([one]))

    def _keep(self, topic: str, number: int, one: Message) -> None:
        self.logs.setdefault((topic, number), []).append(one)

    def _publish(self, out: Outputs) -> None:
        for view in out.views:
            for field in view.columns:
                for key, value in values_of(view, field).items():
                    self.values[view.view, field, key] = value

    def reshard(self, after: int, epochs: Mapping[str, int] | None = None) -> None:
        """Go on with so many partitions, through the bytes of files."""
        for topic, folds in ((INTERACTIONS.name, self.users), (ITEM_INTERACTIONS.name, self.items)):
            old = {number: stored(fold.snapshot()) for number, fold in enumerate(folds) if fold.next_offset}
            made = dict(resharded(old, Move(topic, self.partitions, after, epochs or {})))
            opened = [new(topic, number, after) for number in range(after)]
            for number, fold in enumerate(opened):
                if number in made:
                    fold.restore(stored(made[number]))
            folds[:] = opened
        self.partitions = after


def new(topic: str, number: int, partitions: int) -> ViewsFold:
    """An empty fold."""
    if topic == INTERACTIONS.name:
        return UserFold([], number, partitions)
    return ItemFold([], partition=number, partitions=partitions)


def stored(snapshot: Snapshot) -> Snapshot:
    """Through the bytes of a file and back."""
    return unpack(pack(snapshot))


def assert_same(got: Mapping[Any, Any], want: Mapping[Any, Any]) -> None:
    """The same values under the same keys."""
    assert got.keys() == want.keys()
    assert [(path, want[path], got[path]) for path in want if not same(want[path], got[path])] == []


@given(log=many, rest=many, steps=st.sampled_from([(2, 5), (2, 3), (1, 4), (2, 4), (2, 3, 5)]))
@settings(max_examples=25)
def test_values_go_on_as_if_there_had_been_as_many_partitions_from_the_start(
    log: list[list[Row]], rest: list[list[Row]], steps: tuple[int, ...]
) -> None:
    shadow, moved = Installation(steps[-1], plan()), Installation(steps[0], plan())
    for batch in [*log, [tick(START + 3 * HOUR)]]:
        shadow.take(batch)
        moved.take(batch)
    for after in steps[1:]:
        moved.reshard(after)
        for batch in rest:
            shadow.take(batch)
            moved.take(batch)
    for last in (tick(START + 3 * HOUR + 1), LAST):
        shadow.take([last])
        moved.take([last])
        assert_same(moved.values, shadow.values)
    for mine, their in zip([*moved.users, *moved.items], [*shadow.users, *shadow.items], strict=True):
        held = {name: set(view.keys.names(view.keys.used())) for name, view in mine.views.items()}
        assert held == {name: set(view.keys.names(view.keys.used())) for name, view in their.views.items() if held}


def test_clocks_that_differ_become_the_newest_as_if_a_tick_had_come() -> None:
    count = view_of(feature("count", value_type="INT64"))
    moved = Installation(2, [count])
    moved.take([event(START, user=user) for user in USERS])
    late = next(user for user in USERS if partition_of(user, 2) == 0)
    moved.take([event(START + 2 * HOUR, user=late)])
    moved.reshard(3)
    assert {fold.clock_us for fold in moved.users} == {START + 2 * HOUR}
    moved.take([tick(START + 2 * HOUR)])
    assert {key[0]: value for (_, _, key), value in moved.values.items()} == {u: int(u == late) for u in USERS}


def test_of_two_events_of_one_moment_the_one_after_the_reshard_is_the_newer() -> None:
    listed = view_of(feature("last_n", "item", "STRING_LIST", n="3"))
    moved = Installation(2, [listed])
    mover = next(user for user in USERS if partition_of(user, 2) != partition_of(user, 5))
    for item in ("a", "b"):
        moved.take([event(START, user=mover, item=item)])
    moved.reshard(5)
    moved.take([event(START, user=mover, item="c")])
    assert moved.values["stats", "f", (mover,)] == ["c", "b", "a"]


def test_a_search_is_given_up_although_its_visit_moved_meanwhile() -> None:
    given_up = feature("count", value_type="INT64", view="q", join_keys=("query",), where="kind == 'reformulation'")
    moved = Installation(2, [view_of(given_up)])
    moved.take([event(START, SEARCH, user, session=f"s-{user}", query="red") for user in USERS])
    moved.take([event(START, 2, "u0", session="s-u0", query="red", item="i")])
    moved.reshard(5)
    moved.take([event(START + MINUTE, SEARCH, user, session=f"s-{user}", query="blue") for user in USERS])
    assert moved.values["q", "f", ("red",)] == len(USERS) - 1
    moved.take([tick(START + 10 * MINUTE)])
    assert [fold.visits.save() for fold in moved.users if isinstance(fold, UserFold)] == [[]] * 5


def test_what_was_sent_before_is_dropped_after_the_reshard() -> None:
    count = view_of(feature("count", value_type="INT64", view="items", join_keys=("item_id",)))
    moved = Installation(2, [count])
    items = [f"i{n}" for n in range(12)]
    moved.take([event(START + n, user=user, item=item) for n, item in enumerate(items) for user in USERS])
    rows_before = [message for (topic, _), log in moved.logs.items() if topic == INTERACTIONS.name for message in log]
    moved.reshard(5)
    again = UserFold([], 0, 5)  # a sender that has lost its newest snapshots
    out = again.apply([next(one for one in rows_before if one in moved.logs[INTERACTIONS.name, 0])])
    for target, values in out.items.items():
        for value in values:
            moved._publish(moved.items[target].apply([Message(moved.items[target].next_offset, value)]))
    before = dict(moved.values)
    moved.take([tick(START + MINUTE)])
    assert moved.values == before == {("items", "f", (item,)): len(USERS) for item in items}


def test_a_shopper_who_moved_is_forgotten_with_their_sessions_and_in_later_back_fills() -> None:
    distinct = feature("count_distinct", "item", "INT64", name="d")
    by_session = feature("count", value_type="INT64", view="by_session", join_keys=("session_id",))
    views = [view_of(distinct), view_of(by_session)]
    moved = Installation(2, views)
    mover = next(user for user in USERS if partition_of(user, 2) != partition_of(user, 5))
    moved.take([event(START + n, user=user, session=f"s-{user}", item=f"i{n}") for n in range(3) for user in USERS])
    moved.reshard(5)
    moved.take([{"kind": FORGET, "time_us": START + MINUTE, "user": mover, "received_us": 0}])
    added = feature("count", "item", "INT64", name="g")
    for number, fold in enumerate(moved.users):
        fold.replan([view_of(distinct, added), view_of(by_session)], lambda _: False)
        fill(moved, INTERACTIONS.name, number, fold)
    moved.take([tick(START + 2 * MINUTE)])
    for user in USERS:
        held = 0 if user == mover else 3
        assert moved.values["stats", "d", (user,)] == held
        assert moved.values["by_session", "f", (f"s-{user}",)] == held
        assert user == mover or moved.values["stats", "g", (user,)] == 3
    assert (mover,) not in moved.users[partition_of(mover, 5)].views["stats"].keys.names(
        moved.users[partition_of(mover, 5)].views["stats"].keys.used()
    )


def test_a_forget_holds_for_a_back_fill_that_reads_it_before_what_it_forgets() -> None:
    count, added = feature("count", value_type="INT64"), feature("count", "item", "INT64", name="g")
    moved = Installation(2, [view_of(count)])
    names = [f"u{n}" for n in range(200)]
    away = next(u for u in names if partition_of(u, 2) == partition_of(u, 4) == 1 and partition_of(u, 3) == 0)
    moved.take([event(START, user=away, item="i")])
    moved.reshard(3)  # to partition 0, whose log is read first
    moved.take([{"kind": FORGET, "time_us": START + MINUTE, "user": away, "received_us": 0}])
    moved.take([event(START + 10 * MINUTE, user=user, item="i") for user in (*USERS, away)])
    moved.reshard(4)  # and back
    for number, fold in enumerate(moved.users):
        fold.replan([view_of(count, added)], lambda _: False)
        fill(moved, INTERACTIONS.name, number, fold)
    moved.take([tick(START + 11 * MINUTE)])
    assert {(path[1], value) for path, value in moved.values.items() if path[2] == (away,)} == {("f", 1), ("g", 1)}


def test_marks_take_the_epochs_under_which_everything_is_written_again() -> None:
    count = view_of(feature("count", value_type="INT64"))
    moved = Installation(2, [count])
    for fold in moved.users:
        fold.marks = {"stats": [3, "run"]}
    moved.take([event(START, user=user) for user in USERS])
    moved.reshard(3, {"stats": 4})
    assert [fold.marks for fold in moved.users] == [{"stats": [4, "run"]}] * 3
    assert sum(fold.views["stats"].overdue() for fold in moved.users) == len(USERS)


@given(log=many, rest=many, later=many)
@settings(max_examples=15)
def test_a_feature_added_after_a_reshard_is_filled_from_the_logs_its_keys_were_on(
    log: list[list[Row]], rest: list[list[Row]], later: list[list[Row]]
) -> None:
    shadow = Installation(3, plan())
    moved = Installation(2, [view_of(feature("count", value_type="INT64", name="before"))])
    for batch in [*log, [tick(START + 3 * HOUR)]]:
        shadow.take(batch)
        moved.take(batch)
    moved.reshard(3)
    for batch in rest:
        shadow.take(batch)
        moved.take(batch)
    for topic, folds in ((INTERACTIONS.name, moved.users), (ITEM_INTERACTIONS.name, moved.items)):
        for number, fold in enumerate(folds):
            fold.replan(plan(), lambda _: False)
            fill(moved, topic, number, fold)
    moved.values.clear()
    shadow.values.clear()
    for fold in (*shadow.users, *shadow.items):
        for view in fold.views.values():
            view.publish_all()
    for batch in [*later, [tick(START + 3 * HOUR + 1)]]:
        shadow.take(batch)
        moved.take(batch)
    # Keys that hold nothing are published once more by one of the two.
    assert_same({path: moved.values.get(path) for path in shadow.values}, shadow.values)
    for mine, their in zip([*moved.users, *moved.items], [*shadow.users, *shadow.items], strict=True):
        assert [len(view.keys) for view in mine.views.values()] == [len(view.keys) for view in their.views.values()]


def fill(on: Installation, topic: str, number: int, fold: ViewsFold) -> None:
    """As `Pickup` does it."""
    for view, group in fold.unfilled():
        filler = fold.filler(view, group)
        for partition, end in fold.logs(number, group):
            filler.begin_log()
            for one in on.logs.get((topic, partition), []):
                if one.offset < end:
                    filler.apply([one])
        assert fold.fill(view, group, filler)


def test_state_that_waits_for_its_past_is_not_moved() -> None:
    moved = Installation(2, [view_of(feature("count", value_type="INT64"))])
    moved.take([event(START, user=user) for user in USERS])
    added = feature("count", "item", "INT64", name="g", window_us=10 * MINUTE)
    moved.users[1].replan([view_of(feature("count", value_type="INT64"), added)], lambda _: False)
    with pytest.raises(Conflict, match="interactions-1: view stats waits for its back-fill"):
        moved.reshard(3)


def test_partitions_that_were_planned_in_other_steps_are_not_moved() -> None:
    one, two = feature("count", value_type="INT64"), feature("count", "item", "INT64", name="g")
    moved = Installation(2, [view_of(one)])
    moved.take([event(START, user=user) for user in USERS])
    moved.users[1].views = UserFold([view_of(one, two)], 1, 2).views
    with pytest.raises(Conflict, match="planned in other steps"):
        moved.reshard(3)
