"""The state of the joiner on more partitions: snapshots in, snapshots out, and a spill file beside each.

Impressions, clicked rows and held actions go to the partition of their shopper, whose id is in each of them. Offsets
begin anew there, so what is moved gets places below 0: before all that follows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from freshrank.v1.events_pb2 import Impression

from services.common.errors import Conflict, CorruptState
from services.common.ids import partition_of
from services.common.stage import Snapshot
from services.joiner.spill import Spill

BEFORE_ALL = -1
"""Place of a clicked row."""

OpenSpill = Callable[[int], Spill]
"""The spill file of a partition."""

Progress = Callable[[int], None]
"""So many rows more are moved."""


@dataclass
class _Part:
    """What a new partition gets."""

    spill: Spill
    entries: list[tuple[int, int, int]] = field(default_factory=list)
    """Old partition, entry in its snapshot, new place."""
    held: list[dict[str, Any]] = field(default_factory=list)
    clicked: int = 0


def resharded(
    old: Mapping[int, Snapshot], after: int, opened: OpenSpill, made: OpenSpill, moved: Progress = lambda _: None
) -> Iterator[tuple[int, Snapshot]]:
    """A snapshot for each of `after` partitions; `opened` and `made` give the spill files, old and new.

    The clocks become the newest of all: as if a tick of that time had come to each partition. Raises Conflict when a
    spill file does not hold what its snapshot says.
    """
    parts = [_Part(made(partition)) for partition in range(after)]
    places = iter(range(-2 - sum(len(snapshot.arrays["open.weights"]) for snapshot in old.values()), BEFORE_ALL))
    try:
        with ExitStack() as steps:
            for part in parts:
                steps.enter_context(part.spill.step(lambda: 0))
            for partition, snapshot in old.items():
                with closing(opened(partition)) as spill:
                    _move_open(partition, snapshot, spill, parts, places, moved)
                    _move_clicked(snapshot, spill, parts, moved)
                _move_held(partition, snapshot, parts)
        for partition, part in enumerate(parts):
            yield partition, _snapshot(partition, part, old)
    finally:
        for part in parts:
            part.spill.close()


def _home(payload: bytes, parts: Sequence[_Part]) -> _Part:
    return parts[partition_of(Impression.FromString(payload).user_id, len(parts))]


def _move_open(
    partition: int, snapshot: Snapshot, spill: Spill, parts: Sequence[_Part], places: Iterator[int], moved: Progress
) -> None:
    waiting = {row.tobytes(): number for number, row in enumerate(snapshot.arrays["open.keys"])}
    try:
        for key, _, payload in spill.waiting(snapshot.next_offset):
            part, place = _home(payload, parts), next(places)
            part.spill.put(place, key, payload)
            part.entries.append((partition, waiting.pop(key), place))
            moved(1)
    except (CorruptState, KeyError, StopIteration) as error:
        raise _unfit(partition) from error
    if waiting:
        raise _unfit(partition)


def _unfit(partition: int) -> Conflict:
    return Conflict(
        f"joiner, interactions-{partition}: its spill file does not hold what its snapshot says: start the joiner,"
        " and stop it when it has read everything"
    )


def _move_clicked(snapshot: Snapshot, spill: Spill, parts: Sequence[_Part], moved: Progress) -> None:
    for key, item, row in spill.kept(snapshot.next_offset):
        part = _home(row.payload, parts)
        part.spill.keep(BEFORE_ALL, key, item, row)
        part.clicked += 1
        moved(1)


def _move_held(partition: int, snapshot: Snapshot, parts: Sequence[_Part]) -> None:
    for action in snapshot.meta["held"]:
        origin = action.get("partition", -1)
        entry = {**action, "partition": partition if origin < 0 else origin}
        parts[partition_of(action["user"], len(parts))].held.append(entry)


def _snapshot(partition: int, part: _Part, old: Mapping[int, Snapshot]) -> Snapshot:
    own = old.get(partition)
    next_offset = own.next_offset if own is not None else 0
    part.spill.begin_at(next_offset)
    meta = {
        "clock_us": max((snapshot.meta["clock_us"] for snapshot in old.values()), default=0),
        "swept_us": max((snapshot.meta["swept_us"] for snapshot in old.values()), default=0),
        "taken": own.meta["taken"] if own is not None else [-1, -1],
        "clicked_rows": part.clicked,
        "held": sorted(part.held, key=lambda action: int(action["until_us"])),
    }
    return Snapshot(next_offset, _arrays(part, old), meta)


def _arrays(part: _Part, old: Mapping[int, Snapshot]) -> dict[str, Any]:
    columns = {name: [old[p].arrays[name][n] for p, n, _ in part.entries] for name in ("open.keys", "open.weights")}
    numbers = [(*old[p].arrays["open.numbers"][n][:3].tolist(), place) for p, n, place in part.entries]
    numbered = {(p, n): at for at, (p, n, _) in enumerate(part.entries)}
    labels = [
        (numbered[p, n], item, bits)
        for p in sorted({p for p, _, _ in part.entries})
        for n, item, bits in old[p].arrays["open.labels"].tolist()
        if (p, n) in numbered
    ]
    return {
        "open.keys": np.array(columns["open.keys"], np.uint8).reshape(-1, 16),
        "open.numbers": np.array(numbers, np.int64).reshape(-1, 4),
        "open.weights": np.array(columns["open.weights"], np.float64),
        "open.labels": np.array(labels, np.int64).reshape(-1, 3),
    }
