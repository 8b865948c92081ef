"""Sessions as columns: what shoppers looked at, in order, one session after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Sessions:
    """S sessions with T items in all; session s is `items[starts[s]:starts[s + 1]]`."""

    ids: Ints
    """[S] what each is called."""
    items: Ints
    """[T] end to end, each session in the order of time."""
    starts: Ints
    """[S + 1], the last one is T."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Ints:
        """Items in each [S]."""
        return self.starts[1:] - self.starts[:-1]

    @staticmethod
    def of_clicks(sessions: Ints, items: Ints) -> "Sessions":
        """Group clicks [T] that come in the order of time; sessions may be interleaved.

        >>> found = Sessions.of_clicks(np.array([7, 3, 7]), np.array([1, 2, 4]))
        >>> found.ids.tolist(), found.items.tolist(), found.starts.tolist()
        ([3, 7], [2, 1, 4], [0, 1, 3])
        """
        if len(sessions) != len(items):
            raise InvalidInput("items", "length", f"{len(items)} items but {len(sessions)} sessions")
        order = np.argsort(sessions, kind="stable")
        ids, counts = np.unique(sessions, return_counts=True)
        return Sessions(ids, items[order], _starts(counts))

    def take(self, which: Ints) -> "Sessions":
        """Some of them, in the order asked for."""
        counts = self.lengths[which]
        return Sessions(self.ids[which], self.items[spans(self.starts[which], counts)], _starts(counts))

    def known(self, keep: Flags) -> "Sessions":
        """Without the items [T] that are not to be kept, and without sessions that then have fewer than two."""
        owner = np.repeat(np.arange(len(self)), self.lengths)[keep]
        counts = np.bincount(owner, minlength=len(self))
        left = Sessions(self.ids, self.items[keep], _starts(counts))
        return left.take(np.flatnonzero(counts >= 2))

    def held_out(self, share: float) -> tuple["Sessions", "Sessions"]:
        """(to train on, held out): `share` of them by the hash of their id, the same ones in every run."""
        hashed = (self.ids.astype(np.uint64) * _MULTIPLIER) >> np.uint64(32)
        out = hashed < share * 2**32
        return self.take(np.flatnonzero(~out)), self.take(np.flatnonzero(out))


def joined(parts: Sequence[Sessions]) -> Sessions:
    """All of them, one part after the other."""
    counts = [part.lengths for part in parts]
    empty = np.zeros(0, np.int64)
    return Sessions(
        np.concatenate([empty, *(part.ids for part in parts)]),
        np.concatenate([empty, *(part.items for part in parts)]),
        _starts(np.concatenate([empty, *counts])),
    )


def spans(starts: Ints, counts: Ints) -> Ints:
    """start, start + 1, ... of each span, end to end.

    >>> spans(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(counts) - counts
    out: Ints = np.arange(int(counts.sum())) + np.repeat(starts - before, counts)
    return out


def _starts(counts: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
