"""The joiner's end in Kafka: the stage that writes examples."""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from services.common.clock import Clock
from services.common.errors import CorruptState
from services.common.kafka import Outbox
from services.common.records import Message, heads_key
from services.common.stage import Snapshot
from services.common.topics import DEAD_LETTERS, EXAMPLES, INTERACTIONS, Topic
from services.joiner.examples import Outputs
from services.joiner.fold import JoinerFold, Rules
from services.joiner.meters import Meters
from services.joiner.spill import open_spill, spill_path

log = logging.getLogger(__name__)


class MeteredFold(JoinerFold):
    """The fold, with its time and its disk counted."""

    meters: Meters
    number: int

    def apply(self, messages: Sequence[Message]) -> Outputs:
        """As the fold does it."""
        started = time.perf_counter()
        out = super().apply(messages)
        self.meters.folded(time.perf_counter() - started)
        return out

    def snapshot(self) -> Snapshot:
        """As the fold does it."""
        snapshot = super().snapshot()
        self.meters.spilled(self.number, self.spill_bytes())
        return snapshot


class JoinerStage:
    """interactions to examples, partition by partition."""

    topic: Topic = INTERACTIONS

    def __init__(
        self, rules: Rules, folder: Path, outbox: Outbox, meters: Meters, clock: Clock, needed: bool = False
    ) -> None:
        """`needed`: the log alone does not give the state (partitions were added)."""
        self._rules, self._needed = rules, needed
        self._key = heads_key([head.name for head in rules.join.heads.heads])
        self._folder = folder
        self._outbox = outbox
        self._meters = meters
        self._clock = clock

    def open(self, partition: int, snapshot: Snapshot | None) -> MeteredFold:
        """The fold of a partition; from the start of the log when the spill file does not fit the snapshot.

        Raises CorruptState when that would give another state.
        """
        offset, impressions = None, 0
        if snapshot is not None:
            offset, impressions = snapshot.next_offset, len(snapshot.arrays["open.weights"])
        spill, fits = open_spill(spill_path(self._folder, partition), offset, impressions)
        if not fits and self._needed:
            raise CorruptState(
                f"joiner, {INTERACTIONS.name}-{partition}: the spill file does not fit the snapshot, and since"
                " partitions were added the log alone does not give its state: restore both"
            )
        if not fits:
            log.warning("spill file does not fit the snapshot, reading the log again", extra={"partition": partition})
        fold = MeteredFold(partition, self._rules, spill, snapshot if fits else None)
        fold.meters, fold.number = self._meters, partition
        return fold

    async def emit(self, partition: int, outputs: Outputs) -> None:
        """Write everything of a step and wait for all acknowledgements.

        Readers know each row and letter by its place in interactions, so a second time changes nothing.
        """
        send = self._outbox.send
        sent = [send(EXAMPLES.name, value, partition=partition, key=self._key) for value in outputs.messages]
        sent += [send(DEAD_LETTERS.name, value, partition=0, key=b"joiner") for value in outputs.dead_letters]
        await asyncio.gather(*sent)
        self._meters.emitted(partition, outputs, self._clock.now_us())
