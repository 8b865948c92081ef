"""Writing safetensors: of any array what its elements say, whatever its memory layout.

`safetensors.numpy.save` writes the memory behind an array: a transposed or stepped one comes back with other values,
without an error. So nothing else here calls it (tests/contracts/test_architecture.py).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as _save


def save(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> bytes:
    """The arrays as one file's bytes.

    >>> from safetensors.numpy import load
    >>> load(save({"x": np.arange(6).reshape(2, 3).T}))["x"].tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    data: bytes = _save(whole, dict(metadata) if metadata is not None else None)
    return data
