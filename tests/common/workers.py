"""Workers of the counting stage on real Kafka, and the oracle of what they must have done."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

from confluent_kafka import Producer

from services.common.kafka import Tail
from services.demo.kafka import Kafka, TopicSpec, create_topics
from tests.common.counting import Options, link

PATIENCE_S = 40.0


def until(what: Callable[[], Any], says: str | Callable[[], str], seconds: float = PATIENCE_S) -> Any:
    """Wait for something of another process; fails with the sentence."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not in {seconds:.0f} s: {says() if callable(says) else says}")


class Worker:
    """One process of the stage; killed when the test is over, if it is not gone by then."""

    def __init__(self, options: Options, log: Path) -> None:
        self._log = log
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.common.counting", json.dumps(asdict(options))],
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PROCESSING_GUARANTEE": "exactly_once", "APP_WEB_ENABLED": "1"},
            )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline() or 0)
        assert self.port, self.log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def log(self) -> str:
        """What it and its predecessors said."""
        return self._log.read_text()

    def said(self, message: str) -> list[dict[str, Any]]:
        """Its log lines with this message."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == message]

    def ask(self, path: str = "/positions") -> Any:
        """An answer of its probe server; None when there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        return json.loads(text) if path == "/positions" else text

    def folds(self) -> dict[int, tuple[int, int, int]]:
        """Next offset, count and chain of each partition it owns."""
        answer = self.ask() or {"folds": {}}
        return {int(p): (at, count, chain) for p, (at, count, chain) in answer["folds"].items()}

    def applied(self, partition: int) -> int:
        """How far it is; -1 when the partition is not its own."""
        answer = self.ask() or {"applied": {}}
        return next((at for name, at in answer["applied"].items() if name.endswith(f"-{partition}")), -1)

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ends(self, seconds: float = PATIENCE_S) -> int:
        """Wait for its exit code."""
        return self.process.wait(seconds)

    def stop(self) -> int:
        """Ask it to stop; its exit code."""
        self.signal(signal.SIGTERM)
        return self.ends()


class Pipeline:
    """A source and a sink topic of their own, and everything written to the source."""

    def __init__(self, kafka: Kafka, name: str, folder: Path, partitions: int) -> None:
        self.partitions = partitions
        self.folder = folder
        self._broker = kafka.broker
        self.options = Options(kafka.bootstrap, f"{name}-in", f"{name}-out", name, str(folder / "snapshots"))
        Path(self.options.folder).mkdir()
        self._written: dict[int, list[bytes]] = {p: [] for p in range(partitions)}
        self.connect()
        specs = [TopicSpec(topic, partitions) for topic in (self.options.source, self.options.sink)]
        create_topics(self._broker, specs)

    def connect(self) -> None:
        """Make the producer (anew), with the certificates that there are."""
        # Idempotent: what is tried again must not change places with what came after it.
        self._producer = Producer({**self._broker.config(), "linger.ms": 5, "enable.idempotence": True})

    def write(self, partition: int, count: int) -> None:
        """Write messages to one partition of the source."""
        written = self._written[partition]
        for n in range(len(written), len(written) + count):
            written.append(b"%d" % n)
            self._producer.produce(self.options.source, written[-1], partition=partition)
        assert self._producer.flush(10) == 0

    def written(self, partition: int) -> int:
        """Messages written to a partition of the source."""
        return len(self._written[partition])

    def worker(self, name: str = "worker", **changes: Any) -> Worker:
        """Start a worker."""
        return Worker(replace(self.options, **changes), self.folder / f"{name}.log")

    def chain(self, partition: int, below: int | None = None) -> list[int]:
        """The chain after each message, as it must be."""
        chains, chain = [], 0
        for offset, value in enumerate(self._written[partition][:below]):
            chain = link(chain, offset, value)
            chains.append(chain)
        return chains

    def done(self, *workers: Worker) -> bool:
        """Whether the workers together have applied everything."""
        return all(max(worker.applied(p) for worker in workers) == len(written) for p, written in self._written.items())

    def sink(self, partition: int) -> list[tuple[int, int]]:
        """The rows of one partition of the sink, in their order, doubles too."""
        with contextlib.closing(Tail(self._broker, self.options.sink)) as tail:
            records = tail.until(tail.ends())
            return [tuple(json.loads(value or b"")) for at, _, _, _, value in records if at == partition]

    def snapshots(self, partition: int) -> list[Path]:
        """Its snapshot files, the newest last."""
        return sorted(Path(self.options.folder).glob(f"{self.options.source}-{partition}/*.snapshot"))

    def check(self, *workers: Worker) -> None:
        """Every message applied once and in order, and every row there for a reader that drops what is not newer."""
        until(lambda: self.done(*workers), lambda: f"everything applied: {[worker.folds() for worker in workers]}")
        owned = [worker.folds() for worker in workers]
        for partition, written in self._written.items():
            chain = self.chain(partition)
            found = [folds[partition] for folds in owned if partition in folds]
            assert found == [(len(written), len(written), chain[-1] if chain else 0)]
            self.check_sink(partition)

    def check_sink(self, partition: int) -> None:
        """The rows alone."""
        chain = self.chain(partition)
        assert list(newer(self.sink(partition))) == list(enumerate(chain))


def newer(rows: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What a reader keeps that drops every row not newer than the last."""
    last = -1
    for offset, chain in rows:
        if offset > last:
            last = offset
            yield offset, chain
