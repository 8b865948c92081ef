"""All Triton servers together: a release is loaded on every one of them before anybody is sent to it.

Health endpoints of Triton stay green when the process behind a model has died, so what counts as serving is a golden
request answered as the trainer answered it.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.errors import DeadlineExceeded, FreshrankError, NotFound, PermanentError, TemporaryError
from services.publisher.golden import Golden

logger = logging.getLogger(__name__)

Scores = NDArray[np.float32]

_LATE = 3
"""Golden requests in a row that miss their deadline before a model counts as hanging."""


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

    def infer(self, release: str, arrays: Mapping[str, NDArray[Any]]) -> Scores:
        """Scores of one request."""
        ...

    def stats(self, release: str) -> ServedStats:
        """Counts since it was loaded."""
        ...

    def close(self) -> None:
        """Give the connection back."""


class Fleet:
    """The servers of `endpoints()` by address; connections are made when an address first appears."""

    def __init__(self, endpoints: Callable[[], Collection[str]], connect: Callable[[str], Server]) -> None:
        self._endpoints, self._connect = endpoints, connect
        self._servers: dict[str, Server] = {}
        self._lock = threading.Lock()
        self._late: dict[tuple[str, str], int] = {}

    def servers(self) -> dict[str, Server]:
        """The servers there are now, by address. Raises TemporaryError when there are none."""
        addresses = sorted(self._endpoints())
        if not addresses:
            raise TemporaryError("no Triton endpoint")
        with self._lock:
            for gone in [address for address in self._servers if address not in addresses]:
                self._servers.pop(gone).close()
            for address in addresses:
                if address not in self._servers:
                    self._servers[address] = self._connect(address)
            return dict(self._servers)

    def load_everywhere(self, release: str) -> None:
        """Load on all servers, or on none: after a failure it is taken out wherever it got to, and the error passes."""
        done: list[Server] = []
        try:
            for server in self.servers().values():
                done.append(server)
                if release not in server.loaded():
                    server.load(release)
        except FreshrankError:
            for server in done:
                _quietly(server.unload, release)
            raise

    def unload_everywhere(self, release: str) -> None:
        """Take it out of every server that can be reached; the others get it out when they are back (`reconcile`)."""
        for server in self.servers().values():
            _quietly(server.unload, release)

    def warm(self, release: str, golden: Golden) -> float:
        """Send recorded requests in every padding to every server; returns the largest difference from the trainer's.

        Raises PermanentError when an answer is further off than the golden tolerance, TemporaryError when a server
        does not answer.
        """
        worst = 0.0
        for address, server in self.servers().items():
            for arrays in golden.warm_ups():
                server.infer(release, arrays)
            gap = golden.gap(server.infer(release, golden.inputs))
            if not gap <= golden.tolerance:
                raise PermanentError(f"{release} on {address}: {gap:.3g} off the golden scores")
            worst = max(worst, gap)
        return worst

    def reconcile(self, wanted: Collection[str], ours: Callable[[str], bool]) -> list[str]:
        """Load what a server lacks and unload what it should not have; returns what was done, as `+name`, `-name`.

        A server that does not answer is left for the next time.
        """
        done: list[str] = []
        for address, server in self.servers().items():
            try:
                have = server.loaded()
                for release in sorted(set(wanted) - have):
                    server.load(release)
                    done.append(f"+{release}")
                for release in sorted(name for name in have - set(wanted) if ours(name)):
                    server.unload(release)
                    done.append(f"-{release}")
            except FreshrankError as error:
                logger.warning("triton endpoint not reconciled", extra={"endpoint": address, "error": str(error)})
        return done

    def heal(self, release: str, golden: Golden) -> list[str]:
        """Ask every server the golden request; where the answer is wrong or fails, unload and load anew.

        Returns the addresses that were healed. A server that is away is not: there is nothing to load it on.
        """
        healed: list[str] = []
        for address, server in self.servers().items():
            trouble = self._trouble(address, server, release, golden)
            if trouble:
                logger.warning(
                    "golden request failed", extra={"endpoint": address, "release": release, "error": trouble}
                )
                _quietly(server.unload, release)
                server.load(release)
                healed.append(address)
        return healed

    def stats(self, release: str) -> ServedStats:
        """Counts of a release over all servers that answer."""
        total = ServedStats()
        for server in self.servers().values():
            found = _quietly(server.stats, release)
            total += found if isinstance(found, ServedStats) else ServedStats()
        return total

    def _trouble(self, address: str, server: Server, release: str, golden: Golden) -> str:
        """What is wrong with a release on a server; empty when nothing is that loading anew would mend."""
        late = self._late.pop((address, release), 0)
        try:
            gap = golden.gap(server.infer(release, golden.smallest()), rows=1)
            return "" if gap <= golden.tolerance else f"{gap:.3g} off"
        except NotFound:
            return "not loaded"
        except PermanentError as error:
            return str(error) or "failed"
        except DeadlineExceeded:
            # Once may be a busy machine; a process that hangs is late every time.
            self._late[(address, release)] = late + 1
            return "too late again and again" if late + 1 >= _LATE else ""
        except TemporaryError as error:
            logger.info("golden request not answered", extra={"release": release, "error": str(error)})
            return ""


def _quietly(call: Callable[[str], object], release: str) -> object:
    try:
        return call(release)
    except FreshrankError as error:
        logger.info("triton call failed", extra={"release": release, "error": str(error)})
        return None
