"""Where values come from: the cleaned log as a stream, and the archive of emitted feature rows as its batch source.

Feast starts no stream jobs: services/features computes the aggregations and archives each row it emits, so
point-in-time joins read what was served (Feast reads columns, it never aggregates).
"""

import os
from datetime import timedelta
from pathlib import Path

from feast import FileSource, KafkaSource, PushSource
from feast.data_format import ProtoFormat

_STORE = Path(os.environ.get("FRESHRANK_STORE", "store")).absolute()
_BOOTSTRAP = os.environ.get("FRESHRANK_BOOTSTRAP", "127.0.0.1:9092")


def archive(view: str) -> FileSource:
    """Rows of a view as they were emitted, Parquet."""
    return FileSource(
        name=f"{view}_archive",
        path=str(_STORE / "archive" / "features" / view),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )


def stream(view: str) -> KafkaSource:
    """The cleaned log behind a streaming view."""
    return KafkaSource(
        name=f"{view}_stream",
        kafka_bootstrap_servers=_BOOTSTRAP,
        topic="interactions",
        timestamp_field="event_timestamp",
        message_format=ProtoFormat("services.common.records"),
        batch_source=archive(view),
        watermark_delay_threshold=timedelta(hours=1),
    )


def pushed(view: str) -> PushSource:
    """A view that services or people write to."""
    return PushSource(name=f"{view}_push", batch_source=archive(view))
