"""The state of features on more partitions. Pure: snapshots in, snapshots out.

A key goes with all that its groups hold to the partition of its shopper or item. Offsets of the log begin anew there,
so every value is published again, under epochs that the caller raises in the online store.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.common.errors import Conflict
from services.common.ids import partition_of
from services.common.layout import sources
from services.common.stage import Snapshot
from services.common.topics import INTERACTIONS, ITEM_INTERACTIONS
from services.features.aggregates import Ints
from services.features.asked import joined
from services.features.by_item import ItemFold
from services.features.by_user import UserFold
from services.features.fold import ViewsFold
from services.features.keys import Keys
from services.features.searches import Visits
from services.features.stays import Stays
from services.features.views import ViewState


@dataclass(frozen=True)
class Move:
    """What is moved, and to how many partitions."""

    topic: str
    before: int
    after: int
    epochs: Mapping[str, int]
    """Epoch of each view from now on; a view that is not named keeps its own."""


def resharded(old: Mapping[int, Snapshot], move: Move) -> Iterator[tuple[int, Snapshot]]:
    """A snapshot for each partition from those of all old ones; partitions without one have folded nothing.

    The clocks become the newest of all: as if a tick of that time had come to each partition. Raises Conflict when
    state cannot be moved, before the first snapshot is given.
    """
    folds = {partition: _opened(move.topic, partition, move.before, snapshot) for partition, snapshot in old.items()}
    views = _same_views(folds)
    clock_us = max((fold.clock_us for fold in folds.values()), default=0)
    homes = {
        (partition, name): _homes(view.keys, partition, move.after)
        for partition, fold in folds.items()
        for name, view in fold.views.items()
    }
    for partition in range(move.after):
        made = _new(move.topic, partition, move.after)
        made.clock_us = clock_us
        made.views = {name: view.empty(made.interner) for name, view in views.items()}
        for source in sources(partition, move.before, move.after):
            for name, view in folds[source].views.items() if source in folds else ():
                moved = np.flatnonzero(homes[source, name] == partition)
                if len(moved):
                    made.views[name].adopt(view, moved, clock_us)
        _take_over(made, folds, _is_of(partition, move.after))
        yield partition, _settled(made, partition, folds, move)


def _is_of(partition: int, partitions: int) -> Callable[[str], bool]:
    return lambda key: partition_of(key, partitions) == partition


def _take_over(made: ViewsFold, folds: Mapping[int, ViewsFold], mine: Callable[[str], bool]) -> None:
    """What a fold knows beside its views: queries that gateways were told, what each visit did last."""
    if isinstance(made, ItemFold):
        made.asked = joined([fold.asked for fold in folds.values() if isinstance(fold, ItemFold)], mine)
    if isinstance(made, UserFold):
        users = [fold for fold in folds.values() if isinstance(fold, UserFold)]
        made.visits = Visits([visit for fold in users for visit in fold.visits.of(mine)], made.clock_us)
        made.stays = Stays([stay for fold in users for stay in fold.stays.of(mine)], made.clock_us)


def _new(topic: str, partition: int, partitions: int) -> ViewsFold:
    if topic == ITEM_INTERACTIONS.name:
        return ItemFold([], partition=partition, partitions=partitions)
    return UserFold([], partition, partitions)


def _opened(topic: str, partition: int, partitions: int, snapshot: Snapshot) -> ViewsFold:
    fold = _new(topic, partition, partitions)
    fold.restore(snapshot)
    for view, _ in fold.unfilled():
        raise Conflict(f"features, {topic}-{partition}: view {view} waits for its back-fill: let features end it first")
    return fold


def _same_views(folds: Mapping[int, ViewsFold]) -> dict[str, ViewState]:
    """One view of each name, after which the new ones are made. Raises Conflict when partitions differ in its groups:
    merged by other rules than they were made, values would be wrong."""
    views: dict[str, ViewState] = {}
    for partition, fold in folds.items():
        for name, view in fold.views.items():
            first = views.setdefault(name, view)
            if [g.program.definitions for g in first.groups] != [g.program.definitions for g in view.groups]:
                raise Conflict(
                    f"features, partition {partition}: view {name} was planned in other steps than elsewhere:"
                    " remove the snapshots of features and let it read the log again"
                )
    return views


def _homes(keys: Keys, partition: int, partitions: int) -> Ints:
    """Partition of each slot, -1 where there is no key; a key of nobody stays."""
    used = keys.used()
    homes = np.full(int(used.max(initial=-1)) + 1, -1, np.int64)
    column = next((keys.columns.index(name) for name in ("user", "query", "item") if name in keys.columns), None)
    if "session" in keys.columns and "user" not in keys.columns:
        column = None
    for slot, name in zip(used.tolist(), keys.names(used), strict=True):
        text = keys.users.get(slot) if column is None else name[column]
        homes[slot] = partition_of(text, partitions) if text else partition
    return homes


def _settled(made: ViewsFold, partition: int, folds: Mapping[int, ViewsFold], move: Move) -> Snapshot:
    """The snapshot of a new fold, at the place in the log where its partition stands."""
    own = folds.get(partition)
    run = {name: mark for fold in folds.values() for name, mark in fold.marks.items()}
    made.marks = {name: [move.epochs.get(name, mark[0]), mark[1]] for name, mark in run.items() if name in made.views}
    made.past = {number: fold.next_offset for number, fold in folds.items() if number != partition}
    made.next_offset = own.next_offset if own is not None else 0
    snapshot = made.snapshot()
    return Snapshot(snapshot.next_offset, snapshot.arrays, {**snapshot.meta, "applied": _applied(folds, own, move)})


def _applied(folds: Mapping[int, ViewsFold], own: ViewsFold | None, move: Move) -> Any:
    """Rows of the log that are in the state. Of those keyed by item any partition may have taken the last ones."""
    if move.topic == INTERACTIONS.name:
        return own.applied_marks()["applied"] if own is not None else -1
    newest: dict[str, int] = {}
    for fold in folds.values():
        for sender, position in fold.applied_marks()["applied"].items():
            newest[sender] = max(position, newest.get(sender, -1))
    return newest
