"""A small real stage as a process: it chains what it reads, and writes the chain beside each message's offset.

    python -m tests.common.counting '{"bootstrap": ..., "source": ..., "sink": ..., "group": ..., "folder": ...}'

A state that skipped, doubled or reordered anything has another chain, and every row of the sink shows its own.
"""

import asyncio
import json
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_settings import SettingsConfigDict

from services.common import health as probes
from services.common import logs
from services.common.errors import TemporaryError
from services.common.faust import Runtime
from services.common.health import Health
from services.common.kafka import Outbox
from services.common.metrics import Metrics
from services.common.records import Message
from services.common.settings import ServiceSettings, load_settings
from services.common.snapshots import SnapshotStore
from services.common.stage import Snapshot
from services.common.topics import Topic

Rows = list[tuple[int, int]]
"""Offset, and the chain after its message."""


def link(chain: int, offset: int, value: bytes) -> int:
    """The chain after one more message."""
    return zlib.crc32(b"%d:%d:" % (chain, offset) + value)


class Surroundings(ServiceSettings):
    """What comes from the environment as it does to a service: what Kafka asks for."""

    model_config = SettingsConfigDict(env_prefix="FRESHRANK_TEST_", frozen=True, extra="forbid")


@dataclass(frozen=True)
class Options:
    """What the process is told. Offsets of -1 never come."""

    bootstrap: str
    source: str
    sink: str
    group: str
    folder: str
    instance: str = ""
    snapshot_seconds: float = 0.2
    session_seconds: float = 3.0
    attempts: int = 8
    step_ms: int = 0
    """Every emit takes at least so long."""
    fails_at: int = -1
    """`apply` raises when it comes to this offset."""
    refused: int = 0
    """So many emits fail for a time."""
    holds_at: int = -1
    """An emit with this offset makes the file `holding` and waits until it is gone."""
    opens: bool = True
    """False: a fold cannot be opened."""


class Chain:
    """The chain of one partition."""

    def __init__(self, options: Options, snapshot: Snapshot | None) -> None:
        self._options = options
        self.next_offset = snapshot.next_offset if snapshot else 0
        self._state = snapshot.arrays["state"] if snapshot else np.zeros(2, np.int64)

    @property
    def chain(self) -> int:
        return int(self._state[0])

    @property
    def count(self) -> int:
        return int(self._state[1])

    def apply(self, messages: Sequence[Message]) -> Rows:
        rows = []
        for message in messages:
            if message.offset == self._options.fails_at:
                raise ValueError("a fault in the fold")
            self._state[:] = link(self.chain, message.offset, message.value), self.count + 1
            self.next_offset = message.offset + 1
            rows.append((message.offset, self.chain))
        return rows

    def snapshot(self) -> Snapshot:
        return Snapshot(self.next_offset, {"state": self._state.copy()})


class ChainStage:
    """Source to sink, same partition."""

    def __init__(self, options: Options, outbox: Outbox) -> None:
        self.topic = Topic(options.source, "", "", (), ())
        self._options = options
        self._outbox = outbox
        self._refused = options.refused
        self._holding = Path(options.folder) / "holding"

    def open(self, partition: int, snapshot: Snapshot | None) -> Chain:
        if not self._options.opens:
            raise ValueError("this fold does not open")
        return Chain(self._options, snapshot)

    async def emit(self, partition: int, rows: Rows) -> None:
        if self._refused:
            self._refused -= 1
            raise TemporaryError("not now")
        await asyncio.sleep(self._options.step_ms / 1000)
        if any(offset == self._options.holds_at for offset, _ in rows):
            await self._hold()
        sink = self._options.sink
        await asyncio.gather(*(self._outbox.send(sink, json.dumps(row).encode(), partition=partition) for row in rows))

    async def _hold(self) -> None:
        self._holding.touch()
        while self._holding.exists():
            await asyncio.sleep(0.02)


def state_of(runtime: Runtime, options: Options) -> dict[str, Any]:
    """What tests ask a live process about itself."""
    app, consumer = runtime.app, runtime.app._consumer  # `app.consumer` would make one, in this thread
    fetcher = consumer and consumer._thread._consumer._fetcher
    return {
        "folds": {p: [fold.next_offset, fold.count, fold.chain] for p, fold in runtime.folds(options.source).items()},
        "fetch": fetcher and [fetcher._fetch_max_wait_ms, fetcher._fetch_min_bytes],
        "guarantee": app.conf.processing_guarantee.value,
        "in_transaction": app.in_transaction,
        "web": app.conf.web_enabled,
        "concurrency": [agent.concurrency for agent in app.agents.values()],
        "tracked": consumer and sum(map(len, consumer._acked.values())) + len(consumer.unacked),
    }


async def main(options: Options) -> None:
    """Serve until SIGTERM; the first line of standard output is the port of the probes."""
    logs.configure("test", "INFO")
    brokers = replace(load_settings(Surroundings).kafka, bootstrap=options.bootstrap)
    metrics, health, outbox = Metrics("test"), Health(), Outbox(brokers)
    runtime = Runtime(
        options.group,
        brokers,
        [ChainStage(options, outbox)],
        SnapshotStore(Path(options.folder)),
        health,
        metrics,
        instance=options.instance,
        snapshot_seconds=options.snapshot_seconds,
        session_seconds=options.session_seconds,
        attempts=options.attempts,
    )
    health.extra = lambda: state_of(runtime, options) if health.ready else {"folds": {}}
    server = probes.serve(health, metrics.registry, 0)
    print(server.server_port, flush=True)
    try:
        await runtime.run()
    finally:
        outbox.close()
        server.shutdown()


if __name__ == "__main__":
    asyncio.run(main(Options(**json.loads(sys.argv[1]))))
