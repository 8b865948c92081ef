"""The newest n rows of each key: `last` and `last_n`. Lists of one filter and window share their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.features.aggregates import Ints
from services.features.ragged import Ragged, drop, group_starts, rank_in_group
from services.features.windows import NEVER


@dataclass(frozen=True)
class Recent:
    """Rows of some keys, sorted by key, newest first."""

    owner: Ints
    columns: Mapping[str, NDArray[Any]]
    falls_us: Ints
    """When the oldest row of each key leaves the window."""


class RecentStore:
    """The newest `n` rows of each key within `tiles` slides; ties of time are broken by place in the log."""

    def __init__(self, slide_us: int, tiles: int, n: int, columns: Sequence[tuple[str, Any]]) -> None:
        self.slide_us, self.tiles, self.n = slide_us, tiles, n
        marks = {"time_us": (np.int64, 0), "high": (np.int64, 0), "low": (np.int64, 0)}
        self.rows = Ragged({**marks, **{f"v.{name}": (dtype, 0) for name, dtype in columns}})

    def update(self, slots: Ints, owner: Ints, fresh: Mapping[str, NDArray[Any]], clock_us: int) -> Recent:
        """Add rows to the keys `slots[owner]`, keep the newest inside the window, return what all of `slots` hold."""
        held, columns = self.rows.gather(slots)
        first_us = (clock_us // self.slide_us - self.tiles + 1) * self.slide_us
        if len(owner) or (columns["time_us"] < first_us).any():
            held = np.concatenate([held, owner])
            columns = {name: np.concatenate([column, fresh[name]]) for name, column in columns.items()}
            held, columns = self._newest(held, columns, first_us)
            self.rows.replace(slots, np.bincount(held, minlength=len(slots)), columns)
        falls = np.full(len(slots), NEVER, np.int64)
        ends = np.append(group_starts(held)[1:], len(held)) - 1 if len(held) else np.zeros(0, np.int64)
        falls[held[ends]] = (columns["time_us"][ends] // self.slide_us + self.tiles) * self.slide_us
        return Recent(held, columns, falls)

    def _newest(self, owner: Ints, columns: dict[str, NDArray[Any]], first_us: int) -> tuple[Ints, dict[str, Any]]:
        inside = columns["time_us"] >= first_us
        if not inside.all():
            owner, columns = owner[inside], {name: column[inside] for name, column in columns.items()}
        order = np.lexsort((-columns["low"], -columns["high"], -columns["time_us"], owner))
        kept = order[rank_in_group(owner[order]) < self.n]
        return owner[kept], {name: column[kept] for name, column in columns.items()}

    def precede(self, slots: Ints) -> None:
        """Let the rows of these keys come before all that follow, in the order they have: offsets begin anew."""
        owner, columns = self.rows.gather(slots)
        columns |= {"high": -1 - rank_in_group(owner), "low": np.zeros(len(owner), np.int64)}
        self.rows.replace(slots, np.bincount(owner, minlength=len(slots)), columns)

    def forget(self, slots: Ints, before_us: int) -> None:
        """Drop the rows of these keys at or before a time."""
        owner, columns = self.rows.gather(slots)
        counts, kept = drop(owner, columns["time_us"] > before_us, len(slots), columns)
        self.rows.replace(slots, counts, kept)
