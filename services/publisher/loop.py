"""Steps that are taken again and again, each kind in a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable

from services.common.errors import TemporaryError
from services.common.health import Health

logger = logging.getLogger(__name__)

_PAUSE_S = 0.5
"""After a step that failed and may succeed later."""


class Loops:
    """Runs steps until `stop`, or until one of them fails for good: then all of them stop and `failure` says why."""

    def __init__(self, fault: Callable[[str], None], may: Callable[[], bool] = lambda: True) -> None:
        """`may`: whether steps may be taken now; while not, none is begun."""
        self._fault, self._may = fault, may
        self._threads: list[threading.Thread] = []
        self._ended: dict[str, float] = {}
        self.stopped = threading.Event()
        self.failure: BaseException | None = None

    def add(self, name: str, step: Callable[[], object], every_s: float) -> None:
        """Begin taking a step; `every_s` from the start of one to the start of the next."""
        thread = threading.Thread(target=self._run, args=(name, step, every_s), name=name, daemon=True)
        self._threads.append(thread)
        self._ended[name] = time.monotonic()
        thread.start()

    def stalled(self, seconds: float) -> list[str]:
        """Loops whose last step has not ended for so long."""
        now = time.monotonic()
        return [name for name, ended in self._ended.items() if now - ended > seconds]

    def fail(self, error: BaseException) -> None:
        """End all of them because of an error."""
        self.failure = error
        self.stopped.set()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Let every step in progress end, and begin no other."""
        self.stopped.set()
        for thread in self._threads:
            thread.join(timeout_s)

    def _run(self, name: str, step: Callable[[], object], every_s: float) -> None:
        while not self.stopped.is_set():
            began = time.monotonic()
            wait_s = every_s
            try:
                if self._may():
                    step()
            except TemporaryError as error:
                logger.warning("step failed and is tried again", extra={"loop": name, "error": str(error)})
                self._fault(name)
                wait_s = max(every_s, _PAUSE_S)
            except BaseException as error:
                logger.exception("step failed for good", extra={"loop": name})
                self.fail(error)
            self._ended[name] = time.monotonic()
            self.stopped.wait(max(0.0, wait_s - (time.monotonic() - began)))


class LoopHealth(Health):
    """Alive while every loop ends its steps; a step that waits for a server ends with an error within seconds."""

    def __init__(self, loops: Loops, seconds: float = 180.0) -> None:
        super().__init__()
        self._loops, self._seconds = loops, seconds

    def live(self) -> bool:
        """False when a loop hangs."""
        return not self._loops.stalled(self._seconds)
