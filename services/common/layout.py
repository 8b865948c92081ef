"""By how many partitions the state in the model store is divided, and where a key goes when that number grows.

`snapshots/partitions.json` tells the number. `reshard.json` is there while `freshrank reshard` has begun and not ended:
the state is then neither of the old number nor of the new, and no stream starts.
"""

import json
from collections.abc import Sequence
from math import gcd
from pathlib import Path
from typing import Any

from services.common.errors import Conflict, CorruptState
from services.common.snapshots import SnapshotStore, write_durably

SNAPSHOTS = "snapshots"
"""Folder of the state in the model store."""

PLAN = "reshard.json"


def sources(partition: int, before: int, after: int) -> list[int]:
    """Of `before` partitions those that hold keys which belong to a partition of `after`.

    A hash h lies in h mod before and goes to h mod after, which agree modulo the greatest common divisor.

    >>> sources(5, before=4, after=8), sources(2, before=2, after=3), sources(3, before=4, after=6)
    ([1], [0, 1], [1, 3])
    """
    common = gcd(before, after)
    return [old for old in range(before) if old % common == partition % common]


def divided_by(snapshots: Path) -> int | None:
    """Partitions of the state in a folder of snapshots; None when it does not say. Raises CorruptState."""
    found = read_json(snapshots / "partitions.json")
    return int(found["partitions"]) if found is not None else None


def mark(snapshots: Path, partitions: int, moved: Sequence[str] = ()) -> None:
    """Say by how many partitions the state in a folder of snapshots is divided, and whose was moved to them."""
    snapshots.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"partitions": partitions, "moved": list(moved)})
    write_durably(snapshots / "partitions.json", data.encode())


def check_layout(store: Path, partitions: int) -> list[str]:
    """Refuse state that is divided by another number of partitions; the first one to ask says by how many it is.

    A worker that went on all the same would find shoppers without the past that lies on another partition. Returns
    the services whose state was moved when partitions were added: the log of a partition alone does not give it, so
    they need their snapshots. Raises Conflict.
    """
    if (store / PLAN).exists():
        raise Conflict("a reshard has begun and not ended: run `freshrank reshard` again with the same number")
    found = read_json(store / SNAPSHOTS / "partitions.json")
    if found is None:
        mark(store / SNAPSHOTS, partitions)
        return []
    if found["partitions"] != partitions:
        raise Conflict(
            f"the state in {store} is divided by {found['partitions']} partitions and FRESHRANK_PARTITIONS says"
            f" {partitions}: `freshrank reshard` changes it, and nothing else does"
        )
    return list(found.get("moved", []))


def snapshots_of(store: Path, service: str, partitions: int) -> SnapshotStore:
    """The snapshots of a service in the model store. Raises Conflict as `check_layout` does."""
    return SnapshotStore(store / SNAPSHOTS / service, needed=service in check_layout(store, partitions))


def read_json(path: Path) -> dict[str, Any] | None:
    """A small file of ours; None when there is none. Raises CorruptState when it cannot be read."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorruptState(f"{path}: {error}") from error
