"""Real Kafka, Redis and Triton, one of each per test run, started by the first test that asks.

They are shared, so a test takes names of its own: `unique("events")`. A test that kills a part makes its own `Stack`.
"""

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.demo.cache import Progress, default_folder
from services.demo.kafka import Kafka
from services.demo.redis import Redis
from services.demo.stack import Stack
from services.demo.tools import Tools, fetch
from services.demo.triton import Triton


@pytest.fixture(scope="session")
def tools() -> Tools:
    """Where the programs are; fetched when this machine has none."""
    return fetch(default_folder(os.environ), Progress(show_present=False))


@pytest.fixture(scope="session")
def kafka(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker: `kafka.bootstrap`."""
    with Stack(tmp_path_factory.mktemp("kafka"), parts=["kafka"], tools=tools) as stack:
        yield stack.kafka


@pytest.fixture(scope="session")
def redis(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A server with its append-only file on: `redis.url`."""
    with Stack(tmp_path_factory.mktemp("redis"), parts=["redis"], tools=tools) as stack:
        yield stack.redis


@pytest.fixture(scope="session")
def triton(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A server with an empty repository: `triton.repository`, `triton.grpc_address`."""
    with ExitStack() as held:
        with pytest.MonkeyPatch.context() as shell:
            # As in a shell with the venv activated: none of its packages may reach Triton's own Python.
            shell.setenv("PATH", f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}")
            stack = held.enter_context(Stack(tmp_path_factory.mktemp("triton"), parts=["triton"], tools=tools))
        yield stack.triton


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Make a name that no other test has."""
    return lambda name: f"{name}-{uuid.uuid4().hex[:12]}"
