"""Steps that are taken again and again, each kind in a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable

from services.common.errors import TemporaryError

logger = logging.getLogger(__name__)

_PAUSE_S = 0.5
"""After a step that failed for now."""


class Loops:
    """Runs steps until `stop`, or until one of them fails for good: then all of them stop and `failure` says why."""

    def __init__(self, fault: Callable[[str], None]) -> None:
        self._fault = fault
        self._threads: list[threading.Thread] = []
        self.stopped = threading.Event()
        self.failure: BaseException | None = None

    def add(self, name: str, step: Callable[[], object], every_s: float) -> None:
        """Begin taking a step; `every_s` from the start of one to the start of the next."""
        thread = threading.Thread(target=self._run, args=(name, step, every_s), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

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
                step()
            except TemporaryError as error:
                logger.warning("step failed and is tried again", extra={"loop": name, "error": str(error)})
                self._fault(name)
                wait_s = max(every_s, _PAUSE_S)
            except BaseException as error:
                logger.exception("step failed for good", extra={"loop": name})
                self.failure = error
                self.stopped.set()
            self.stopped.wait(max(0.0, wait_s - (time.monotonic() - began)))
