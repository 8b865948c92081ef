"""Ticks beside the stream: to the partitions this worker owns and has read to their ends."""

import asyncio
import logging

from faust.types import TP

from services.common.clock import Clock
from services.common.errors import FreshrankError
from services.common.faust import Runtime
from services.common.kafka import Outbox
from services.common.topics import EVENTS, INTERACTIONS
from services.ingest.meters import Meters
from services.ingest.tick import Ticker, tick_message

log = logging.getLogger(__name__)


class TickWriter:
    """Writes a tick to each partition that is due one, until it is cancelled."""

    def __init__(self, runtime: Runtime, outbox: Outbox, meters: Meters, clock: Clock, slack_us: int) -> None:
        self._runtime = runtime
        self._outbox = outbox
        self._meters = meters
        self._clock = clock
        self._ticker = Ticker(slack_us)

    async def run(self, period_s: float) -> None:
        """Every `period_s` seconds."""
        while True:
            await asyncio.sleep(period_s)
            try:
                await self.write()
            except FreshrankError as error:
                # The next tick says the same and more; the stage itself ends the process when Kafka stays away.
                log.warning("tick not written", extra={"error": str(error)})

    async def write(self) -> None:
        """Write the ticks that are due now."""
        positions = {p: fold.next_offset for p, fold in self._runtime.folds(EVENTS.name).items()}
        ends = {p: self._runtime.app.consumer.highwater(TP(EVENTS.name, p)) for p in positions}
        sent = [
            self._outbox.send(INTERACTIONS.name, tick_message(time_us), partition=partition)
            for partition, time_us in self._ticker.due(self._clock.now_us(), positions, ends)
        ]
        await asyncio.gather(*sent)
        self._meters.ticks.inc(len(sent))
