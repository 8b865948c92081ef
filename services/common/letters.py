"""Dead letters: a record that could not be used, with the reason and the place where it lies."""

from freshrank.v1.events_pb2 import DeadLetter

from services.common.errors import InvalidInput

PAYLOAD_BYTES = 65_536
"""A dead letter keeps so much of the record, so that the letter itself always fits."""


def dead_letter(
    stage: str,
    topic: str,
    error: InvalidInput,
    payload: bytes,
    partition: int,
    offset: int,
    index: int,
    time_us: int,
) -> bytes:
    """The letter of one record; its position is what makes it one letter.

    >>> error = InvalidInput("value", "malformed", "not a record")
    >>> letter = DeadLetter.FromString(dead_letter("joiner", "interactions", error, b"x", 2, 7, 0, 9))
    >>> letter.stage, letter.reason, letter.field, letter.partition, letter.offset
    ('joiner', 'malformed', 'value', 2, 7)
    """
    letter = DeadLetter(
        stage=stage,
        reason=error.reason,
        field=error.field,
        detail=error.detail,
        payload=payload[:PAYLOAD_BYTES],
        topic=topic,
        partition=partition,
        offset=offset,
        index=index,
        time_us=time_us,
    )
    data: bytes = letter.SerializeToString()
    return data
