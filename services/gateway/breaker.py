"""A breaker in front of a part that fails: stop asking for a while, then try with one call."""

from dataclasses import dataclass


@dataclass
class Breaker:
    """Opens after `limit` failures in a row, for `rest_s` seconds; then one call at a time may try.

    Times are seconds of any clock that only grows.

    >>> breaker = Breaker(limit=1, rest_s=5)
    >>> breaker.failed(10); breaker.allows(11), breaker.allows(15), breaker.allows(15)
    (False, True, False)
    """

    limit: int = 5
    rest_s: float = 1.0
    failures: int = 0
    _open_until: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether a call may be made now."""
        if self.failures < self.limit:
            return True
        if now < self._open_until:
            return False
        self._open_until = now + self.rest_s  # this call tries, the others wait for what comes of it
        return True

    def failed(self, now: float) -> None:
        """A call failed in a way that the next one may too."""
        self.failures += 1
        self._open_until = now + self.rest_s

    def worked(self) -> None:
        """A call was answered."""
        self.failures = 0
