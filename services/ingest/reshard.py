"""The state of ingest on more partitions. Pure: snapshots in, snapshots out.

Event ids and shoppers watched for bots are known by hashes that do not say whose they are, so each partition takes
those of every partition that its shoppers come from. What is not its own is never asked for, and goes with its time.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.layout import sources
from services.common.stage import Snapshot
from services.ingest.bots import KEY, NUMBERS

Arrays = dict[str, NDArray[Any]]


def resharded(old: Mapping[int, Snapshot], before: int, after: int) -> Iterable[tuple[int, Snapshot]]:
    """A snapshot for each of `after` partitions from those of `before`, of which some may have taken nothing.

    The clocks become the newest of all: as if a record of nobody had come to each partition then.
    """
    clock_us = max((snapshot.meta["clock_us"] for snapshot in old.values()), default=0)
    for partition in range(after):
        parts = [old[source] for source in sources(partition, before, after) if source in old]
        if old:
            yield partition, _joined(parts or [_empty(old)], old.get(partition), clock_us)


def _empty(old: Mapping[int, Snapshot]) -> Snapshot:
    """What a partition begins with whose shoppers have done nothing yet."""
    some = next(iter(old.values()))
    gone = {name: array[:0] for name, array in some.arrays.items() if name.startswith(("seen.", "bots."))}
    return Snapshot(0, {**some.arrays, **gone}, some.meta)


def _joined(parts: Sequence[Snapshot], own: Snapshot | None, clock_us: int) -> Snapshot:
    base = own or parts[0]  # bounds of outliers are those of a partition it takes shoppers from
    meta = {**base.meta, "clock_us": clock_us, "taken": own.meta["taken"] if own else []}
    meta["seen.evicted"] = own.meta["seen.evicted"] if own else 0
    meta["bots.swept_us"] = max(part.meta["bots.swept_us"] for part in parts)
    return Snapshot(own.next_offset if own else 0, {**base.arrays, **_seen(parts), **_bots(parts)}, meta)


def _seen(parts: Sequence[Snapshot]) -> Arrays:
    """Slices by clock; an id that several hold stays where it goes last."""
    slices: list[tuple[int, NDArray[np.uint64]]] = []
    for part in parts:
        ends = np.cumsum(part.arrays["seen.sizes"])[:-1]
        slices += zip(part.arrays["seen.clocks"].tolist(), np.split(part.arrays["seen.keys"], ends), strict=False)
    slices.sort(key=lambda one: one[0])
    keys = np.concatenate([keys for _, keys in slices]) if slices else np.zeros(0, np.uint64)
    last = len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
    kept = np.zeros(len(keys), np.bool_)
    kept[last] = True
    owner = np.repeat(np.arange(len(slices)), np.array([len(keys) for _, keys in slices], np.int64))
    clocks = np.array([clock for clock, _ in slices], np.int64)
    return {
        "seen.keys": keys[kept],
        "seen.clocks": clocks,
        "seen.sizes": np.bincount(owner[kept], minlength=len(slices)).astype(np.int64),
    }


def _bots(parts: Sequence[Snapshot]) -> Arrays:
    """Shoppers in the order in which they were seen last; of several entries the newest."""
    columns = {name: np.concatenate([part.arrays[name] for part in parts]) for name in (KEY, *NUMBERS)}
    order = np.argsort(columns["bots.seen_us"], kind="stable")[::-1]
    _, first = np.unique(columns[KEY][order], return_index=True)
    kept = order[np.sort(first)[::-1]]
    return {name: column[kept] for name, column in columns.items()}
