"""Definitions -> the stores that a group of features needs: what can be shared is kept once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.common import filters
from services.common.definitions import FeatureDefinition
from services.common.filters import COLUMNS
from services.features.aggregates import Component, Layout, components

ALWAYS = frozenset({"kind", "time"})
"""Types of column that have a value in every row."""


@dataclass(frozen=True)
class RecentKey:
    """Features with equal keys share the rows they keep."""

    n: int
    where: str
    guard: tuple[str, ...]
    """Columns that must have a value, beside what the filter already demands."""
    window_us: int
    slide_us: int

    @property
    def tiles(self) -> int:
        """Slides in the window."""
        return self.window_us // self.slide_us


@dataclass(frozen=True)
class TopKey:
    """Counts of the values of one column."""

    column: str
    where: str
    slide_us: int


@dataclass
class Program:
    """What to keep for some definitions of one view."""

    definitions: tuple[FeatureDefinition, ...]
    tiles: dict[int, tuple[Layout, int]] = field(default_factory=dict)
    """Slide -> (components, slides in the longest window)."""
    recents: dict[RecentKey, list[str]] = field(default_factory=dict)
    """-> columns kept."""
    tops: dict[TopKey, int] = field(default_factory=dict)
    """-> slides in the longest window."""
    parts: dict[int, tuple[Component, ...]] = field(default_factory=dict)
    """Definition's id -> its components."""
    recent_of: dict[int, RecentKey] = field(default_factory=dict)
    """Id of a `last` or `last_n` -> the rows it reads."""


def compiled(definitions: Sequence[FeatureDefinition]) -> Program:
    """Work out the stores; equal definitions in equal order give equal programs."""
    program = Program(tuple(definitions))
    parts: dict[int, list[Component]] = {}
    longest: dict[int, int] = {}
    for definition in definitions:
        if definition.function in ("last", "last_n"):
            key = program.recent_of[definition.id] = recent_key(definition)
            columns = program.recents.setdefault(key, [])
            columns += [definition.column] * (definition.column not in columns)
        elif definition.function == "top_k":
            top = TopKey(definition.column, definition.where, definition.slide_us)
            program.tops[top] = max(program.tops.get(top, 0), definition.tiles)
        else:
            program.parts[definition.id] = components(definition)
            parts.setdefault(definition.slide_us, []).extend(components(definition))
            longest[definition.slide_us] = max(longest.get(definition.slide_us, 0), definition.tiles)
    program.tiles = {slide: (Layout(found), longest[slide]) for slide, found in parts.items()}
    return program


def recent_key(definition: FeatureDefinition) -> RecentKey:
    """Which rows `last` (n = 1) and `last_n` keep."""
    guard = {definition.column} if COLUMNS[definition.column] not in ALWAYS else set()
    guard -= _demanded(definition.where)
    return RecentKey(definition.n or 1, definition.where, tuple(guard), definition.window_us, definition.slide_us)


def _demanded(where: str) -> set[str]:
    """Columns without which the filter fails."""
    if not where:
        return set()
    tree = filters.parse(where)
    parts = tree.parts if isinstance(tree, filters.And) else (tree,)
    present = {
        part.inner.column for part in parts if isinstance(part, filters.Not) and isinstance(part.inner, filters.IsNull)
    }
    return present | {part.column for part in parts if isinstance(part, filters.Compare | filters.In)}


def stored_type(column: str) -> Any:
    """dtype in which a value of this column is kept: words by number, the rest as it is."""
    return np.float64 if COLUMNS[column] == "real" else np.int64
