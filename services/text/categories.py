"""Which category a query asks for: a softmax over its vector, in the folder of the encoder that makes the vector.

`categories.safetensors` is an encoder's file like its others, by name and hash in encoder.json; an encoder without one
tells no categories. It holds `weights` [C, dim] and `bias` [C] as float32, and `names`, the UTF-8 of a JSON list.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from services.common.errors import CorruptState
from services.common.tensors import save
from services.text.folder import Encoder

FILE = "categories.safetensors"
OTHER = ""
"""Name of all categories that have none of their own: those that were chosen from too rarely."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Categories:
    """`names` of classes, and what a vector is multiplied by."""

    names: Sequence[str]
    weights: Floats
    """[C, dim]"""
    bias: Floats
    """[C]"""

    def probabilities(self, vectors: Floats) -> Floats:
        """[n, C] of queries' vectors [n, dim].

        >>> Categories(["", "shoes"], np.zeros((2, 3)), np.log([1, 3])).probabilities(np.ones((1, 3))).tolist()
        [[0.25, 0.75]]
        """
        logits = vectors @ self.weights.T + self.bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def of(self, vector: Floats) -> dict[str, float]:
        """Probability of each named category for one query [dim], the most probable first; they may sum to below 1."""
        found = self.probabilities(vector[None])[0]
        order = np.argsort(-found, kind="stable").tolist()
        return {self.names[place]: float(found[place]) for place in order if self.names[place] != OTHER}

    def to_bytes(self) -> bytes:
        """The file."""
        names = np.frombuffer(json.dumps(list(self.names)).encode(), np.uint8)
        return save({"weights": self.weights, "bias": self.bias, "names": names})


def read(folder: Path, encoder: Encoder) -> Categories | None:
    """Of an encoder's folder; None when it has none. Raises CorruptState when the file does not fit the encoder."""
    if FILE not in encoder.files:
        return None
    try:
        arrays = load_file(folder / FILE)
        names = json.loads(arrays["names"].tobytes())
        weights, bias = arrays["weights"], arrays["bias"]
        if weights.shape != (len(names), encoder.dim) or bias.shape != (len(names),):
            raise ValueError(f"weights {weights.shape} and bias {bias.shape} of {len(names)} names, dim {encoder.dim}")
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise ValueError("some weights are no numbers")
        if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names) or not names:
            raise ValueError("the names are not different texts")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptState(f"{folder / FILE}: {error}") from error
    return Categories(names, weights, bias)
