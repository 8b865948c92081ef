"""A line of log says what happened and never to whom."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from freshrank.v1.events_pb2 import Event

from services.common.logs import JsonFormatter, Sparing


def line(message: str = "done", **extra: Any) -> dict[str, Any]:
    record = logging.makeLogRecord({"name": "services.x", "levelname": "INFO", "msg": message, "created": 0.0} | extra)
    text = JsonFormatter("shop").format(record)
    assert "\n" not in text
    parsed: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return parsed


def test_a_record_is_one_json_object() -> None:
    assert line(topic="t", partition=3) == {
        "at": "1970-01-01T00:00:00.000+00:00",
        "level": "info",
        "service": "shop",
        "logger": "services.x",
        "message": "done",
        "topic": "t",
        "partition": 3,
    }


@pytest.mark.parametrize("name", ["user", "user_id", "users", "session", "session_id", "token", "query", "key"])
def test_private_fields_are_left_out_at_any_depth(name: str) -> None:
    said = json.dumps(line(**{name: "ann-7"}, event={name: "ann-7", "kind": 1}, events=[({name: "ann-7"},)]))
    assert "ann-7" not in said
    assert '"kind": 1' in said


def test_a_message_of_ours_is_not_printed_whole() -> None:
    assert line(event=Event(user_id="ann-7"))["event"] == "<Event>"


def test_plain_values_stay_what_they_are() -> None:
    said = line(n=np.int64(3), x=np.float32(0.5), nan=float("nan"), path=Path("a/b"), error=ValueError("bad"), yes=True)
    assert [said[name] for name in ("n", "x", "nan", "path", "error", "yes")] == [3, 0.5, "nan", "a/b", "bad", True]


def test_a_field_never_takes_the_place_of_ours() -> None:
    said = line(at=5, level=6, service=7)
    assert (said["level"], said["service"]) == ("info", "shop")
    assert (said["at_"], said["level_"], said["service_"]) == (5, 6, 7)


def test_exceptions_and_line_breaks_stay_in_one_line() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        said = line("what\nhappened", exc_info=(type(error), error, error.__traceback__))
    assert "first\nsecond" in said["exception"]


def test_a_library_that_repeats_itself_is_heard_every_ten_seconds() -> None:
    sparing = Sparing()

    def heard(name: str, at: float, message: str = "no broker %s") -> bool:
        return sparing.filter(logging.makeLogRecord({"name": name, "msg": message, "args": (at,), "created": at}))

    assert [heard("aiokafka.conn", at) for at in (0, 1, 9.9, 10, 11)] == [True, False, False, True, False]
    assert heard("aiokafka.conn", 11, "another message %s")
    assert [heard("services.trainer.loop", at) for at in (0, 1)] == [True, True]
