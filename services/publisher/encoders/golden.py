"""Texts as an encoder or a reranker got them, and what it had answered: golden.safetensors of its folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from services.common.errors import CorruptState
from services.common.spec import Arrays
from services.text.folder import OUTPUT, Encoder
from services.text.reranker import OUTPUT as SCORE
from services.text.reranker import tolerance

TOLERANCE, INT8_TOLERANCE = 1e-3, 0.02
"""1 - cosine of an answer with the recorded one, at most: what 8-bit products come to depends on the processor."""


@dataclass(frozen=True)
class EncoderGolden:
    """`inputs` by name [B, T], `vectors` [B, dim] of length 1."""

    inputs: Arrays
    vectors: NDArray[np.float32]
    tolerance: float

    def gap(self, answers: NDArray[np.float32], rows: int = 0) -> float:
        """Half the largest squared distance to the recorded vectors, of right ones 1 - cosine; NaN for what is none."""
        wanted = self.vectors[:rows] if rows else self.vectors
        if answers.shape != wanted.shape or not np.isfinite(answers).all():
            return float("nan")
        return float(np.square(answers - wanted).sum(axis=1).max()) / 2

    def smallest(self) -> Arrays:
        """The first text alone."""
        return {name: array[:1] for name, array in self.inputs.items()}

    def warm_ups(self) -> Iterator[Arrays]:
        """One text and all of them."""
        yield self.smallest()
        yield self.inputs


@dataclass(frozen=True)
class PairGolden:
    """`inputs` by name [B, T], `scores` [B, 1]."""

    inputs: Arrays
    scores: NDArray[np.float32]
    tolerance: float

    def gap(self, answers: NDArray[np.float32], rows: int = 0) -> float:
        """Largest difference from the recorded scores; NaN for what is none."""
        wanted = self.scores[:rows] if rows else self.scores
        if answers.shape != wanted.shape or not np.isfinite(answers).all():
            return float("nan")
        return float(np.abs(answers - wanted).max())

    def smallest(self) -> Arrays:
        """The first pair alone."""
        return {name: array[:1] for name, array in self.inputs.items()}

    def warm_ups(self) -> Iterator[Arrays]:
        """One pair and all of them."""
        yield self.smallest()
        yield self.inputs


def read(folder: Path, encoder: Encoder) -> EncoderGolden:
    """Of an encoder's folder. Raises CorruptState when an array is missing or of another shape."""
    inputs, vectors = _arrays(folder, encoder, OUTPUT)
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        raise CorruptState("golden texts: the vectors are not of length 1")
    return EncoderGolden(inputs, vectors, INT8_TOLERANCE if encoder.precision == "int8" else TOLERANCE)


def read_pairs(folder: Path, reranker: Encoder) -> PairGolden:
    """Of a reranker's folder. Raises as `read`."""
    inputs, scores = _arrays(folder, reranker, SCORE)
    if not np.isfinite(scores).all():
        raise CorruptState("golden texts: the scores are not finite")
    return PairGolden(inputs, scores, tolerance(reranker, scores))


def _arrays(folder: Path, about: Encoder, output: str) -> tuple[Arrays, NDArray[np.float32]]:
    try:
        tensors = load_file(folder / "golden.safetensors")
        inputs = {name: tensors[f"in.{name}"] for name in about.inputs}
        answers = tensors[f"out.{output}"]
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CorruptState(f"golden texts: {error!r}") from error
    shapes = {array.shape for array in inputs.values()}
    if len(shapes) != 1 or answers.shape != (len(inputs[about.inputs[0]]), about.dim) or not len(answers):
        raise CorruptState(f"golden texts: inputs {shapes} and answers {answers.shape} do not fit dim {about.dim}")
    return inputs, answers
