"""Which events were taken already: hashes of the last hour of log time, in memory that has a bound.

Whatever comes again after the window is late by then and refused for that, so the window is the lateness
limit. Hashes are 64 bits of user and event id together: a shopper cannot use up the ids of another.
"""

from collections import deque

import mmh3
import numpy as np

from services.common.stage import Snapshot

_SLICES = 64


class Seen:
    """A set that forgets by log clock, oldest slice first.

    >>> seen = Seen(window_us=100, cap=1000)
    >>> seen.add(7, clock_us=0); 7 in seen
    True
    >>> seen.forget(clock_us=500); 7 in seen
    False
    """

    def __init__(self, window_us: int, cap: int) -> None:
        self._window_us = window_us
        self._slice_us = max(1, window_us // _SLICES)
        self._cap = cap
        self._slice_cap = max(1, cap // _SLICES)
        self._slices: deque[tuple[int, list[int]]] = deque()  # clock at the first entry, entries
        self._known: set[int] = set()
        self.evicted = 0
        """Entries forgotten before their hour because there were too many."""

    def __contains__(self, key: int) -> bool:
        return key in self._known

    def __len__(self) -> int:
        return len(self._known)

    def add(self, key: int, clock_us: int) -> None:
        """Remember a key that is not in the set."""
        if (
            not self._slices
            or clock_us - self._slices[-1][0] >= self._slice_us
            or len(self._slices[-1][1]) >= self._slice_cap
        ):
            self._slices.append((clock_us, []))
            self.forget(clock_us)
        self._slices[-1][1].append(key)
        self._known.add(key)

    def forget(self, clock_us: int) -> None:
        """Drop slices whose newest possible entry is past the window, and the oldest above the cap."""
        slices = self._slices
        while slices and slices[0][0] + self._slice_us + self._window_us < clock_us:
            self._known.difference_update(slices.popleft()[1])
        while len(self._known) > self._cap and len(slices) > 1:
            keys = slices.popleft()[1]
            self._known.difference_update(keys)
            self.evicted += len(keys)

    def snapshot(self, name: str) -> Snapshot:
        """Arrays `<name>.keys` uint64, `<name>.clocks` and `<name>.sizes` int64 per slice."""
        keys = [key for _, entries in self._slices for key in entries]
        return Snapshot(
            0,
            {
                f"{name}.keys": np.array(keys, np.uint64),
                f"{name}.clocks": np.array([clock for clock, _ in self._slices], np.int64),
                f"{name}.sizes": np.array([len(entries) for _, entries in self._slices], np.int64),
            },
            {f"{name}.evicted": self.evicted},
        )

    def restore(self, name: str, snapshot: Snapshot) -> None:
        """Take over what `snapshot` gave."""
        keys = snapshot.arrays[f"{name}.keys"].tolist()
        sizes = snapshot.arrays[f"{name}.sizes"]
        ends = np.cumsum(sizes)
        clocks = snapshot.arrays[f"{name}.clocks"]
        self._slices = deque(
            (int(clock), keys[int(end - size) : int(end)]) for clock, size, end in zip(clocks, sizes, ends, strict=True)
        )
        self._known = set(keys)
        self._cap = max(self._cap, len(keys))  # after a reshard there can be more: they go with their hour
        self.evicted = int(snapshot.meta[f"{name}.evicted"])


def event_key(user: str, event_id: str) -> int:
    """64-bit key of an event of a user, unsigned."""
    return mmh3.hash64(f"{user}\0{event_id}", signed=False)[0]
