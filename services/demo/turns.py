"""Strategies in turn: the trainer starts anew with another one by one setting, and goes on from its checkpoint."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from services.demo.services import Plan, program
from services.demo.stack import Stack

SECONDS = 75.0
"""A turn lasts so long at most; it ends with its first release that was promoted."""

_MADE = re.compile(r"r(\d{8}t\d{6})-")


@dataclass(frozen=True)
class Turn:
    """What one strategy came to."""

    strategy: str
    seconds: float
    promoted: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def served(self) -> bool:
        """True when a release of it has passed every gate."""
        return bool(self.promoted)


class Turns:
    """Gives each strategy its turn; `audit` reads the publisher's decisions."""

    def __init__(self, stack: Stack, plan: Plan, audit: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        self._stack, self._plan, self._audit = stack, plan, audit
        self.turns: list[Turn] = []

    async def run(self, strategies: Sequence[str], seconds: float = SECONDS) -> None:
        """One after the other."""
        for strategy in strategies:
            await asyncio.to_thread(self._restart, strategy)
            began, since = time.monotonic(), datetime.now(UTC)
            while time.monotonic() - began < seconds and not self._made(since, "promoted"):
                await asyncio.sleep(1.0)
            promoted, refused = (self._made(since, decision) for decision in ("promoted", "refused"))
            self.turns.append(Turn(strategy, time.monotonic() - began, promoted, refused))

    def _restart(self, strategy: str) -> None:
        supervisor = self._stack.supervisor
        supervisor.stop("trainer")
        settings = {**self._plan.settings, "FRESHRANK_TRAINER_STRATEGY": strategy}
        supervisor.start(program("trainer", self._stack, replace(self._plan, settings=settings)))
        supervisor.wait_ready("trainer")

    def _made(self, since: datetime, decision: str) -> tuple[str, ...]:
        """Releases made since then on which that was decided: older ones are of the turn before."""
        found = (line["release"] for line in self._audit() if line["decision"] == decision)
        return tuple(release for release in found if made_at(release) >= since.replace(microsecond=0))


def made_at(release: str) -> datetime:
    """When a release was made, by its name.

    >>> made_at("r20261122t120507-1-2").hour
    12
    """
    match = _MADE.match(release)
    if match is None:
        return datetime.min.replace(tzinfo=UTC)
    return datetime.strptime(match[1], "%Y%m%dt%H%M%S").replace(tzinfo=UTC)
