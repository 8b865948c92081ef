"""The six services as programs of the local stack: what a chart says in YAML, said in environment variables."""

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from services.demo.processes import BEHIND_ANSWERS, Program
from services.demo.stack import Stack

SERVICES = ("ingest", "features", "joiner", "trainer", "publisher", "gateway")
"""In the order of starting: whoever reads comes before who writes to it."""

POLICIES: Mapping[str, Literal["batch", "idle"]] = {
    "ingest": "batch",
    "features": "batch",
    "joiner": "idle",
    "trainer": "idle",
    "publisher": "idle",
}
"""Nobody waits for what is learned as somebody waits for an answer: docs/decisions/0009."""

NICENESS = {"ingest": BEHIND_ANSWERS, "features": BEHIND_ANSWERS}


@dataclass(frozen=True)
class Plan:
    """Addresses and folders of one run."""

    folder: Path
    feature_repo: Path
    partitions: int
    grpc_port: int
    admin_port: int
    http_ports: Mapping[str, int]
    settings: Mapping[str, str] = field(default_factory=dict)
    """Variables on top of the ones made here, such as FRESHRANK_TRAINER_UPDATE_S."""

    @property
    def store(self) -> Path:
        """The model store."""
        return self.folder / "store"

    @property
    def gateway(self) -> str:
        """host:port of the ranking API."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def urls(self) -> dict[str, str]:
        """Probe server of each service."""
        return {name: f"http://127.0.0.1:{port}" for name, port in self.http_ports.items()}


def plan_of(stack: Stack, folder: Path, feature_repo: Path, partitions: int, settings: Mapping[str, str]) -> Plan:
    """Take ports from the stack and lay out the run."""
    ports = {name: stack.take_port() for name in SERVICES}
    return Plan(folder, feature_repo, partitions, stack.take_port(), stack.take_port(), ports, settings)


def environment(stack: Stack, plan: Plan) -> dict[str, str]:
    """Variables that all services share."""
    return {
        "FRESHRANK_BOOTSTRAP": stack.kafka.bootstrap,
        "FRESHRANK_REDIS_URL": stack.redis.url,
        "FRESHRANK_STORE": str(plan.store),
        "FRESHRANK_FEATURE_REPO": str(plan.feature_repo),
        "FRESHRANK_PARTITIONS": str(plan.partitions),
        "FRESHRANK_TRITON": stack.triton.grpc_address,
        "FRESHRANK_GATEWAY_PORT": str(plan.grpc_port),
        "FRESHRANK_GATEWAY_ADMIN_PORT": str(plan.admin_port),
        "FRESHRANK_TOKEN_KEYS": "1:" + "d3" * 16,
        "OMP_NUM_THREADS": "1",
        "FEAST_USAGE": "False",
        "PYTHONUNBUFFERED": "1",
        **plan.settings,
    }


def program(name: str, stack: Stack, plan: Plan) -> Program:
    """How to run one service; ready when its /readyz says so."""
    variables = environment(stack, plan) | {f"FRESHRANK_{name.upper()}_HTTP_PORT": str(plan.http_ports[name])}
    return Program(
        name,
        (sys.executable, "-m", f"services.{name}"),
        variables,
        cwd=Path(os.curdir).absolute(),
        ready=lambda: answers(f"{plan.urls[name]}/readyz"),
        ready_seconds=90,
        policy=POLICIES.get(name, "other"),
        niceness=NICENESS.get(name, 0),
    )


def answers(url: str) -> bool:
    """True when a GET gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
