"""Real Kafka, Redis and Triton on this machine, up together and gone together.

with Stack(folder) as stack:
    stack.kafka.bootstrap, stack.redis.url, stack.triton.grpc_address
    stack.kill("redis"), stack.restart("redis")
    stack.supervisor.start(Program("ingest", ...))      # the services join the same supervisor
"""

import contextlib
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path
from typing import Self

from services.common.errors import NotFound
from services.demo.cache import Progress, default_folder
from services.demo.kafka import Kafka
from services.demo.ports import Ports
from services.demo.processes import Supervisor
from services.demo.redis import Redis
from services.demo.secure import Secure
from services.demo.tools import Tools, fetch
from services.demo.triton import Triton

PARTS = ("kafka", "redis", "triton")


class Stack:
    """The chosen parts with data, logs and ports of their own; `start` begins them all before it waits for any."""

    def __init__(
        self,
        folder: Path,
        partitions: int = 4,
        parts: Collection[str] = PARTS,
        tools: Tools | None = None,
        model_repository: Path | None = None,
        secure: Secure | None = None,
    ) -> None:
        """Choose ports; nothing runs before `start`.

        `folder` takes data and logs and should be new for each run. `tools` are fetched when absent.
        `secure`: of Kafka and Triton, Redis speaks plain text.
        `model_repository` is the folder that the publisher writes to, `folder/triton` by default.
        """
        self._folder = folder
        self._partitions = partitions
        self._parts = tuple(part for part in PARTS if part in parts)
        self._tools, self._secure = tools, secure
        self._repository = model_repository or folder / "triton"
        self.seconds: dict[str, float] = {}
        """From `start` to ready, per part."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the parts side by side and return when all are ready; whatever fails stops the rest and passes."""
        tools = self._tools or fetch(default_folder(os.environ), Progress(show_present=False))
        self._ports = Ports()
        self.supervisor = Supervisor(self._folder)
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            began, take = time.monotonic(), self._ports.take
            self._kafka = Kafka(self._folder / "kafka", take(), take(), self._partitions, self._secure)
            self._redis = Redis(self._folder / "redis", take())
            prefix = self.supervisor.shared_memory("triton")
            self._triton = Triton(self._repository, take(), take(), take(), prefix, self._secure)
            for part in (self._kafka, self._redis, self._triton):
                program = part.program(tools)
                if program.name in self._parts:
                    part.prepare(tools)
                    self.supervisor.start(program)
            for name in self._parts:
                self.supervisor.wait_ready(name)
                self.seconds[name] = time.monotonic() - began
            undo.pop_all()

    @property
    def kafka(self) -> Kafka:
        """The broker; NotFound when it is not among the parts."""
        self._require("kafka")
        return self._kafka

    @property
    def redis(self) -> Redis:
        """The Redis server; NotFound when it is not among the parts."""
        self._require("redis")
        return self._redis

    @property
    def triton(self) -> Triton:
        """The Triton server; NotFound when it is not among the parts."""
        self._require("triton")
        return self._triton

    def take_port(self) -> int:
        """A free port that stays claimed until `stop`, for a service beside the parts."""
        return self._ports.take()

    def kill(self, name: str, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal to a part, or to a service that was started through `supervisor`."""
        self.supervisor.kill(name, signal_number)

    def restart(self, name: str) -> float:
        """Start it again with its data and its ports; returns the seconds until ready."""
        return self.supervisor.restart(name)

    def stop(self) -> None:
        """Stop everything, last started first; safe to call twice."""
        self.supervisor.close()
        self._ports.close()

    def _require(self, name: str) -> None:
        if name not in self._parts:
            raise NotFound(f"{name} is not part of this stack")
