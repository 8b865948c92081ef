"""Ingest's ends in Kafka: the stage that writes, and the reader of the catalogue."""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence

from services.common.broker import Address
from services.common.clock import Clock
from services.common.errors import TemporaryError
from services.common.kafka import Outbox, Tail
from services.common.records import Message
from services.common.stage import Snapshot
from services.common.topics import DEAD_LETTERS, EVENTS, INTERACTIONS, ITEM_UPDATES, Topic
from services.ingest.catalogue import Catalogue
from services.ingest.clean import Rules
from services.ingest.fold import IngestFold
from services.ingest.meters import Meters
from services.ingest.outputs import Outputs

log = logging.getLogger(__name__)

_RETRY_S = 1.0


class TimedFold(IngestFold):
    """The fold, with the seconds it takes counted."""

    meters: Meters

    def apply(self, messages: Sequence[Message]) -> Outputs:
        """As the fold does it."""
        started = time.perf_counter()
        out = super().apply(messages)
        self.meters.folded(time.perf_counter() - started)
        return out


class IngestStage:
    """events.in to interactions, dead letters, and records sent on to their user's partition."""

    topic: Topic = EVENTS

    def __init__(
        self,
        partitions: int,
        rules: Rules,
        catalogue: Catalogue,
        log_time: bool,
        outbox: Outbox,
        meters: Meters,
        clock: Clock,
    ) -> None:
        self._partitions = partitions
        self._rules = rules
        self._catalogue = catalogue
        self._log_time = log_time
        self._outbox = outbox
        self._meters = meters
        self._clock = clock

    def open(self, partition: int, snapshot: Snapshot | None) -> TimedFold:
        """The fold of a partition."""
        fold = TimedFold(partition, self._partitions, self._rules, self._catalogue.lookup, self._log_time, snapshot)
        fold.meters = self._meters
        return fold

    async def emit(self, partition: int, outputs: Outputs) -> None:
        """Write everything of a step and wait for all acknowledgements.

        Readers know each row, letter and forwarded record by its place in events.in, so a second time changes nothing.
        """
        send = self._outbox.send
        sent = [send(INTERACTIONS.name, value, partition=partition) for value in outputs.messages]
        sent += [send(EVENTS.name, value, partition=to, key=key) for to, key, value in outputs.forwards]
        sent += [send(DEAD_LETTERS.name, value, partition=0, key=b"ingest") for value in outputs.dead_letters]
        await asyncio.gather(*sent)
        self._meters.emitted(partition, outputs, self._clock.now_us())
        if outputs.clip_bounds:
            extra = {"partition": partition, "version": outputs.clip_version, "bounds": outputs.clip_bounds}
            log.info("new bounds for outliers", extra=extra)


class CatalogueReader:
    """Keeps a catalogue up to date in a thread; `start` returns when all that was written before is known."""

    def __init__(self, bootstrap: Address, catalogue: Catalogue, meters: Meters) -> None:
        self._catalogue = catalogue
        self._meters = meters
        self._tail = Tail(bootstrap, ITEM_UPDATES.name)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="catalogue", daemon=True)

    def start(self) -> None:
        """Read the topic to its end, then go on beside everything else."""
        for _, _, _, key, value in self._tail.until(self._tail.ends()):
            self._catalogue.apply(key, value)
        self._meters.catalogue_items.set(len(self._catalogue))
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._tail.close()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                for _, _, _, key, value in self._tail.poll():
                    self._catalogue.apply(key, value)
            except TemporaryError as error:
                log.warning("catalogue cannot be read, trying again", extra={"error": str(error)})
                self._stopped.wait(_RETRY_S)
            self._meters.catalogue_items.set(len(self._catalogue))
