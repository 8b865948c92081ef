"""Sessions packed end to end into rows of one length, so that hardly any padding is computed.

Every item of a session but its last is an input, and what follows it is its target: one pass trains all prefixes
(Kang and McAuley, 2018). Attention is kept inside a session by its number in the row (Krell et al., 2021).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.common.errors import InvalidInput
from services.trainer.sequence.sessions import Ints, Sessions, spans

NONE = -1
"""Target of a place that is not to be learned or scored."""

_OPEN = 8
"""Rows that are being filled at the same time; more fill better and take longer."""


@dataclass(frozen=True)
class Packed:
    """R rows of L places."""

    inputs: Tensor
    """[R, L] slots of items; 0 where nothing is."""
    targets: Tensor
    """[R, L] slots of the items that follow, or NONE."""
    sessions: Tensor
    """[R, L] number of the session within its row, from 1; 0 where nothing is."""

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def filled(self) -> float:
        """Share of places that hold an item."""
        return float((self.sessions > 0).double().mean()) if len(self) else 1.0

    def batches(self, rows: int) -> Iterator["Packed"]:
        """Cut into pieces of so many rows."""
        for at in range(0, len(self), rows):
            part = slice(at, at + rows)
            yield Packed(self.inputs[part], self.targets[part], self.sessions[part])


def pack(sessions: Sessions, length: int, last_only: bool = False) -> Packed:
    """Pack sessions of at least two items, whose items are slots, into rows of `length` places.

    Longer ones are cut into overlapping pieces: each target is counted once and sees at least `length / 2` items.
    `last_only`: only the last item of each session is a target, and its last `length` + 1 items are taken.
    Raises InvalidInput for a session without a target.
    """
    if len(sessions) and int(sessions.lengths.min()) < 2:
        raise InvalidInput("sessions", "too_short", "a session needs two items: one to see and one to tell")
    source, counts, skipped = _ends(sessions, length) if last_only else _pieces(sessions, length)
    row, column, rows = _places(counts, length)
    at = spans(row * length + column, counts)
    read = spans(source, counts)
    inputs, targets, numbers = (np.zeros(rows * length, np.int64) for _ in range(3))
    targets[:] = NONE
    inputs[at] = sessions.items[read]
    counted = spans(np.zeros(len(counts), np.int64), counts) >= np.repeat(skipped, counts)
    targets[at] = np.where(counted, sessions.items[read + 1], NONE)
    numbers[at] = np.repeat(_number_in_row(row, column), counts)
    return Packed(*(torch.from_numpy(part.reshape(rows, length)) for part in (inputs, targets, numbers)))


def _pieces(sessions: Sessions, length: int) -> tuple[Ints, Ints, Ints]:
    """(first place in `items`, inputs, inputs at its start whose targets an earlier piece has) of each piece."""
    inputs = sessions.lengths - 1
    stride = max(1, length // 2)
    pieces = 1 + np.maximum(0, -(-(inputs - length) // stride))
    offset = spans(np.zeros(len(pieces), np.int64), pieces) * stride
    source = np.repeat(sessions.starts[:-1], pieces) + offset
    counts = np.minimum(np.repeat(inputs, pieces) - offset, length)
    return source, counts, np.where(offset > 0, length - stride, 0)


def _ends(sessions: Sessions, length: int) -> tuple[Ints, Ints, Ints]:
    """As `_pieces`, of the end of each session, all but the last input without a target."""
    counts = np.minimum(sessions.lengths - 1, length)
    return sessions.starts[1:] - 1 - counts, counts, counts - 1


def _places(counts: Ints, length: int) -> tuple[Ints, Ints, int]:
    """(row, column) of each piece and the number of rows: first fit among a few open rows."""
    row, column = np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
    opened: list[list[int]] = []
    rows = 0
    for piece, count in enumerate(counts.tolist()):
        place = next((o for o in opened if o[1] + count <= length), None)
        if place is None:
            if len(opened) == _OPEN:
                opened.remove(max(opened, key=lambda o: o[1]))
            place = [rows, 0]
            opened.append(place)
            rows += 1
        row[piece], column[piece] = place
        place[1] += count
    return row, column, rows


def _number_in_row(row: Ints, column: Ints) -> Ints:
    """1, 2, ... of each piece within its row, by column."""
    order = np.lexsort((column, row))
    first = np.flatnonzero(np.diff(row[order], prepend=-1))
    counts = np.diff(first, append=len(order))
    out = np.zeros(len(row), np.int64)
    out[order] = spans(np.ones(len(first), np.int64), counts)
    return out
