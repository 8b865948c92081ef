"""Ticks, the catalogue, and the stage's writes."""

import asyncio

import pytest
from freshrank.v1.models_pb2 import CatalogueItem

from services.common import records
from services.common.clock import ManualClock
from services.common.errors import InvalidInput, TemporaryError
from services.common.metrics import Metrics
from services.common.settings import load_settings
from services.common.topics import DEAD_LETTERS, EVENTS, INTERACTIONS
from services.ingest.catalogue import Catalogue
from services.ingest.clean import Rules
from services.ingest.kafka import IngestStage
from services.ingest.meters import Meters
from services.ingest.settings import IngestSettings
from services.ingest.tick import Ticker, tick_message
from tests.ingest.makers import SECOND, T0, event, inbound, message


def test_a_partition_read_to_its_end_gets_a_tick_a_little_behind_now() -> None:
    assert list(Ticker(100).due(T0, {0: 5}, {0: 5})) == [(0, T0 - 100)]


def test_a_partition_that_is_behind_or_unknown_gets_none() -> None:
    assert list(Ticker(0).due(T0, {0: 5, 1: 5}, {0: 6, 1: None})) == []


def test_a_clock_that_stands_or_goes_back_gives_no_tick() -> None:
    ticker = Ticker(0)
    assert [len(list(ticker.due(now, {0: 0}, {0: 0}))) for now in (T0, T0, T0 - 1, T0 + 1)] == [1, 0, 0, 1]


def test_a_tick_is_one_row_that_is_no_record_of_the_log() -> None:
    (row,) = records.decode(tick_message(T0)).to_pylist()
    assert (row["kind"], row["time_us"], row["src_offset"], row["user"]) == (records.TICK, T0, -1, None)


def entry(**fields: object) -> bytes:
    data: bytes = CatalogueItem(**fields).SerializeToString()
    return data


def test_the_catalogue_knows_the_newest_entry_of_an_item() -> None:
    catalogue = Catalogue()
    catalogue.apply(b"c|a", entry(categories=["", "shoes", "red"], price=2.0))
    catalogue.apply(b"c|a", entry(categories=["hats"], price=3.0))
    catalogue.apply(b"c|b", entry(price=float("nan")))
    catalogue.apply(b"f|view|a", b"features")
    catalogue.apply(None, b"")
    assert (catalogue.lookup("a"), catalogue.lookup("b"), catalogue.lookup("c")) == (
        ("hats", 3.0),
        (None, None),
        (None, None),
    )


def test_a_deleted_item_is_not_known_and_a_broken_entry_is_counted() -> None:
    catalogue = Catalogue()
    catalogue.apply(b"c|a", entry(price=2.0))
    catalogue.apply(b"c|a", None)
    catalogue.apply(b"c|b", b"\xff")
    catalogue.apply(b"c|\xff", entry())
    assert len(catalogue) == 0
    assert catalogue.refused == 2


class Broker:
    """Keeps what was sent; fails the first `failures` records."""

    def __init__(self, failures: int = 0) -> None:
        self.sent: list[tuple[str, int, bytes | None, bytes | None]] = []
        self.failures = failures

    def send(
        self, topic: str, value: bytes | None, *, partition: int = -1, key: bytes | None = None
    ) -> "asyncio.Future[tuple[int, int]]":
        """As the real outbox does it."""
        future: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        if self.failures:
            self.failures -= 1
            future.set_exception(TemporaryError("no broker"))
        else:
            self.sent.append((topic, partition, key, value))
            future.set_result((partition, len(self.sent)))
        return future


def stage_on(broker: Broker, metrics: Metrics, clock: ManualClock) -> IngestStage:
    return IngestStage(2, Rules(), Catalogue(), False, broker, Meters(metrics), clock)  # type: ignore[arg-type]


async def test_rows_letters_and_records_sent_on_are_all_acknowledged_before_a_step_counts() -> None:
    broker, metrics, clock = Broker(), Metrics("ingest"), ManualClock(T0 + 2 * SECOND)
    stage = stage_on(broker, metrics, clock)
    on = stage.open(0, None)
    users = [f"user-{n}" for n in range(8)]
    log = [inbound(event(n, user_id=user, event_time_us=T0)) for n, user in enumerate(users)]
    out = on.apply([message(n, record) for n, record in enumerate([*log, b"\xff"])])
    await stage.emit(0, out)
    topics = [(topic, partition) for topic, partition, _, _ in broker.sent]
    assert topics == [(INTERACTIONS.name, 0), *[(EVENTS.name, 1)] * len(out.forwards), (DEAD_LETTERS.name, 0)]
    value = metrics.registry.get_sample_value
    assert value("freshrank_ingest_records_total", {"outcome": "event"}) == len(users) - len(out.forwards)
    assert value("freshrank_ingest_dead_letters_total", {"reason": "malformed"}) == 1
    assert value("freshrank_ingest_freshness_seconds_sum") == pytest.approx(2.0 * (len(users) - len(out.forwards)))


async def test_a_write_that_fails_fails_the_step_and_is_not_counted() -> None:
    broker, metrics = Broker(failures=1), Metrics("ingest")
    stage = stage_on(broker, metrics, ManualClock(T0))
    out = stage.open(0, None).apply([message(0, b"\xff")])
    with pytest.raises(TemporaryError):
        await stage.emit(0, out)
    assert metrics.registry.get_sample_value("freshrank_ingest_dead_letters_total", {"reason": "malformed"}) is None
    await stage.emit(0, out)
    assert len(broker.sent) == 1


def test_settings_become_the_rules_of_the_fold() -> None:
    rules = IngestSettings(lateness_s=60, bot_dwell_ms=5, ahead_s=1).rules()
    assert (rules.lateness_us, rules.bots.dwell_us, rules.limits.ahead_us) == (60_000_000, 5_000, 1_000_000)


def test_a_setting_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput) as caught:
        load_settings(IngestSettings, {"FRESHRANK_INGEST_TIKS": "wall"})
    assert caught.value.field == "FRESHRANK_INGEST_TIKS"
