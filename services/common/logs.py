"""One line of JSON per event on standard error; no user ids, ever."""

import json
import logging
import math
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime
from numbers import Integral, Real
from pathlib import Path
from typing import Any
from uuid import UUID

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_OURS = frozenset({"at", "level", "service", "logger", "message", "exception"})
_PRIVATE = frozenset(
    {"user", "user_id", "users", "session", "session_id", "token", "attribution_token", "query", "key"}
)
_CHATTY = ("faust", "mode", "aiokafka", "services.common.kafka")
"""Libraries that tell each step of each rebalance, and ten times a second that a server is away."""
_AGAIN_S = 10.0


class JsonFormatter(logging.Formatter):
    """A record as one JSON object; fields given with `extra=` are added, private ones are left out at any depth.

    Objects that are not plain data show as their type's name: a message printed whole would name its shopper.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "service": self._service, "logger": record.name}
        line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        extra = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        line |= {f"{name}_" if name in _OURS else name: value for name, value in _plain(extra).items()}
        return json.dumps(line)


class Sparing(logging.Filter):
    """Lets each message of a chatty library through once in 10 s, whatever its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a record."""
        if not record.name.startswith(_CHATTY):
            return True
        # librdkafka's lines come as one argument: what they are about stands in front.
        about = record.getMessage()[:12] if record.name.startswith("services") else str(record.msg)
        last = self._last.get((record.name, about), -math.inf)
        if record.created - last < _AGAIN_S:
            return False
        self._last[record.name, about] = record.created
        return True


def configure(service: str, level: str = "INFO") -> None:
    """Send every logger of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    handler.addFilter(Sparing())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "DEBUG" else logging.WARNING)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items() if str(name) not in _PRIVATE}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Real):  # NumPy's too
        number = int(value) if isinstance(value, Integral) else float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, Path | date | UUID | BaseException):
        return str(value)
    return f"<{type(value).__name__}>"
