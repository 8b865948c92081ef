"""Recorded requests and the trainer's own answers: golden.safetensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from services.common.errors import CorruptState
from services.common.spec import OUTPUT, PADDINGS, Arrays, ModelSpec, input_shapes

_MARKED = frozenset({"user", "item"})
"""Inputs whose padding is NaN (missing); all others are padded with zero."""


class Expected(Protocol):
    """Requests with known answers: what a server must answer before it may be asked by others."""

    @property
    def inputs(self) -> Arrays:
        """By name."""
        ...

    @property
    def tolerance(self) -> float:
        """Largest gap of a right answer."""
        ...

    def gap(self, answers: NDArray[np.float32], rows: int = 0) -> float:
        """How far answers are off, to the first `rows` requests or to all; NaN when they are no answers."""
        ...

    def smallest(self) -> Arrays:
        """The first request alone."""
        ...

    def warm_ups(self) -> Iterator[Arrays]:
        """Requests of the shapes that will come."""
        ...


@dataclass(frozen=True)
class Golden:
    """`inputs` by name [B, ...], `scores` [B, N, heads], and how far an answer may be off."""

    inputs: Arrays
    scores: NDArray[np.float32]
    tolerance: float

    @property
    def mask(self) -> NDArray[np.float32]:
        """[B, N]: 1 where there is a candidate."""
        return self.inputs["mask"]

    def gap(self, answers: NDArray[np.float32], rows: int = 0) -> float:
        """Largest difference from the trainer's scores over real candidates; NaN when shapes or numbers are wrong."""
        wanted, mask = (self.scores[:rows], self.mask[:rows]) if rows else (self.scores, self.mask)
        if answers.shape != wanted.shape:
            return float("nan")
        gap = np.abs(answers - wanted)[mask > 0]
        return float(gap.max()) if gap.size else float("nan")

    def smallest(self) -> Arrays:
        """The first request alone."""
        return {name: array[:1] for name, array in self.inputs.items()}

    def warm_ups(self) -> Iterator[Arrays]:
        """The first request in each padding that gateways use."""
        for size in PADDINGS:
            yield {name: _padded(name, array, size) for name, array in self.smallest().items()}


def read(path: Path, spec: ModelSpec, tolerance: float) -> Golden:
    """Read golden.safetensors. Raises CorruptState when an input is missing or has another shape than the spec's."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptState(f"golden requests: {error}") from error
    inputs = {name: tensors.get(f"in.{name}") for name in input_shapes(spec)}
    scores = tensors.get(f"out.{OUTPUT}")
    if scores is None or scores.ndim != 3 or 0 in scores.shape:
        raise CorruptState(f"golden requests: no out.{OUTPUT} [B, N, heads]")
    free = {"B": scores.shape[0], "N": scores.shape[1]}
    whole: Arrays = {}
    for name, (shape, dtype) in input_shapes(spec).items():
        array, wanted = inputs[name], tuple(free[n] if isinstance(n, str) else n for n in shape)
        if array is None or array.shape != wanted or array.dtype != dtype:
            raise CorruptState(f"golden requests: in.{name} is not {dtype} {wanted}")
        whole[name] = array
    if scores.shape[2] != len(spec.heads) or not np.isfinite(scores[whole["mask"] > 0]).all():
        raise CorruptState("golden requests: scores are not finite numbers for each head")
    return Golden(whole, np.asarray(scores, np.float32), tolerance)


def _padded(name: str, array: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    if name not in _PER_CANDIDATE:
        return array
    out = np.zeros((array.shape[0], size, *array.shape[2:]), array.dtype)
    if name in _MARKED:
        out[:] = np.nan
    count = min(size, array.shape[1])
    out[:, :count] = array[:, :count]
    return out


_PER_CANDIDATE = frozenset({"item", "content", "row", "row_mask", "mask"})
