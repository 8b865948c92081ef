"""What operators see and ask: releases from the model store, commands to the publisher, the state that is served."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from freshrank.v1.models_pb2 import (
    Arms,
    Challenger,
    Command,
    Encoder,
    Freeze,
    PromoteArmRequest,
    PromoteReleaseRequest,
    Release,
    ReleaseState,
    RollbackEncoderRequest,
    RollbackReleaseRequest,
    Route,
    StartTrialRequest,
    Status,
    StopTrialRequest,
)

from services.common.arms import MAIN, arm_of
from services.common.errors import CorruptState, InvalidInput, NotFound
from services.common.kafka import Ack
from services.gateway.intake import Intake, acknowledged
from services.gateway.releases import Worlds
from services.text import names
from services.text.folder import ENCODER, RERANKER

WAIT_S = 10.0
"""A command is given so long to show in the route before the state as it is gets answered."""
_POLL_S = 0.05
_DECIDED = {
    "held": ReleaseState.RELEASE_STATE_HELD,
    "promoted": ReleaseState.RELEASE_STATE_RETIRED,
    "refused": ReleaseState.RELEASE_STATE_REFUSED,
    "rolled_back": ReleaseState.RELEASE_STATE_ROLLED_BACK,
}
"""State after a decision; a promoted release that the route does not name (any more) is retired."""


class Commands(Protocol):
    """The way to the publisher."""

    def command(self, command: Command) -> "asyncio.Future[Ack]":
        """Put a command on its topic."""
        ...


class Operations:
    """The Admin service without its protocol."""

    def __init__(
        self, store: Path, commands: Commands, intake: Intake, worlds: Callable[[], Worlds], new_id: Callable[[], str]
    ) -> None:
        self._store, self._commands, self._intake, self._worlds, self._new_id = store, commands, intake, worlds, new_id

    def _route(self) -> Route:
        return self._worlds().incumbent.route

    def _route_of(self, arm: str) -> Route:
        world = self._worlds().arms.get(arm)
        return world.route if world is not None else Route()

    def releases(self) -> list[Release]:
        """All releases that were decided on or wait to be, newest first."""
        entries = (entry for path in sorted(self._store.glob("releases/audit*.jsonl")) for entry in _audit(path))
        found = decided(entries)
        for manifest in self._manifests():
            _describe(found.setdefault(manifest["release"], Release(release=manifest["release"])), manifest)
        for world in self._worlds().arms.values():
            for release in found.values():
                _routed(release, world.route)
        return sorted(found.values(), key=lambda release: (release.created_us, release.release), reverse=True)

    async def promote(self, asked: PromoteReleaseRequest, timeout_s: float) -> Release:
        """Ask for a held release to be routed. Raises InvalidInput, NotFound, or as `acknowledged`."""
        if not asked.release:
            raise InvalidInput("release", "missing_field", "is required")
        self._release(asked.release)
        await self._send(Command(promote=asked), timeout_s)
        await self._until(lambda: asked.release in self._champions(), timeout_s)
        return self._release(asked.release)

    async def rollback(self, asked: RollbackReleaseRequest, timeout_s: float) -> Release:
        """Ask to go back. Raises NotFound for an unknown release, or as `acknowledged`."""
        if asked.release:
            self._release(asked.release)
        arm = self._arm_of(asked)
        before = self._route_of(arm).champion
        await self._send(Command(rollback=asked), timeout_s)
        await self._until(lambda: self._route_of(arm).champion != before, timeout_s)
        return self._release(asked.release or self._route_of(arm).champion)

    async def freeze(self, asked: Freeze, timeout_s: float) -> Freeze:
        """Turn the switch; answers what holds when it shows, or when the time is over."""
        await self._send(Command(freeze=asked), timeout_s)
        await self._until(lambda: _same(self._route().freeze, asked), timeout_s)
        return self._route().freeze

    def status(self) -> Status:
        """What is served."""
        route = self._route()
        return Status(
            freeze=route.freeze,
            champion=route.champion,
            previous=route.previous,
            watch_share=route.watch_share,
            slot=route.slot,
            epoch=route.epoch,
        )

    def arms(self) -> Arms:
        """The arms that are routed to, and how the trial between them stands."""
        worlds = self._worlds()
        found = _arms(self._store / "snapshots" / "publisher" / "arms.json")
        found.incumbent = worlds.split.incumbent
        found.arms.extend(sorted(arm for arm, world in worlds.arms.items() if world.route.champion))
        return found

    async def start_trial(self, asked: StartTrialRequest, timeout_s: float) -> Arms:
        """Ask for a trial. Raises InvalidInput without challengers, NotFound for one that is not served."""
        if not asked.challengers:
            raise InvalidInput("challengers", "missing_field", "is required")
        for number, arm in enumerate(asked.challengers):
            self._check_arm(arm, f"challengers[{number}]")
        before = self._worlds().split.trial
        await self._send(Command(start_trial=asked), timeout_s)
        await self._until(lambda: self._worlds().split.trial not in ("", before), timeout_s)
        return self.arms()

    async def stop_trial(self, asked: StopTrialRequest, timeout_s: float) -> Arms:
        """Ask for the trial's end."""
        await self._send(Command(stop_trial=asked), timeout_s)
        await self._until(lambda: not self._worlds().split.challengers, timeout_s)
        return self.arms()

    async def promote_arm(self, asked: PromoteArmRequest, timeout_s: float) -> Arms:
        """Ask for an arm to become the incumbent. Raises InvalidInput, or NotFound for one that is not served."""
        self._check_arm(asked.arm, "arm")
        await self._send(Command(promote_arm=asked), timeout_s)
        await self._until(lambda: self._worlds().split.incumbent == asked.arm, timeout_s)
        return self.arms()

    def encoders(self) -> list[Encoder]:
        """Text encoders and rerankers that were decided on, newest decision first. Raises CorruptState."""
        found = [encoder for kind in (ENCODER, RERANKER) for encoder in encoders(names.home(self._store, kind), kind)]
        return sorted(found, key=lambda encoder: -encoder.decided_us)

    async def rollback_encoder(self, asked: RollbackEncoderRequest, timeout_s: float) -> list[Encoder]:
        """Ask for the encoder, or reranker, before; answers how all of them stand."""
        kind = RERANKER if asked.reranker else ENCODER
        before = _serving(self.encoders(), kind)
        await self._send(Command(rollback_encoder=asked), timeout_s)
        await self._until(lambda: _serving(self.encoders(), kind) != before, timeout_s)
        return self.encoders()

    def _check_arm(self, arm: str, field: str) -> None:
        if not arm:
            raise InvalidInput(field, "missing_field", "is required")
        if not self._route_of(arm).champion:
            raise NotFound(f"{field}: arm {arm!r} has no release that serves")

    def _champions(self) -> set[str]:
        return {world.route.champion for world in self._worlds().arms.values()}

    def _arm_of(self, asked: RollbackReleaseRequest) -> str:
        return arm_of(asked.release) or asked.arm or MAIN

    async def forget(self, user: str, before_us: int, now_us: int, timeout_s: float) -> Ack:
        """Put the wish to be forgotten on the log. Raises InvalidInput, or as `acknowledged`."""
        if not user:
            raise InvalidInput("user_id", "missing_field", "is required")
        if before_us < 0 or before_us > now_us:
            raise InvalidInput("before_us", "out_of_range", "must be microseconds since 1970, not in the future")
        return await self._intake.forget(user, before_us, now_us, timeout_s)

    def _release(self, name: str) -> Release:
        for release in self.releases():
            if release.release == name:
                return release
        raise NotFound(f"there is no release {name!r}")

    def _manifests(self) -> Iterable[dict[str, Any]]:
        for path in sorted(self._store.glob("releases/*/manifest.json")) + sorted(
            self._store.glob("arms/*/exports/*/manifest.json")
        ):
            try:
                yield json.loads(path.read_text())
            except (OSError, ValueError):  # just being collected, or not whole: not a release
                continue

    async def _send(self, command: Command, timeout_s: float) -> None:
        command.command_id = self._new_id()
        await acknowledged([self._commands.command(command)], timeout_s)

    async def _until(self, holds: Callable[[], bool], timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + min(timeout_s, WAIT_S)
        while not holds() and loop.time() < ends_s:
            await asyncio.sleep(_POLL_S)


def decided(entries: Iterable[Mapping[str, Any]]) -> dict[str, Release]:
    """The audit record folded: each release in the state its last decision left it in, with its reason and figures."""
    found: dict[str, Release] = {}
    for entry in entries:
        name, state = str(entry.get("release", "")), _DECIDED.get(str(entry.get("decision", "")))
        if not name or state is None:
            continue
        release = found.setdefault(name, Release(release=name))
        release.state = state
        release.reason = str(entry.get("reason", ""))
        release.parent = str(entry.get("parent", "")) or release.parent
        release.created_us = release.created_us or int(entry.get("at_us", 0))
        for group, suffix in (("after", ""), ("before", "_parent")):
            figures = entry.get(group) or {}
            release.metrics.update({f"{k}{suffix}": float(v) for k, v in figures.items() if v is not None})
    return found


def encoders(home: Path, kind: str = ENCODER) -> list[Encoder]:
    """As the publisher has written them down; none without its file. Raises CorruptState."""
    path = home / "book.json"
    try:
        data = json.loads(path.read_text())
        lanes = {lane["encoder"]: lane for name in ("serving", "filling", "previous") if (lane := data[name])}
        fields = ("encoder", "state", "reason", "decided_us")
        found = [Encoder(kind=kind, **{name: entry[name] for name in fields}) for entry in data["decided"]]
        for encoder in found:
            if lane := lanes.get(encoder.encoder):
                encoder.slot, encoder.epoch = lane["slot"], lane["epoch"]
        return found
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptState(f"{path.name}: {error!r}") from error


def _serving(found: Iterable[Encoder], kind: str) -> str:
    return next((encoder.encoder for encoder in found if encoder.state == "serving" and encoder.kind == kind), "")


def _describe(release: Release, manifest: Mapping[str, Any]) -> None:
    release.parent = str(manifest.get("parent", "")) or release.parent
    release.created_us = int(manifest.get("created_us", 0))
    release.learned_up_to_us = int(manifest.get("learned_up_to_us", 0))
    release.slot, release.epoch = str(manifest.get("slot", "")), int(manifest.get("epoch", 0))
    figures = manifest.get("metrics") or {}
    release.metrics.update({name: float(value) for name, value in figures.items() if isinstance(value, int | float)})
    if release.state == ReleaseState.RELEASE_STATE_UNSPECIFIED:
        release.state = ReleaseState.RELEASE_STATE_CANDIDATE


def _routed(release: Release, route: Route) -> None:
    if release.release == route.champion:
        release.state = ReleaseState.RELEASE_STATE_CHAMPION
    elif release.release == route.previous:
        release.state = ReleaseState.RELEASE_STATE_PREVIOUS


def _arms(path: Path) -> Arms:
    """The trial that runs or ran last, as the publisher has written it down; empty without one."""
    try:
        data = json.loads(path.read_text())
        terms = data["terms"]
        if terms is None:
            return Arms()
        challengers = [Challenger(**standing) for standing in data["standings"]]
        return Arms(
            trial=terms["trial"], started_us=terms["started_us"], ended_us=data["ended_us"], challengers=challengers
        )
    except FileNotFoundError:
        return Arms()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptState(f"{path.name}: {error!r}") from error


def _audit(path: Path) -> Iterable[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # cut off by a crash
            continue
        if isinstance(entry, dict):
            yield entry


def _same(one: Freeze, other: Freeze) -> bool:
    return (one.rows, one.releases, one.learning) == (other.rows, other.releases, other.learning)
