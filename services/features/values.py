"""Results of functions as columns of Feast's types. A null is a null, never a zero."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.definitions import FeatureDefinition
from services.features.aggregates import RESULTS, Component, Floats, Ints, Layout
from services.features.ragged import group_starts, slices
from services.features.recent import Recent
from services.features.windows import Totals
from services.online.encode import Column

Meaning = Callable[[Ints], list[Any]]
"""What stored numbers mean: words, or the numbers themselves."""

_SECOND = 1_000_000

_DTYPES: dict[str, Any] = {"INT64": np.int64, "INT32": np.int32, "FLOAT32": np.float32, "FLOAT64": np.float64}


def from_totals(
    definition: FeatureDefinition, components: Sequence[Component], layout: Layout, window: Totals
) -> Floats:
    """Value of a function from the states of its components over the window; NaN for null."""
    parts = []
    for part in components:
        at = layout.place[part]
        parts.append(window.states[:, at : at + 3] if part.width == 3 else window.states[:, at])
    return RESULTS[definition.function](parts, definition)


def number_column(definition: FeatureDefinition, numbers: Floats) -> Column:
    """Floats with NaN for null, as the definition's type."""
    nulls = np.isnan(numbers)
    filled = np.where(nulls, 0, numbers) if nulls.any() else numbers
    return Column(_typed(definition.value_type, filled), nulls if nulls.any() else None)


def _typed(value_type: str, numbers: NDArray[Any]) -> NDArray[Any]:
    if value_type == "BOOL":
        return np.asarray(numbers > 0)
    if value_type == "UNIX_TIMESTAMP":
        return np.asarray(numbers // _SECOND).astype(np.int64)
    with np.errstate(over="ignore"):
        return numbers.astype(_DTYPES[value_type])


def recent_column(definition: FeatureDefinition, recent: Recent, meaning: Meaning) -> Column:
    """The newest value, or the newest values, of each key."""
    size = len(recent.falls_us)
    stored = recent.columns[f"v.{definition.column}"]
    if definition.function == "last_n":
        flat = _scalars(definition.value_type.removesuffix("_LIST"), stored, meaning)
        return Column([flat[start:end][: definition.n] for start, end in slices(recent.owner, size)])
    first = group_starts(recent.owner)
    newest: list[Any] = [None] * size
    values = _scalars(definition.value_type, stored[first], meaning)
    for place, value in zip(recent.owner[first].tolist(), values, strict=True):
        newest[place] = value
    return Column(newest)


def top_column(definition: FeatureDefinition, lists: list[list[Any]]) -> Column:
    """The most frequent values of each key."""
    if definition.value_type == "BYTES_LIST":
        return Column([[word.encode() for word in words] for words in lists])
    return Column(lists)


def _scalars(value_type: str, stored: NDArray[Any], meaning: Meaning) -> list[Any]:
    if value_type in ("STRING", "BYTES"):
        words = meaning(stored)
        return [word.encode() for word in words] if value_type == "BYTES" else words
    scalars: list[Any] = _typed(value_type, stored).tolist()
    return scalars
