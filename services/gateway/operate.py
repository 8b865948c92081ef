"""What operators see and ask: releases from the model store, commands to the publisher, the state that is served."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from freshrank.v1.models_pb2 import (
    Command,
    Freeze,
    PromoteReleaseRequest,
    Release,
    ReleaseState,
    RollbackReleaseRequest,
    Route,
    Status,
)

from services.common.errors import InvalidInput, NotFound
from services.common.kafka import Ack
from services.gateway.intake import Intake, acknowledged

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
        self, store: Path, commands: Commands, intake: Intake, route: Callable[[], Route], new_id: Callable[[], str]
    ) -> None:
        self._store, self._commands, self._intake, self._route, self._new_id = store, commands, intake, route, new_id

    def releases(self) -> list[Release]:
        """All releases that were decided on or wait to be, newest first."""
        found = decided(_audit(self._store / "releases" / "audit.jsonl"))
        for manifest in self._manifests():
            _describe(found.setdefault(manifest["release"], Release(release=manifest["release"])), manifest)
        route = self._route()
        for release in found.values():
            _routed(release, route)
        return sorted(found.values(), key=lambda release: (release.created_us, release.release), reverse=True)

    async def promote(self, asked: PromoteReleaseRequest, timeout_s: float) -> Release:
        """Ask for a held release to be routed. Raises InvalidInput, NotFound, or as `acknowledged`."""
        if not asked.release:
            raise InvalidInput("release", "missing_field", "is required")
        self._release(asked.release)
        await self._send(Command(promote=asked), timeout_s)
        await self._until(lambda: self._route().champion == asked.release, timeout_s)
        return self._release(asked.release)

    async def rollback(self, asked: RollbackReleaseRequest, timeout_s: float) -> Release:
        """Ask to go back. Raises NotFound for an unknown release, or as `acknowledged`."""
        if asked.release:
            self._release(asked.release)
        before = self._route().champion
        await self._send(Command(rollback=asked), timeout_s)
        await self._until(lambda: self._route().champion != before, timeout_s)
        return self._release(asked.release or self._route().champion)

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
