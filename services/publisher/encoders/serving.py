"""What encoders and rerankers do alike once they are loaded: being asked a little at a time, and being routed to."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from freshrank.v1.models_pb2 import TextRoute
from numpy.typing import NDArray

from services.common.errors import TemporaryError
from services.common.spec import Arrays
from services.publisher.fleet import Fleet

Floats = NDArray[np.float32]

TOGETHER, AT_ONCE = 8, 2
"""Texts of one request, for which a search that comes meanwhile waits, and requests on their way at once."""
_LATER = 2
"""Priority of what nobody waits for, where Triton has priorities."""


class Asking:
    """Asks models in Triton behind what people wait for."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        """`name`: of its threads."""
        self._fleet = fleet
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix=name)

    def ask(self, model: str, texts: Sequence[str], arrays: Callable[[Sequence[str]], Arrays], dim: int) -> Floats:
        """A model's answers [n, dim]; `arrays`: its inputs for some texts. Raises TemporaryError: ask again."""
        some = [texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER)]

        def one(few: Sequence[str]) -> Floats:
            return self._fleet.ask(model, arrays(few), priority=_LATER)

        parts = list(self._threads.map(one, some))
        found = np.concatenate(parts) if parts else np.zeros((0, dim), np.float32)
        if found.shape != (len(texts), dim) or not np.isfinite(found).all():
            raise TemporaryError(
                f"{model}: Triton's answer is {found.shape}, not {len(texts)} times {dim} finite numbers"
            )
        return found

    def close(self) -> None:
        """Give the threads back."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Routing:
    """The record that gateways read: published when it says something else than before."""

    def __init__(self, publish: Callable[[TextRoute], None]) -> None:
        self._publish = publish
        self._said: TextRoute | None = None

    def say(self, route: TextRoute, now_us: int) -> None:
        """Publish it if it is news; one that names nothing is none while nothing was named."""
        if route == self._said or (self._said is None and not route.encoder):
            return
        stamped = TextRoute()
        stamped.CopyFrom(route)
        stamped.updated_us = now_us
        self._publish(stamped)
        self._said = route

    def again(self) -> None:
        """Have the next one published whatever it says."""
        self._said = None
