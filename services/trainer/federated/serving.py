"""What the server app does in Flower's runtime: the rounds, and a line of each in `federation.jsonl` of the arm."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from services.common import logs
from services.common.clock import WallClock
from services.common.errors import FreshrankError, InvalidInput
from services.common.settings import load_settings
from services.trainer.arm import ArmPaths
from services.trainer.federated.coordinator import Coordinator
from services.trainer.federated.rounds import Plan, federate
from services.trainer.lock import alone
from services.trainer.privacy.catalogue import read_items
from services.trainer.settings import TrainerSettings

LOG = "federation.jsonl"
"""A line for each round that is over, and one for the end of each run: `ended` is the run's own word, `error` why."""


def serve(grid: Grid, config: Mapping[str, Any]) -> None:
    """Make the rounds that are left of the run's configuration. Raises what ended them."""
    settings = load_settings(TrainerSettings)
    logs.configure("trainer", settings.log_level)
    root = ArmPaths(settings.store, settings.arm).root
    with alone(root):
        path, word = root / LOG, str(config.get("run", ""))
        try:
            plan = plan_of(config)
            coordinator = Coordinator(settings, rate=float(config["server_rate"]))
            federate(grid, coordinator, plan, WallClock(), lambda ended: _write(path, asdict(ended)))
            _write(path, {"ended": word, "round": coordinator.round, "checkpoint": coordinator.checkpoint})
        except FreshrankError as error:
            _write(path, {"ended": word, "error": f"{type(error).__name__}: {error}"})
            raise


def plan_of(config: Mapping[str, Any]) -> Plan:
    """The plan in a run's configuration. Raises InvalidInput."""
    try:
        secure, items = bool(config["secure"]), str(config["items"])
        return Plan(
            rounds=int(config["rounds"]),
            messages=int(config["messages"]),
            least=int(config["least"]),
            wait_s=float(config["wait"]),
            secure=secure,
            catalogue=tuple(read_items(Path(items))) if items else (),
            most=int(config["most"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput("run-config", "unreadable", f"{type(error).__name__}: {error}") from error


def read(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Whole lines of the log from byte `start` on, and where the next ones begin."""
    if not path.exists():
        return [], start
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], start + len(whole)


def _write(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
