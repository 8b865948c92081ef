"""Keeps the state that requests read current: plan, route, releases, catalogue, signs of lost data."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from services.common.errors import FreshrankError, TemporaryError
from services.common.plans import CrossFeature, Plan
from services.gateway import catalogue, cross, retrieve
from services.gateway.blocks import HEARTBEAT
from services.gateway.catalogue import Tower
from services.gateway.meters import Meters
from services.gateway.pipeline import State
from services.gateway.releases import Release, Routes, Worlds, load_release, worlds_of
from services.gateway.retrieve import Popularity
from services.gateway.schema import Schema
from services.gateway.table import ItemTable

logger = logging.getLogger(__name__)

EPOCHS_S = 1.0
PLAN_S = 0.5


class PlanReader(Protocol):
    """Where the feature repository's plan is read."""

    def load(self) -> Plan:
        """The plan as of now: the same object while it is the same plan."""
        ...


class EpochReader(Protocol):
    """Where the epochs of views are read."""

    async def read(self, views: Sequence[str]) -> dict[str, int | None]:
        """Epoch of each view, None where there is none."""
        ...


class Keeper:
    """Owns the State; every change replaces a whole value."""

    def __init__(
        self,
        state: State,
        store: Path,
        meters: Meters,
        objective: Mapping[str, float] | None = None,
        place: Callable[[Mapping[str, Sequence[str]]], None] = lambda places: None,
    ) -> None:
        """`objective`: weight per head that replaces the releases' own; None or empty = theirs.

        `place`: told the endpoints of each release, before it can be asked and until after it could.
        """
        self.state, self._place = state, place
        self._places: dict[str, Sequence[str]] = {}
        self._objective = objective
        self._store, self._meters = store, meters
        self._crosses: dict[int, CrossFeature] = {}
        """Cross features of this plan and of earlier ones, which a release may still name."""
        self._plan: Plan | None = None
        self._routes: Routes | None = None
        self._releases: dict[str, Release] = {}
        self._changing = asyncio.Lock()

    @property
    def ready(self) -> bool:
        """Plan and route are known, and the catalogue has been seen."""
        return self._plan is not None and self._routes is not None and self.state.picture is not None

    @property
    def plan(self) -> Plan | None:
        """The plan in force."""
        return self._plan

    async def planned(self, plan: Plan) -> None:
        """A new plan. Raises InvalidInput when it holds a cross feature this gateway cannot compute: the old stays."""
        cross.check(plan.crosses)
        self._crosses.update({feature.id: feature for feature in plan.crosses})
        async with self._changing:
            self._plan = plan
            await self._change()

    async def routed(self, routes: Routes) -> None:
        """New routes; their releases are read before they take effect."""
        async with self._changing:
            self._routes = routes
            await self._load_missing()
            await self._change()

    async def complete(self) -> None:
        """Try again to read a routed release that could not be read: its folder may have come late."""
        async with self._changing:
            if await self._load_missing():
                await self._change()

    async def _load_missing(self) -> bool:
        names = sorted(self._routes.releases) if self._routes else ()
        missing = [name for name in names if name not in self._releases]
        for name in missing:
            await self._load(name)
        return any(name in self._releases for name in missing)

    async def _load(self, name: str) -> None:
        try:
            self._releases[name] = await asyncio.to_thread(load_release, self._store, name, self._objective)
        except FreshrankError as error:
            self._meters.faults.labels("releases", type(error).__name__).inc()
            logger.error("release cannot be read", extra={"release": name, "error": str(error)})

    async def _change(self) -> None:
        if self._plan is None or self._routes is None:
            return
        named = self._routes.releases
        self._releases = {name: release for name, release in self._releases.items() if name in named}
        worlds = await asyncio.to_thread(worlds_of, self._plan, self._routes, dict(self._releases), dict(self._crosses))
        before, self._places = self._places, self._routes.places
        self._place({**before, **self._places})  # requests under way may still ask what has just been left
        self.state.worlds = worlds

    def paint(self, table: ItemTable) -> None:
        """Renew the picture of the catalogue; called in a thread with a reader of its own."""
        worlds, plan = self.state.worlds, self._plan
        table.refresh()
        servings = [world.champion for world in worlds.arms.values() if world.champion is not None]
        towers = [Tower(s.release.name, s.release.matrices, s.rows) for s in servings]
        popularity = retrieve.popularity(plan) if plan else Popularity(None, None)
        self.state.picture = catalogue.paint(table, self.state.picture, towers, popularity)

    def measure(self, table: ItemTable, now_us: int) -> float:
        """Seconds since the table's writer was last alive."""
        age_s = max(0.0, (now_us - int(table.header[HEARTBEAT])) / 1e6)
        self._meters.table_age.set(age_s)
        self._meters.items.set(table.count)
        return age_s


def watched_views(worlds: Worlds) -> list[str]:
    """Views whose loss of data must be noticed: those that the next requests will read."""
    schema: Schema = worlds.incumbent.schema
    slots = [world.champion.rows.name for world in worlds.arms.values() if world.champion]
    views = [view.view for view in (*schema.user_views, *schema.pair_views, *schema.asked_views, *schema.item_views)]
    return [*dict.fromkeys(views), *(f"{kind}_row_{slot}" for slot in slots if slot for kind in ("user", "item"))]


async def watch_plan(keeper: Keeper, reader: PlanReader) -> None:
    """Look for a new plan again and again; one that cannot be used is said once and leaves the old one in force."""
    looked_at: Plan | None = None
    while True:
        try:
            plan = reader.load()
            if plan is not looked_at:
                looked_at = plan
                await keeper.planned(plan)
        except TemporaryError:  # nobody has written it yet: not ready
            pass
        except FreshrankError as error:
            logger.warning("the feature repository's plan cannot be used", extra={"error": str(error)})
        await keeper.complete()
        await asyncio.sleep(PLAN_S)


async def watch_table(
    keeper: Keeper, table: ItemTable, now_us: Callable[[], int], seconds: float, lag_s: float
) -> None:
    """Renew the catalogue's picture; note when the table's writer is silent."""
    while True:
        try:
            await asyncio.to_thread(keeper.paint, table)
        except FreshrankError as error:
            logger.warning("the catalogue cannot be read", extra={"error": str(error)})
        keeper.state.lagging = replace(keeper.state.lagging, table=keeper.measure(table, now_us()) > lag_s)
        await asyncio.sleep(seconds)


async def watch_epochs(keeper: Keeper, reader: Callable[[str], EpochReader]) -> None:
    """Note when a view has no epoch: the store lost its data, and it is being pushed again.

    `reader` gives the epochs of a project.
    """
    while True:
        schema = keeper.state.world.schema
        views = watched_views(keeper.state.worlds)
        try:
            found = await reader(schema.project).read(views)
            lost = sorted(view for view, epoch in found.items() if epoch is None)
            if lost and not keeper.state.lagging.store:
                logger.warning("views have no epoch: their data is lost or was never written", extra={"views": lost})
            keeper.state.lagging = replace(keeper.state.lagging, store=bool(lost))
        except FreshrankError:  # a request that reads now steps down by itself
            pass
        await asyncio.sleep(EPOCHS_S)
