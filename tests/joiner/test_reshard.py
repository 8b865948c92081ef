"""Partitions added to a log: the examples are those of as many from the start."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common import records
from services.common.errors import Conflict
from services.common.ids import partition_of
from services.common.records import Message
from services.common.snapshots import pack, unpack
from services.common.stage import Snapshot
from services.joiner.examples import Outputs
from services.joiner.fold import JoinerFold
from services.joiner.reshard import resharded
from services.joiner.sample import Sampling
from services.joiner.spill import Spill, open_spill
from tests.joiner.makers import (
    BUY,
    CLICK,
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    T0,
    Row,
    action,
    encoded,
    examples,
    forget,
    letters,
    rules,
    shown,
    tick,
)
from tests.joiner.test_restart import history

RULES = rules(sampling=Sampling(rate=0.7))
USERS = [f"user-{n}" for n in range(8)]


class Installation:
    """The folds of all partitions, with their files."""

    def __init__(self, folder: Path, partitions: int) -> None:
        self.folder, self.partitions = folder, partitions
        self.folds = [self.open(number, None) for number in range(partitions)]
        self.outs: list[Outputs] = []

    def path(self, number: int) -> Path:
        """The spill file of a partition."""
        return self.folder / f"of-{self.partitions}-{number}.sqlite"

    def open(self, number: int, snapshot: Snapshot | None) -> JoinerFold:
        """As the stage does it."""
        at = (snapshot.next_offset, len(snapshot.arrays["open.weights"])) if snapshot is not None else (None, 0)
        spill, fits = open_spill(self.path(number), *at)
        assert fits
        return JoinerFold(number, RULES, spill, snapshot)

    def take(self, rows: Sequence[Row]) -> None:
        """Rows one after the other, each behind a tick of its time on every partition: the clocks are always equal."""
        for row in rows:
            for number, fold in enumerate(self.folds):
                place = fold.next_offset
                mine = [tick(row["time_us"])]
                if "user" in row and partition_of(row["user"], self.partitions) == number:
                    mine.append({"src_offset": place, **row})
                mine = [{"src_index": 0, "received_us": one["time_us"], "verdict": 0, **one} for one in mine]
                self.outs.append(fold.apply([Message(place, encoded(mine))]))

    def reshard(self, after: int) -> None:
        """Go on with so many partitions, through the bytes of files."""
        old = {number: unpack(pack(fold.snapshot())) for number, fold in enumerate(self.folds) if fold.next_offset}
        before, paths = self.partitions, {number: self.path(number) for number in old}
        self.partitions = after
        made = dict(resharded(old, after, lambda p: Spill(paths[p]), lambda p: Spill(self.path(p))))
        assert before < after
        self.folds = [self.open(number, unpack(pack(made[number]))) for number in range(after)]


def told(outs: Sequence[Outputs]) -> Counter[Any]:
    """The examples and letters, wherever they came from."""
    own = ("src_offset", "src_index")
    rows = [tuple((name, str(value)) for name, value in row.items() if name not in own) for row in examples(*outs)]
    refused = [(letter.reason, records.decode(letter.payload).to_pylist()[0]) for letter in letters(*outs)]
    return Counter([*rows, *((reason, row["user"], row["time_us"], row["token"]) for reason, row in refused)])


def spread(seed: int) -> list[Row]:
    """Some hours and days of many shoppers, two of them in each history."""
    rows: list[Row] = []
    for n, (first, second) in enumerate(zip(USERS[::2], USERS[1::2], strict=True)):
        rows += [renamed(row, {"ada": first, "bob": second}, 100 * n) for row in history(seed + n, impressions=6)]
    return sorted(rows, key=lambda row: row["time_us"])


def renamed(row: Row, names: dict[str, str], numbers: int) -> Row:
    """The same row by another shopper, of other impressions."""
    if "user" not in row:
        return row
    user, at = names[row["user"]], row["time_us"]
    if "impression" in row:
        return shown(int(row["event_id"], 16) + numbers, at, user)
    if "token" in row:
        from services.common.tokens import impression_of, issued_us

        answers = int(impression_of(row["token"]), 16) + numbers
        item = int(row["item"].removeprefix("item-"))
        return action(row["kind"], at, answers, item, user=user, issued_us=issued_us(row["token"]))
    return forget(user, at)


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([(2, 5), (2, 3), (1, 4), (2, 3, 5)]))
def test_examples_go_on_as_if_there_had_been_as_many_partitions_from_the_start(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cut: float, steps: tuple[int, ...]
) -> None:
    rows = spread(seed)
    shadow = Installation(tmp_path_factory.mktemp("shadow"), steps[-1])
    shadow.take(rows)
    moved = Installation(tmp_path_factory.mktemp("moved"), steps[0])
    place, part = int(cut * len(rows)), len(rows) // 10
    moved.take(rows[:place])
    for after in steps[1:]:
        moved.reshard(after)
        moved.take(rows[place : place + part])
        place += part
    moved.take(rows[place:])
    assert told(moved.outs) == told(shadow.outs)
    assert sum(o.spilled_rows for o in moved.outs[-steps[-1] :]) == sum(
        o.spilled_rows for o in shadow.outs[-steps[-1] :]
    )


def mover(before: int, after: int) -> str:
    """A shopper whose partition changes."""
    return next(user for user in USERS if partition_of(user, before) != partition_of(user, after))


def test_a_click_and_a_purchase_after_the_reshard_flip_what_was_shown_before(tmp_path: Path) -> None:
    user = mover(2, 3)
    on = Installation(tmp_path, 2)
    on.take([shown(1, T0, user), shown(2, T0 + SECOND, user), action(CLICK, T0 + 2 * SECOND, 1, user=user)])
    on.take([tick(T0 + 20 * MINUTE)])
    on.take([shown(3, T0 + 21 * MINUTE, user)])
    on.reshard(3)
    on.outs.clear()
    later = T0 + 22 * MINUTE
    on.take([action(CLICK, later, 3, user=user, issued_us=T0 + 21 * MINUTE), action(BUY, T0 + DAY, 1, user=user)])
    flips = [row for row in examples(*on.outs) if row["kind"] == 1]
    assert [(row["impression_id"][-1], row["labels"]) for row in flips] == [("3", [1]), ("1", [4])]


def test_a_flip_after_the_click_window_is_known_after_the_reshard(tmp_path: Path) -> None:
    user = mover(2, 3)
    on = Installation(tmp_path, 2)
    on.take([shown(1, T0, user), action(CLICK, T0 + SECOND, 1, user=user), action(BUY, T0 + HOUR, 1, user=user)])
    on.reshard(3)
    on.outs.clear()
    on.take([action(BUY, T0 + 2 * HOUR, 1, user=user)])
    assert examples(*on.outs) == []
    assert sum(out.actions["repeated"] for out in on.outs) == 1


def test_an_action_that_waits_for_its_impression_finds_it_and_a_letter_names_its_old_place(tmp_path: Path) -> None:
    user = mover(2, 3)
    old = partition_of(user, 2)
    on = Installation(tmp_path, 2)
    on.take([action(CLICK, T0, 1, user=user), action(CLICK, T0 + SECOND, 2, user=user)])
    on.reshard(3)
    on.outs.clear()
    on.take([shown(1, T0 + 2 * SECOND, user), tick(T0 + HOUR)])
    assert [row["labels"] for row in examples(*on.outs) if row["kind"] == 1] == [[1]]
    (letter,) = letters(*on.outs)
    assert (letter.partition, letter.offset, letter.reason) == (old, 1, "unknown_impression")


def test_a_spill_file_that_does_not_hold_what_its_snapshot_says_is_refused(tmp_path: Path) -> None:
    on = Installation(tmp_path, 2)
    on.take([shown(n, T0 + n, user) for n, user in enumerate(USERS)])
    for fold in on.folds:
        fold.snapshot()
    on.path(1).unlink()
    with pytest.raises(Conflict, match="joiner, interactions-1: its spill file"):
        on.reshard(3)
