"""Kafka's part of the gateway: what it sends, and the two compacted topics it follows."""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from confluent_kafka.admin import AdminClient
from freshrank.v1.events_pb2 import Forget, Inbound
from freshrank.v1.models_pb2 import ArmSplit, CatalogueItem, Command, ItemRow, Route, TextRoute

from services.common.arms import MAIN, RERANKER_KEY, ROUTE_KEY, SPLIT_KEY, TEXT_KEY
from services.common.broker import Address, broker
from services.common.clock import WallClock
from services.common.errors import TemporaryError
from services.common.ids import partition_of
from services.common.kafka import Ack, Outbox, Tail
from services.common.topics import COMMANDS, EVENTS, ITEM_UPDATES, ROUTES
from services.gateway.releases import Routes, split_of
from services.gateway.search.vector_index import SLOTS, VectorIndexer
from services.gateway.search.writer import Indexer, earlier
from services.gateway.table_writer import Origin, TableWriter, boot_id
from services.gateway.track import Parcel

logger = logging.getLogger(__name__)

BATCH = 2_000
RETRY_S = 1.0


class Sender:
    """Puts records where the contracts say; every send is acknowledged by all replicas."""

    def __init__(self, outbox: Outbox, partitions: int, headers: Callable[[], Mapping[str, bytes]]) -> None:
        self._outbox, self._partitions, self._headers = outbox, partitions, headers

    def parcel(self, parcel: Parcel) -> "asyncio.Future[Ack]":
        """Events of a Track call."""
        return self._events(parcel.partition, parcel.key, parcel.inbound.SerializeToString())

    def impression(self, user: str, inbound: bytes) -> "asyncio.Future[Ack]":
        """An impression, as a serialized Inbound, on its user's partition."""
        return self._events(partition_of(user, self._partitions), user, inbound)

    def forget(self, user: str, before_us: int, received_us: int) -> "asyncio.Future[Ack]":
        """The wish to be forgotten, on the user's partition."""
        inbound = Inbound(forget=Forget(user_id=user, before_us=before_us), received_us=received_us)
        return self._events(partition_of(user, self._partitions), user, inbound.SerializeToString())

    def item(self, item: str, entry: CatalogueItem | None) -> "asyncio.Future[Ack]":
        """A catalogue entry; None deletes it."""
        value = entry.SerializeToString() if entry is not None else None
        return self._outbox.send(ITEM_UPDATES.name, value, key=f"c|{item}".encode(), headers=self._headers())

    def row(self, slot: str, item: str, row: ItemRow | None) -> "asyncio.Future[Ack]":
        """A vector that the shop gives of an item; None takes it out."""
        value = row.SerializeToString() if row is not None else None
        return self._outbox.send(ITEM_UPDATES.name, value, key=f"r|{slot}|{item}".encode(), headers=self._headers())

    def command(self, command: Command) -> "asyncio.Future[Ack]":
        """What a person asks of the publisher."""
        key = command.command_id.encode()
        return self._outbox.send(COMMANDS.name, command.SerializeToString(), key=key, headers=self._headers())

    def check(self) -> None:
        """Raises PermanentError when the producer is broken for good: only a new process sends again."""
        if self._outbox.fault is not None:
            raise self._outbox.fault

    def close(self) -> int:
        """Send what is queued; returns the number of records that could not be sent."""
        return self._outbox.close()

    def _events(self, partition: int, key: str, inbound: bytes) -> "asyncio.Future[Ack]":
        return self._outbox.send(EVENTS.name, inbound, partition=partition, key=key.encode(), headers=self._headers())


class RouteTail:
    """Follows the routes topic in a thread; `on_routes` is called there when it has changed."""

    def __init__(self, bootstrap: Address, on_routes: Callable[[Routes], None]) -> None:
        self._bootstrap, self._on_routes = bootstrap, on_routes
        self._stop = threading.Event()
        self.positions: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name="routes", daemon=True)

    def start(self) -> None:
        """Begin; what holds now comes first, nothing when there is no route."""
        self._thread.start()

    def close(self) -> None:
        """Stop and wait for the thread."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except TemporaryError as error:
                logger.warning("routes cannot be read: %s", error)
            except Exception:
                if not self._stop.is_set():
                    logger.exception("a route could not be followed")
            self._stop.wait(RETRY_S)

    def _follow(self) -> None:
        tail = Tail(self._bootstrap, ROUTES.name)
        try:
            ends, routes, known = tail.ends(), Routes(), False
            while not self._stop.is_set():
                records = [(key, value) for _, _, _, key, value in tail.poll(100, 0.05) if value]
                for key, value in records:
                    routes = with_record(routes, key or b"", value or b"")
                if (records or not known) and all(tail.positions[p] >= end for p, end in ends.items()):
                    self._on_routes(routes)
                    known = True
                self.positions = dict(tail.positions)
        finally:
            tail.close()


def with_record(routes: Routes, key: bytes, value: bytes) -> Routes:
    """The routes after one more record of the topic. Raises DecodeError.

    A record of an earlier term changes nothing: who wrote it did not lead any more.
    """
    if key == SPLIT_KEY:
        split = ArmSplit.FromString(value)
        if split.term < routes.split_term:
            return _late(routes, key, split.term)
        return replace(routes, split=split_of(split), split_term=split.term)
    if key == TEXT_KEY:
        text = TextRoute.FromString(value)
        return _late(routes, key, text.term) if text.term < routes.text.term else replace(routes, text=text)
    if key == RERANKER_KEY:
        found = TextRoute.FromString(value)
        late = found.term < routes.reranker.term
        return _late(routes, key, found.term) if late else replace(routes, reranker=found)
    if not key.startswith(ROUTE_KEY):
        return routes  # of a later version: nothing this one knows
    route = Route.FromString(value)
    arm = route.arm or MAIN
    if arm in routes.arms and route.term < routes.arms[arm].term:
        return _late(routes, key, route.term)
    return replace(routes, arms={**routes.arms, arm: route})


def _late(routes: Routes, key: bytes, term: int) -> Routes:
    logger.warning("a record of an earlier term is passed over", extra={"key": key.decode(), "term": term})
    return routes


@dataclass(frozen=True)
class Folders:
    """Where the writer process keeps what it makes."""

    table: Path
    words: Path
    vectors: Path


def write_table(
    bootstrap: Address, folders: Folders, language: str, stop: threading.Event, given: Sequence[str] = ()
) -> None:
    """Body of the writer process: keep the item table and the indices of words and vectors at the end of item_updates
    until told to stop. `given`: row slots of vectors that the shop gives.
    """
    clock, log = WallClock(), origin(bootstrap)
    writer = TableWriter(folders.table, log)
    indexer = Indexer(folders.words, log, language, keep=bool(writer.positions))
    slots = (*SLOTS, *given)
    vectors = VectorIndexer(folders.vectors, folders.table, keep=bool(writer.positions), slots=slots)
    threading.Thread(target=vectors.run, args=(stop,), name="vectors", daemon=True).start()
    while not stop.is_set():
        try:
            positions = earlier(writer.positions, indexer.positions)
            _tail_into(writer, indexer, Tail(bootstrap, ITEM_UPDATES.name, positions), clock, stop)
        except TemporaryError as error:
            logger.warning("item updates cannot be read: %s", error)
            stop.wait(RETRY_S)


def _tail_into(writer: TableWriter, indexer: Indexer, tail: Tail, clock: WallClock, stop: threading.Event) -> None:
    try:
        ends, caught_up = tail.ends(), False
        while not stop.is_set():
            records = tail.poll(BATCH, 0.02)
            if records:
                updates = [(key, value) for _, _, _, key, value in records if key is not None]
                writer.apply(updates)
                indexer.apply(updates, writer.slot_of)
            writer.applied(tail.positions)
            caught_up = caught_up or all(tail.positions[p] >= end for p, end in ends.items())
            indexer.settle(tail.positions, clock.now_us() / 1e6, caught_up)
            writer.alive(clock.now_us(), caught_up)
    finally:
        tail.close()


def origin(bootstrap: Address) -> Origin:
    """Identity of the cluster's log. Raises TemporaryError when the cluster cannot be asked."""
    try:
        cluster = AdminClient(broker(bootstrap).config()).list_topics(timeout=10).cluster_id
    except Exception as error:
        raise TemporaryError(f"Kafka cannot be asked: {error}") from error
    return Origin(f"{cluster}/{ITEM_UPDATES.name}", boot_id())
