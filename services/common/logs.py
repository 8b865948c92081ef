"""One line of JSON per event on standard error; no user ids, ever."""

import json
import logging
import sys
from datetime import UTC, datetime

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_PRIVATE = frozenset({"user", "user_id", "session", "session_id", "token", "query"})


class JsonFormatter(logging.Formatter):
    """A record as one JSON object; fields given with `extra=` are added, private ones are left out."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "service": self._service, "logger": record.name}
        line["message"] = record.getMessage()
        line |= {k: v for k, v in record.__dict__.items() if k not in _STANDARD and k not in _PRIVATE}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(service: str, level: str = "INFO") -> None:
    """Send every logger of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
