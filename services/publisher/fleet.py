"""All Triton servers together: where a release is loaded, answers right, and may be routed to.

Health endpoints of Triton stay green when the process behind a model has died, and a server can say that it is ready
and answer wrong. So what counts is a golden request answered as the trainer answered it; a server is routed to, for a
release, from its first right answer to its first wrong one.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from services.common.errors import FreshrankError, PermanentError, TemporaryError
from services.common.spec import Arrays
from services.publisher.golden import Expected
from services.publisher.pod import Pod, ServedStats, Server

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_THREADS = 32
"""Servers that are worked on at once: loading takes seconds, and each does it on cores of its own."""


class Fleet:
    """The servers of `endpoints()` by address; connections are made when an address first appears.

    Of one release, `put_up`, `unload_everywhere` and `tidy` are for one thread, `tend` is for another.
    """

    def __init__(
        self,
        endpoints: Callable[[], Collection[str]],
        connect: Callable[[str], Server],
        fence: Callable[[], None] = lambda: None,
        patience_s: float = 10.0,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fence` raises NotOwner when nothing may be changed any more.

        `patience_s`: how long `tend` waits for a server; one that hangs must not hold up the others.
        """
        self._endpoints, self._connect, self._fence = endpoints, connect, fence
        self._patience_s, self._seconds = patience_s, seconds
        self._pods: dict[str, Pod] = {}
        self._tending: dict[str, Future[list[str]]] = {}
        self._turn = 0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="triton")

    def pods(self) -> dict[str, Pod]:
        """The servers there are now, by address. Raises TemporaryError when there are none."""
        addresses = sorted(self._endpoints())
        if not addresses:
            raise TemporaryError("no Triton endpoint")
        with self._lock:
            for gone in [address for address in self._pods if address not in addresses]:
                self._pods.pop(gone).server.close()
            for address in addresses:
                if address not in self._pods:
                    self._pods[address] = Pod(address, self._connect(address), self._fence, self._seconds)
            return dict(self._pods)

    def placed(self, release: str) -> list[str]:
        """Where requests for a release may go: where its last golden request was answered right.

        When there is no such server, those that cannot be reached from here: gateways may still reach them.
        """
        with self._lock:
            pods = list(self._pods.values())
        right = [pod.address for pod in pods if release in pod.good and not pod.away]
        return sorted(right or [pod.address for pod in pods if pod.away and release not in pod.wrong])

    def put_up(self, release: str, golden: Expected, champion: str = "") -> float:
        """Load, warm and ask a release on every server that serves the champion; returns the largest golden gap.

        At least half of them must take it; the others are left out while they do not (`tend` goes on trying), and so
        are servers that do not serve yet. Else it is taken out everywhere: raises PermanentError when most refuse it
        or answer wrong, TemporaryError when too few can be reached.
        """
        pods = list(self.pods().values())
        asked = [pod for pod in pods if champion in pod.good] or pods
        found = self._each(asked, lambda pod: pod.put_up(release, golden))
        gaps = [gap for gap in found if isinstance(gap, float)]
        if 2 * len(gaps) >= len(asked):
            return max(gaps)
        self.unload_everywhere(release)
        errors = [error for error in found if isinstance(error, FreshrankError)]
        refusals = [error for error in errors if isinstance(error, PermanentError)]
        if 2 * len(refusals) > len(asked):
            raise refusals[0]
        raise next(error for error in errors if isinstance(error, TemporaryError))

    def tend(
        self, wanted: Mapping[str, Expected], mark: bool = True, besides: Mapping[str, Expected] | None = None
    ) -> list[str]:
        """Bring every server to what it must have: load what it lacks, ask what it has, load anew what answers wrong.

        `mark`: tell each server's readiness probe whether it has all that is `wanted`; what it has `besides` is tended
        alike, and rankings do without it. Returns a release for each reload of one that had been right. A server that
        hangs is waited for in the background.
        """
        every, needed = {**wanted, **(besides or {})}, frozenset(wanted) if mark else None
        idle = {address: pod for address, pod in self.pods().items() if address not in self._tending}
        begun = {address: self._threads.submit(pod.tend, every, needed) for address, pod in idle.items()}
        self._tending |= begun
        wait(begun.values(), self._patience_s)
        healed: list[str] = []
        for address in [address for address, future in self._tending.items() if future.done()]:
            healed += self._tending.pop(address).result()
        return healed

    def ask(self, release: str, arrays: Arrays, priority: int = 0) -> NDArray[np.float32]:
        """What a server that answers right says; they take turns. Raises TemporaryError when none of them does."""
        with self._lock:
            pods = [pod for pod in self._pods.values() if release in pod.good and not pod.away]
        self._turn += 1
        failed: TemporaryError | None = None
        for number in range(len(pods)):
            try:
                return pods[(self._turn + number) % len(pods)].server.infer(release, arrays, priority)
            except FreshrankError as error:
                failed = TemporaryError(f"{release}: {error}")
        raise failed or TemporaryError(f"{release} is not loaded anywhere")

    def whole(self, release: str) -> bool:
        """True when every server that is routed to has answered right and none is being mended."""
        with self._lock:
            return all(release in pod.good for pod in self._pods.values() if not pod.away)

    def tidy(self, wanted: Collection[str], ours: Callable[[str], bool]) -> list[str]:
        """Unload what servers should not have; returns what was unloaded. Who does not answer is left as it is."""
        gone = self._each(self.pods().values(), lambda pod: pod.tidy(wanted, ours))
        return [release for found in gone if isinstance(found, list) for release in found]

    def unload_everywhere(self, release: str) -> None:
        """Take it out of every server that can be reached; the others get it out when they are back (`tidy`)."""
        self._each(self.pods().values(), lambda pod: pod.unload(release))

    def stats(self, release: str) -> ServedStats:
        """Counts of a release over all servers that answer."""
        found = self._each(self.pods().values(), lambda pod: pod.server.stats(release))
        return sum((stats for stats in found if isinstance(stats, ServedStats)), ServedStats())

    def close(self) -> None:
        """Give the threads back; connections go with the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _each(self, pods: Iterable[Pod], call: Callable[[Pod], _T]) -> list[_T | FreshrankError]:
        """What a call gives on each server, at once on all of them; an error in the place of an answer."""

        def tried(pod: Pod) -> _T | FreshrankError:
            try:
                return call(pod)
            except FreshrankError as error:
                logger.debug("triton call failed", extra={"endpoint": pod.address, "error": str(error)})
                return error

        return [future.result() for future in [self._threads.submit(tried, pod) for pod in pods]]
