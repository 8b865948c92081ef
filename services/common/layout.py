"""By how many partitions the state in the model store is divided, and where a key goes when that number grows.

`snapshots/partitions.json` tells the number. `reshard.json` is there while `freshrank reshard` has begun and not ended:
the state is then neither of the old number nor of the new, and no stream starts.
"""

import json
from math import gcd
from pathlib import Path
from typing import Any

from services.common.errors import Conflict, CorruptState
from services.common.snapshots import write_durably

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


def mark(snapshots: Path, partitions: int) -> None:
    """Say by how many partitions the state in a folder of snapshots is divided."""
    snapshots.mkdir(parents=True, exist_ok=True)
    write_durably(snapshots / "partitions.json", json.dumps({"partitions": partitions}).encode())


def check_layout(store: Path, partitions: int) -> None:
    """Refuse state that is divided by another number of partitions; the first one to ask says by how many it is.

    A worker that went on all the same would find shoppers without the past that lies on another partition.
    Raises Conflict.
    """
    if (store / PLAN).exists():
        raise Conflict("a reshard has begun and not ended: run `freshrank reshard` again with the same number")
    found = divided_by(store / SNAPSHOTS)
    if found is None:
        mark(store / SNAPSHOTS, partitions)
    elif found != partitions:
        raise Conflict(
            f"the state in {store} is divided by {found} partitions and FRESHRANK_PARTITIONS says {partitions}:"
            " `freshrank reshard` changes it, and nothing else does"
        )


def read_json(path: Path) -> dict[str, Any] | None:
    """A small file of ours; None when there is none. Raises CorruptState when it cannot be read."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorruptState(f"{path}: {error}") from error
