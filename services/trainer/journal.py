"""The write-ahead journal: what each batch is, before it is learned, so that a restart forms the same batches.

Where a consumer cuts the stream depends on timing; weights depend on the cuts. One line of JSON per record behind
its CRC-32; a torn last line counts as not written. A line reaches the kernel before learning begins, so it
survives a killed process; a machine that dies may lose the last lines, and with them only the exact cuts.
"""

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.trainer.examples import Ranges

NAME = "journal.jsonl"


@dataclass(frozen=True)
class Record:
    """One line: a batch's ranges, or what happened before it: new features (`spec`), a release, a champion."""

    number: int
    """Of the batch, counted from 1."""
    ranges: Ranges
    delta_seq: int
    spec: dict[str, Any] | None = None
    mark: str = ""
    """What else happened before the next batch: RELEASED, STEPPED, PRUNED and a share, CHAMPION and a release."""


RELEASED, CHAMPION = "released", "champion "
STEPPED, PRUNED = "stepped", "pruned "
"""A release without what the strategy does at length; and rows let go, with the share that stayed."""


class Journal:
    """Appends to one file."""

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        whole = sum(len(line) for line in whole_lines(path))
        self._file = path.open("ab", buffering=0)
        self._file.truncate(whole)

    def write(self, record: Record) -> None:
        """Append a line; it is with the operating system when this returns."""
        body = json.dumps(
            {
                "n": record.number,
                "r": record.ranges,
                "d": record.delta_seq,
                "s": record.spec,
                **({"m": record.mark} if record.mark else {}),
            },
            separators=(",", ":"),
        ).encode()
        self._file.write(line_of(body))

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def read(folders: Iterable[Path]) -> list[Record]:
    """Records of the journals of several checkpoints, in order, each number once (the last word on it counts)."""
    records: dict[int, Record] = {}
    for folder in folders:
        for line in whole_lines(folder / NAME):
            data = json.loads(line[9:])
            ranges = {int(p): (a, b) for p, (a, b) in data["r"].items()}
            records[data["n"]] = Record(data["n"], ranges, data["d"], data["s"], data.get("m", ""))
    return [records[number] for number in sorted(records)]


def line_of(body: bytes) -> bytes:
    """A line of JSON behind its CRC-32."""
    return b"%08x %s\n" % (zlib.crc32(body), body)


def whole_lines(path: Path) -> list[bytes]:
    """Lines as `line_of` makes them, up to the first that is not whole; none where there is no file."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or line[:8] != b"%08x" % zlib.crc32(line[9:-1]):
            break
        lines.append(line)
    return lines
