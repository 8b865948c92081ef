"""Picks up `feast apply` while events go on: new features start at once, are filled from the log, then shown.

A version of the registry that cannot be computed is refused with file, view and reason; the running plan stays.
"""

import asyncio
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from services.common.errors import InvalidInput, TemporaryError
from services.common.plans import Plan
from services.common.records import Message
from services.features.fold import ViewsFold
from services.features.group import Group
from services.features.meters import Meters

log = logging.getLogger(__name__)


class PlanLoader(Protocol):
    """Where plans come from."""

    def load(self) -> Plan:
        """The plan as of now. Raises InvalidInput or TemporaryError."""
        ...


class History(Protocol):
    """Where the past comes from."""

    def below(self, topic: str, partition: int, end: int) -> Iterator[list[Message]]:
        """Messages of a partition below an offset, in order, some at a time."""
        ...


Folds = Callable[[], Mapping[tuple[str, int], ViewsFold]]
"""Tells the folds owned now, by topic and partition."""


class Pickup:
    """Keeps the plan of all folds the registry's."""

    def __init__(self, loader: PlanLoader, history: History, releases: Path, folds: Folds, meters: Meters) -> None:
        self._loader, self._history, self._releases = loader, history, releases
        self._folds, self._meters = folds, meters
        self.plan = loader.load()
        self.named = named_ids(releases)
        self.refusal = ""
        """Why the registry's newest version is not used; empty when it is."""

    def keep(self, feature_id: int) -> bool:
        """True while a release that can be loaded names this definition."""
        return feature_id in self.named

    async def run(self, every_s: float) -> None:
        """Look and fill for ever."""
        while True:
            await self.look()
            await self.fill()
            await asyncio.sleep(every_s)

    async def look(self) -> None:
        """Take the registry's plan when it, or what releases name, has changed."""
        try:
            plan = await asyncio.to_thread(self._loader.load)
        except InvalidInput as error:
            self._refuse(str(error))
            return
        except TemporaryError as error:
            log.warning("the registry cannot be read", extra={"error": str(error)})
            return
        self.refusal = ""
        named = await asyncio.to_thread(named_ids, self._releases)
        if plan.version == self.plan.version and not self.named - named:
            self.named = named
            return
        log.info("plan changed", extra={"version": plan.version, "features": len(plan.definitions())})
        self.plan, self.named = plan, named
        for fold in list(self._folds().values()):
            fold.replan(plan.views, self.keep)

    def _refuse(self, reason: str) -> None:
        if reason != self.refusal:
            log.error("plan refused, the running one stays", extra={"reason": reason})
            self._meters.refused()
        self.refusal = reason

    async def fill(self) -> None:
        """Fill every group of features that lacks its past, one after the other."""
        for key, fold in list(self._folds().items()):
            for view, group in fold.unfilled():
                try:
                    await self._fill(key, fold, view, group)
                except TemporaryError as error:
                    log.warning("back-fill will be tried again", extra={"view": view, "error": str(error)})

    async def _fill(self, key: tuple[str, int], fold: ViewsFold, view: str, group: Group) -> None:
        filler = fold.filler(view, group)
        for partition, end in fold.logs(key[1], group):
            filler.begin_log()
            chunks = self._history.below(key[0], partition, end)
            step: Callable[[], bool] = functools.partial(_step, filler, chunks)
            while await asyncio.to_thread(step):
                if self._folds().get(key) is not fold:
                    return
        merged = self._folds().get(key) is fold and fold.fill(view, group, filler)
        self._meters.filled("merged" if merged else "dropped")
        log.info("back-fill ended", extra={"view": view, "partition": key[1], "merged": merged})


def _step(filler: ViewsFold, chunks: Iterator[list[Message]]) -> bool:
    messages = next(chunks, None)
    if messages:
        filler.apply(messages)
    return messages is not None


def named_ids(releases: Path) -> set[int]:
    """Ids of the features that the releases in the store were trained on."""
    out: set[int] = set()
    for manifest in releases.glob("*/manifest.json"):
        try:
            spec = json.loads(manifest.read_text())["spec"]
            out |= {int(ref["id"]) for part in ("user_features", "item_features") for ref in spec[part]}
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("release without a readable manifest", extra={"release": manifest.parent.name})
    return out
