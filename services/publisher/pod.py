"""One Triton server: what it has loaded, and which of it answers right."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.errors import DeadlineExceeded, FreshrankError, NotOwner, PermanentError, TemporaryError
from services.publisher.golden import Expected

logger = logging.getLogger(__name__)

Scores = NDArray[np.float32]

_LATE = 3
"""Requests in a row that miss their deadline before a model, or a server, counts as hanging."""
_REST_S = (2.0, 300.0)
"""How long a release that a server would not take is left alone there: twice as long after each try, up to this."""


@dataclass(frozen=True)
class ServedStats:
    """Requests of one release that were answered and that failed, and the seconds the answered ones took in all."""

    answered: int = 0
    failed: int = 0
    seconds: float = 0.0

    def __add__(self, other: "ServedStats") -> "ServedStats":
        return ServedStats(self.answered + other.answered, self.failed + other.failed, self.seconds + other.seconds)

    def __sub__(self, other: "ServedStats") -> "ServedStats":
        return ServedStats(self.answered - other.answered, self.failed - other.failed, self.seconds - other.seconds)


class Server(Protocol):
    """One Triton server; `triton.TritonServer`, or a small one in tests."""

    def load(self, release: str) -> None:
        """Load and wait until ready. Raises PermanentError when refused, TemporaryError when not reached."""

    def unload(self, release: str) -> None:
        """Take it out; in-flight requests finish."""

    def loaded(self) -> set[str]:
        """Names of ready models."""
        ...

    def infer(self, release: str, arrays: Mapping[str, NDArray[Any]], priority: int = 0) -> Scores:
        """Scores of one request; `priority` 2 lets others go first."""
        ...

    def mark(self, ready: bool) -> None:
        """Say to the readiness probe whether everything is loaded."""

    def stats(self, release: str) -> ServedStats:
        """Counts since it was loaded."""
        ...

    def close(self) -> None:
        """Give the connection back."""


class Pod:
    """A server with what is known about it. One thread at a time calls `tend`, another one everything else."""

    def __init__(self, address: str, server: Server, fence: Callable[[], None], seconds: Callable[[], float]) -> None:
        """`fence` raises NotOwner when nothing may be changed any more; `seconds`: a clock that only grows."""
        self.address, self.server, self._fence, self._seconds = address, server, fence, seconds
        self.good: frozenset[str] = frozenset()
        """Releases whose last golden request was answered right."""
        self.wrong: frozenset[str] = frozenset()
        """Releases that it would not take or answered wrong."""
        self.away = False
        """It cannot be reached, or hangs."""
        self._late: dict[str, int] = {}
        self._rests: dict[str, tuple[float, float]] = {}
        """Per release that it would not take: until when it is left alone, and for how long."""
        self._lock = threading.Lock()

    def put_up(self, release: str, golden: Expected) -> float:
        """Load, warm in every padding, compare; returns the gap.

        What fails is taken out again: raises PermanentError when it is refused or answers wrong, TemporaryError when
        the server is not reached.
        """
        try:
            self._fence()
            self.server.load(release)
            for arrays in golden.warm_ups():
                self.server.infer(release, arrays)
            gap = golden.gap(self.server.infer(release, golden.inputs))
            if not gap <= golden.tolerance:
                raise PermanentError(f"{release} on {self.address}: {gap:.3g} off the golden scores")
        except FreshrankError as error:
            self._now(release, wrong=isinstance(error, PermanentError))
            self._quietly_unload(release)
            raise
        self._now(release, good=True)
        return gap

    def tend(self, wanted: Mapping[str, Expected], needed: Collection[str] | None) -> list[str]:
        """Load what is lacking, ask what is there, load anew what answers wrong; returns what was right and is again.

        `needed`: what the readiness probe is told to be there or not; None = it is told nothing. What cannot be done
        now is due the next time.
        """
        healed: list[str] = []
        try:
            have = self.server.loaded()
            healed = [release for release, golden in wanted.items() if self._mend(release, golden, have)]
            if needed is not None:
                self._fence()
                self.server.mark(all(release in self.good for release in needed))
            self.away = False
            self._late.pop("", None)
        except NotOwner as error:
            logger.info("triton endpoint not tended", extra={"endpoint": self.address, "error": str(error)})
        except DeadlineExceeded as error:
            self.away = self._too_late("") or self.away
            logger.info("triton endpoint is late", extra={"endpoint": self.address, "error": str(error)})
        except TemporaryError as error:
            self.away = True
            logger.info("triton endpoint not reached", extra={"endpoint": self.address, "error": str(error)})
        except PermanentError as error:
            logger.warning("triton endpoint refuses", extra={"endpoint": self.address, "error": str(error)})
        return healed

    def tidy(self, wanted: Collection[str], ours: Callable[[str], bool]) -> list[str]:
        """Unload what is ours and not wanted; returns what."""
        gone = sorted(name for name in self.server.loaded() - set(wanted) if ours(name))
        for release in gone:
            self.unload(release)
        return gone

    def unload(self, release: str) -> None:
        """Take it out."""
        self._fence()
        self._now(release)
        self.server.unload(release)

    def _mend(self, release: str, golden: Expected, have: Collection[str]) -> bool:
        """See that a release is there and right; True when it had been and was loaded anew."""
        trouble = self._trouble(release, golden) if release in have else "not loaded"
        if trouble is None:
            return False
        if not trouble:
            self._now(release, good=True)
            return False
        was_right, now_s = release in self.good and release in have, self._seconds()
        until_s, rest_s = self._rests.get(release, (0.0, 0.0))
        self._now(release, wrong=release in have or release in self.wrong)
        if now_s < until_s:
            return False
        logger.warning("release is not right", extra={"endpoint": self.address, "release": release, "error": trouble})
        if release in have:
            self._quietly_unload(release)
        try:
            self.put_up(release, golden)
            return was_right
        except PermanentError as error:
            rest_s = min(max(2 * rest_s, _REST_S[0]), _REST_S[1])
            self._rests[release] = (now_s + rest_s, rest_s)
            logger.warning("release not loaded", extra={"endpoint": self.address, "error": str(error)})
            return False

    def _trouble(self, release: str, golden: Expected) -> str | None:
        """What is wrong with a release that loading it anew may mend; empty = nothing, None = it did not say."""
        try:
            gap = golden.gap(self.server.infer(release, golden.smallest()), rows=1)
        except PermanentError as error:
            return str(error) or "failed"
        except DeadlineExceeded:
            return "too late again and again" if self._too_late(release) else None
        self._late.pop(release, None)
        return "" if gap <= golden.tolerance else f"{gap:.3g} off"

    def _too_late(self, what: str) -> bool:
        self._late[what] = self._late.get(what, 0) + 1
        return self._late[what] >= _LATE

    def _now(self, release: str, good: bool = False, wrong: bool = False) -> None:
        """Note how a release stands; when nothing is said it is not there."""
        with self._lock:
            self.good = self.good | {release} if good else self.good - {release}
            self.wrong = self.wrong | {release} if wrong else self.wrong - {release}
        if good or not wrong:
            self._rests.pop(release, None)

    def _quietly_unload(self, release: str) -> None:
        try:
            self._fence()
            self.server.unload(release)
        except FreshrankError as error:
            logger.info("not unloaded", extra={"endpoint": self.address, "error": str(error)})
