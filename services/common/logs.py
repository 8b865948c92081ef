"""One line of JSON per event on standard error; no user ids, ever."""

import json
import logging
import math
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_OURS = frozenset({"at", "level", "service", "logger", "message", "exception"})
_PRIVATE = frozenset(
    {"user", "user_id", "users", "session", "session_id", "token", "attribution_token", "query", "key"}
)
_CHATTY = ("faust", "mode", "aiokafka")
"""Libraries that tell each step of each rebalance; from them warnings are enough."""


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


def configure(service: str, level: str = "INFO") -> None:
    """Send every logger of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "DEBUG" else logging.WARNING)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items() if str(name) not in _PRIVATE}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path | date | UUID | BaseException):
        return str(value)
    return f"<{type(value).__name__}>"
