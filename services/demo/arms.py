"""Arms at once: further trainers and publishers beside the first, and a trial between them until it has ended."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from freshrank.v1.models_pb2 import Arms, GetArmsRequest, StartTrialRequest
from freshrank.v1.models_pb2_grpc import AdminStub

from services.common.arms import MAIN
from services.demo.processes import Program
from services.demo.services import Plan, answers, program
from services.demo.stack import Stack

SLOTS = ("cd", "ef")
"""Of the second and the third arm."""
LABELS_S = 10
"""Clicks are waited for so long: the trial of a demo has minutes, not days."""
SETTINGS = {
    "FRESHRANK_JOINER_HEADS": f"click=CLICK,PLAY:play_share>=0.3@{LABELS_S}s; cart=ADD_TO_CART@1d; purchase=PURCHASE@7d"
}
SECONDS = 420.0
"""A trial lasts so long at most, beside what the first releases take."""
STICKY_US = 10_000_000


@dataclass(frozen=True)
class ArmPlan:
    """One arm beside `main`: its name and its trainer's own settings, by field."""

    name: str
    settings: Mapping[str, str]

    @staticmethod
    def parse(text: str) -> "ArmPlan":
        """Read "NAME: SETTING=VALUE; ...". Raises ValueError.

        >>> ArmPlan.parse("towers: model=two_tower; seed=3")
        ArmPlan(name='towers', settings={'model': 'two_tower', 'seed': '3'})
        """
        name, _, rest = text.partition(":")
        pairs = [part.partition("=") for part in rest.split(";") if part.strip()]
        if not name.strip() or any(not equals for _, equals, _ in pairs):
            raise ValueError(f"{text!r} is not 'NAME: SETTING=VALUE; ...'")
        return ArmPlan(name.strip(), {key.strip(): value.strip() for key, _, value in pairs})


def programs(arm: ArmPlan, slots: str, stack: Stack, plan: Plan) -> list[Program]:
    """How trainer and publisher of an arm are run: as the first ones, under another name and with slots of its own."""
    own = {f"FRESHRANK_TRAINER_{key.upper()}": value for key, value in arm.settings.items()}
    return [
        _program("trainer", arm, own, stack, plan),
        _program("publisher", arm, {"FRESHRANK_PUBLISHER_SLOTS": slots}, stack, plan),
    ]


def _program(service: str, arm: ArmPlan, own: Mapping[str, str], stack: Stack, plan: Plan) -> Program:
    made, port = program(service, stack, plan), stack.take_port()
    name = service.upper()
    variables = {
        **made.environment,
        **own,
        f"FRESHRANK_{name}_ARM": arm.name,
        f"FRESHRANK_{name}_HTTP_PORT": str(port),
    }
    ready = f"http://127.0.0.1:{port}/readyz"
    given = {**vars(made), "name": f"{service}-{arm.name}", "environment": variables, "ready": lambda: answers(ready)}
    return Program(**given)


class Trial:
    """Starts the arms, waits for a release of each, begins the trial, and waits for its end."""

    def __init__(self, stack: Stack, plan: Plan, arms: Sequence[ArmPlan]) -> None:
        self._stack, self._plan, self._arms = stack, plan, arms
        self.names = [f"{service}-{arm.name}" for arm in arms for service in ("trainer", "publisher")]
        self.found: Arms | None = None
        self.seconds = 0.0

    def start(self) -> None:
        """Start the arms' services and wait until they are ready."""
        for arm, slots in zip(self._arms, SLOTS, strict=False):
            for made in programs(arm, slots, self._stack, self._plan):
                self._stack.supervisor.start(made)
        for name in self.names:
            self._stack.supervisor.wait_ready(name)

    async def run(self, share: float = 0.0, seconds: float = SECONDS) -> Arms:
        """To the end of the trial, or until the time is over. `share`: of each challenger; 0 = all alike."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._plan.admin_port}") as channel:
            admin: Any = AdminStub(channel)  # type: ignore[no-untyped-call]
            until = time.monotonic() + seconds
            await self._served(admin, until)
            request = StartTrialRequest(
                challengers=[arm.name for arm in self._arms],
                share=share or 1 / (1 + len(self._arms)),
                sticky_us=STICKY_US,
                most_us=int(seconds * 1e6),
                actor="demo",
            )
            began = time.monotonic()
            found: Arms = await admin.StartTrial(request, timeout=15)
            while not (found.trial and found.ended_us) and time.monotonic() < until:
                await asyncio.sleep(1.0)
                found = await admin.GetArms(GetArmsRequest(), timeout=15)
            self.found, self.seconds = found, time.monotonic() - began
            return found

    async def _served(self, admin: Any, until: float) -> None:
        wanted = {MAIN, *(arm.name for arm in self._arms)}
        while time.monotonic() < until:
            if wanted <= set((await admin.GetArms(GetArmsRequest(), timeout=15)).arms):
                return
            await asyncio.sleep(1.0)
        raise TimeoutError(f"not all of {', '.join(sorted(wanted))} have a release in time")
