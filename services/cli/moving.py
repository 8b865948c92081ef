"""Moving the state of the streams to more partitions: new snapshots beside the old ones, then in their place."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from services.cli.drained import STAGES, State
from services.common.errors import CorruptState
from services.common.layout import SNAPSHOTS
from services.common.snapshots import SnapshotStore, sync
from services.common.stage import Snapshot
from services.common.topics import EVENTS, INTERACTIONS, ITEM_INTERACTIONS
from services.features import reshard as features
from services.features.reshard import Move
from services.ingest import reshard as ingest
from services.joiner import reshard as joiner
from services.joiner.spill import Spill, spill_path

SERVICES, SPILL = ("ingest", "features", "joiner"), Path("joiner/spill")

Moved = tuple[str, str, int, Snapshot]
"""Service, topic, new partition and its state."""


def newest(store: Path, partitions: int) -> dict[tuple[str, str], dict[int, Snapshot]]:
    """The newest snapshot of each stage and partition that has one."""
    found: dict[tuple[str, str], dict[int, Snapshot]] = {}
    for service, topic in STAGES:
        kept = SnapshotStore(store / SNAPSHOTS / service)
        read = {partition: kept.newest(topic, partition) for partition in range(partitions)}
        found[service, topic] = {partition: snapshot for partition, snapshot in read.items() if snapshot is not None}
    return found


def moved(
    state: State, store: Path, before: int, after: int, epochs: Mapping[str, int], to: Path | None
) -> Iterator[Moved]:
    """The state of each stage on `after` partitions; spill files go to `to`, or into memory for a rehearsal.

    Raises Conflict when state cannot be moved.
    """
    for partition, snapshot in ingest.resharded(state.of("ingest", EVENTS.name), before, after):
        yield "ingest", EVENTS.name, partition, snapshot
    for topic in (INTERACTIONS.name, ITEM_INTERACTIONS.name):
        found = state.of("features", topic)
        for partition, snapshot in features.resharded(found, Move(topic, before, after, epochs)):
            yield "features", topic, partition, snapshot
    held = state.of("joiner", INTERACTIONS.name)
    made = lambda p: Spill(spill_path(to / SPILL, p) if to is not None else None)  # noqa: E731
    opened = lambda p: Spill(spill_path(store / SNAPSHOTS / SPILL, p))  # noqa: E731
    for partition, snapshot in joiner.resharded(held, after, opened, made):
        yield "joiner", INTERACTIONS.name, partition, snapshot


def save(to: Path, one: Moved) -> None:
    """Write a snapshot into the new folder and read it back. Raises OSError, or CorruptState when it is not there."""
    service, topic, partition, snapshot = one
    kept = SnapshotStore(to / service)
    kept.save(topic, partition, snapshot)
    if kept.newest(topic, partition) is None:
        raise CorruptState(f"{to / service}: what was written of {topic}-{partition} cannot be read back")


def size(service: str, snapshot: Snapshot) -> int:
    """Entries in a state: event ids and shoppers watched, keys of views, impressions and clicked rows."""
    arrays = snapshot.arrays
    if service == "ingest":
        return len(arrays["seen.keys"]) + len(arrays["bots.key"])
    if service == "joiner":
        return len(arrays["open.weights"]) + int(snapshot.meta["clicked_rows"])
    return sum(len(array) for name, array in arrays.items() if name.endswith("/event_us"))


def kept_folder(store: Path, partitions: int) -> Path:
    """Where the state of the old partitions is put."""
    return store / f"{SNAPSHOTS}.of-{partitions}"


def staging(store: Path) -> Path:
    """Where the new state is made."""
    return store / f"{SNAPSHOTS}.reshard"


def switch(store: Path, before: int) -> None:
    """Put the new folders in the place of the old ones, which are kept. Interrupted anywhere, it goes on."""
    new, old = staging(store), kept_folder(store, before)
    old.mkdir(exist_ok=True)
    for service in SERVICES:
        if not (new / service).exists():
            continue  # in place already, or never written to
        if (store / SNAPSHOTS / service).exists():
            shutil.rmtree(old / service, ignore_errors=True)
            (store / SNAPSHOTS / service).rename(old / service)
        (new / service).rename(store / SNAPSHOTS / service)
        sync(store / SNAPSHOTS)
    shutil.rmtree(new, ignore_errors=True)
