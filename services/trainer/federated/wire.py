"""Questions and answers as Flower's records, and back."""

import json
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.trainer.federated.model import Answer, Asked, Rows, Shown, Weights

Arrays = dict[str, NDArray[Any]]

_COLUMNS = ("rows", "squares", "seen_us", "touched")


def of_shown(shown: Shown) -> RecordDict:
    """Who a shop is."""
    shapes = {name: list(shape) for name, shape in shown.shapes.items()}
    plain = {"shop": shown.shop, "spec": json.dumps(shown.spec), "shapes": json.dumps(shapes)}
    return RecordDict({"shown": ConfigRecord(plain)})


def to_shown(records: RecordDict) -> Shown:
    """The way back. Raises InvalidInput."""
    plain = _config(records, "shown")
    try:
        shapes = {name: tuple(shape) for name, shape in json.loads(plain["shapes"]).items()}
        return Shown(str(plain["shop"]), json.loads(plain["spec"]), shapes)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InvalidInput("shown", "unreadable", str(error)) from error


def of_asked(asked: Asked) -> RecordDict:
    """What is asked."""
    plain = {"round": asked.round, "messages": asked.messages}
    return RecordDict({"asked": ConfigRecord(plain), "weights": _record(asked.weights), "items": _rows(asked.items)})


def to_asked(records: RecordDict) -> Asked:
    """The way back. Raises InvalidInput."""
    plain = _config(records, "asked")
    number, messages = (_whole(plain, name) for name in ("round", "messages"))
    return Asked(number, messages, _weights(records), _to_rows(records))


def of_answer(answer: Answer) -> RecordDict:
    """What a shop answers."""
    metrics = MetricRecord({"examples": answer.examples, "log_us": answer.log_us})
    return RecordDict(
        {
            "answer": ConfigRecord({"shop": answer.shop}),
            "metrics": metrics,
            "figures": MetricRecord(dict(answer.figures)),
            "weights": _record(answer.weights),
            "items": _rows(answer.items),
        }
    )


def to_answer(records: RecordDict) -> Answer:
    """The way back. Raises InvalidInput."""
    metrics = dict(records.metric_records.get("metrics", {}))
    return Answer(
        shop=str(_config(records, "answer").get("shop", "")),
        examples=_whole(metrics, "examples"),
        log_us=_whole(metrics, "log_us"),
        weights=_weights(records),
        items=_to_rows(records),
        figures={str(k): float(v) for k, v in records.metric_records.get("figures", {}).items()},
    )


def _record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(value, order="C")) for name, value in arrays.items()})


def _arrays(records: RecordDict, name: str) -> Arrays:
    if name not in records.array_records:
        raise InvalidInput(name, "missing", "the message has no such record")
    return {key: array.numpy() for key, array in records.array_records[name].items()}


def _weights(records: RecordDict) -> Weights:
    return _arrays(records, "weights")


def _rows(rows: Rows) -> ArrayRecord:
    encoded = [name.encode() for name in rows.ids]
    ids: Arrays = {
        "ids": np.frombuffer(b"".join(encoded), np.uint8),
        "id_lengths": np.array([len(raw) for raw in encoded], np.int64),
    }
    return _record({**ids, **{name: getattr(rows, name) for name in _COLUMNS}})


def _to_rows(records: RecordDict) -> Rows:
    arrays = _arrays(records, "items")
    try:
        data, ends = arrays["ids"].tobytes(), np.cumsum(arrays["id_lengths"]).tolist()
        names = [data[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
        rows = Rows(names, *(arrays[name] for name in _COLUMNS))
    except (KeyError, UnicodeDecodeError) as error:
        raise InvalidInput("items", "unreadable", str(error)) from error
    if rows.rows.ndim != 2 or any(len(getattr(rows, name)) != len(names) for name in _COLUMNS):
        raise InvalidInput("items", "uneven", "not one row, square, sighting and count for each id")
    return rows


def _config(records: RecordDict, name: str) -> dict[str, Any]:
    if name not in records.config_records:
        raise InvalidInput(name, "missing", "the message has no such record")
    return dict(records.config_records[name])


def _whole(plain: dict[str, Any], name: str) -> int:
    value = plain.get(name)
    if not isinstance(value, int) or value < 0:
        raise InvalidInput(name, "not_a_count", f"{value!r} is no whole number from 0")
    return value
