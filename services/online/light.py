"""Import Feast quickly: without torch, and without the type checks that it writes into its own functions.

Feast loads torch only because it is there: 500 MB and seconds in every service. And typeguard takes Feast's sources
apart again at each import, 8 of 10 s of processor time, to check arguments that mypy has checked here.

Feast also switches this process, and every one it starts, to metrics that lie in files shared by all of them, if it is
imported before the metrics are. Metrics here belong to a registry; so they come first, and the switch goes back.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import prometheus_client  # noqa: F401  (before Feast)
import typeguard

_MODULES: dict[str, Any] = sys.modules
_SHARED = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")


@contextmanager
def light() -> Iterator[None]:
    """While Feast is imported: `with light(): from feast import ...`.

    Feast then goes without its own helper for tensors. Whoever imports torch or uses typeguard itself, before or
    after, gets both as they are.
    """
    if "feast" in _MODULES:
        yield
        return
    kept = {name: os.environ.get(name) for name in _SHARED}
    checked, typeguard.typechecked = typeguard.typechecked, _unchecked
    hidden = "torch" not in _MODULES
    if hidden:
        _MODULES["torch"] = None
    try:
        yield
    finally:
        typeguard.typechecked = checked
        for name in [name for name, value in kept.items() if value is None]:
            os.environ.pop(name, None)
        if hidden:
            del _MODULES["torch"]


def _unchecked(target: Callable[..., Any] | None = None, **_: object) -> Any:
    """Like `typeguard.typechecked`, but the function stays what it is."""
    return _unchecked if target is None else target
