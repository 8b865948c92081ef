"""Redis's failures as our two kinds of error."""

from collections.abc import Iterator
from contextlib import contextmanager

import hiredis
import redis

from services.common.errors import DeadlineExceeded, PermanentError, TemporaryError


class StoreUnavailable(TemporaryError):
    """Raised when Redis cannot be reached, is loading, full, or read-only for now."""


class StoreRefused(PermanentError):
    """Raised when Redis refuses a command for good: wrong password, wrong type of key."""


class ReadTimeout(DeadlineExceeded):
    """Raised when a read was not answered within its timeout."""


_PASSING = (
    "LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "OOM", "MISCONF", "NOREPLICAS", "NOSCRIPT",
    "MAX NUMBER OF CLIENTS",
)  # fmt: skip


def by_consequence(error: Exception) -> Exception:
    """The error to raise for a failure of redis-py or hiredis."""
    text = str(error).upper().removeprefix("ERR ")
    if isinstance(error, redis.ResponseError | hiredis.ReplyError) and not isinstance(error, redis.ConnectionError):
        kind = type(error).__name__.upper().removesuffix("ERROR")  # redis-py drops the code from some messages
        passing = text.startswith(_PASSING) or kind in ("BUSYLOADING", "READONLY", "OUTOFMEMORY", "MASTERDOWN")
        return StoreUnavailable(str(error)) if passing else StoreRefused(str(error))
    return StoreUnavailable(f"{type(error).__name__}: {error}")


@contextmanager
def reported() -> Iterator[None]:
    """Re-raises failures of Redis inside as StoreUnavailable or StoreRefused."""
    try:
        yield
    except (redis.RedisError, hiredis.HiredisError, OSError) as error:
        raise by_consequence(error) from error
