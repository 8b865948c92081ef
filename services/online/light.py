"""Import Feast without torch, which it loads only because it is there: 500 MB and seconds in every service."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MODULES: dict[str, Any] = sys.modules


@contextmanager
def without_torch() -> Iterator[None]:
    """Hide torch while Feast is imported: `with without_torch(): from feast import ...`.

    Feast then goes without its own helper for tensors. Whoever imports torch itself, before or after, still gets it.
    """
    if "torch" in _MODULES or "feast" in _MODULES:
        yield
        return
    _MODULES["torch"] = None
    try:
        yield
    finally:
        del _MODULES["torch"]
