"""Feast without torch: it loads torch wherever it is installed, for tensors that nobody here asks Feast for.

That costs half a gigabyte and several seconds in every process. Feast does without when the import fails.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_torch() -> Iterator[None]:
    """Import Feast inside this block; torch itself can still be imported afterwards.

    >>> with without_torch():
    ...     import feast
    """
    if "torch" in sys.modules:  # loaded anyway: nothing to save
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
