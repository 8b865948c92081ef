"""From caller and candidates to scores: read the shopper, assemble, ask a release, step down the ladder if need be."""

import uuid
from asyncio import get_running_loop
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.errors import FreshrankError, TemporaryError
from services.common.spec import Arrays, ModelSpec, context_ids
from services.gateway import candidates as cands
from services.gateway import inputs, ladder, rank
from services.gateway.calls import Caller
from services.gateway.candidates import Candidates, RowSlot, Wanted
from services.gateway.catalogue import Picture
from services.gateway.feast import Ask
from services.gateway.inputs import Served
from services.gateway.ladder import Budget, LastSeen, Rung
from services.gateway.meters import Meters
from services.gateway.rank import Scored
from services.gateway.releases import Serving, World, Worlds
from services.gateway.schema import Schema
from services.gateway.shopper import ItemMisses, Pairs, Shopper, no_pairs, unknown, without_query
from services.gateway.table import ItemTable
from services.text.normal import query_key

Floats = NDArray[np.float32]

HISTORY = ModelSpec((), ()).history_length
"""Entries of history in an impression that no release has scored."""


class Store(Protocol):
    """Where shoppers are read."""

    async def read(self, schema: Schema, ask: Ask, timeout_s: float) -> Shopper:
        """Everything in one round trip."""
        ...

    async def read_pairs(self, schema: Schema, ask: Ask, timeout_s: float) -> Pairs:
        """Features of pairs with a category only."""
        ...


class Scorer(Protocol):
    """What turns inputs into scores."""

    async def score(self, release: str, arrays: Arrays, timeout_s: float) -> Floats:
        """Probabilities [B, N, heads]."""
        ...


@dataclass(frozen=True)
class Lagging:
    """What is known to be behind."""

    table: bool = False
    """The item table's writer is silent."""
    store: bool = False
    """The online store lost data, which is being pushed again."""

    def __bool__(self) -> bool:
        return self.table or self.store


@dataclass
class State:
    """What the background tasks keep current; requests take what is there."""

    worlds: Worlds
    picture: Picture | None = None
    lagging: Lagging = Lagging()

    @property
    def world(self) -> World:
        """The incumbent arm's."""
        return self.worlds.incumbent


@dataclass(frozen=True)
class Evaluation:
    """Candidates with everything known about them, scored."""

    world: World
    serving: Serving | None
    shopper: Shopper
    candidates: Candidates
    served: Served
    scored: Scored
    rung: Rung
    impression_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def rows(self) -> RowSlot:
        """Rows that were used."""
        return self.serving.rows if self.serving else RowSlot()


class Pipeline:
    """The steps that Recommend, Rank and Similar share."""

    def __init__(
        self,
        table: ItemTable,
        store: Store,
        scorer: Scorer,
        state: State,
        meters: Meters,
        popular: Callable[[NDArray[np.int64]], Floats],
        likeness: inputs.Likeness | None = None,
    ) -> None:
        """`popular`: popularity of items by their place in the table, NaN where it is not known; `likeness`: by vectors
        that the shop gives, None = it gives none.
        """
        self.table, self.state, self.meters = table, state, meters
        self._store, self._scorer, self._popular, self._likeness = store, scorer, popular, likeness
        self._last_seen = LastSeen()

    def forget(self, user: str) -> None:
        """Drop what is remembered of a user."""
        self._last_seen.forget(user)

    async def evaluate(
        self, caller: Caller, wanted: Wanted, now_us: int, budget: Budget, query: str = ""
    ) -> Evaluation:
        """Rank the caller's candidates: one round trip for features, one for scores. `query`: what is searched for."""
        world = self.state.worlds.of(caller.user, now_us)
        serving = next(iter(world.servings(caller.user)), None)
        rows = serving.rows if serving else RowSlot()
        with self.meters.stage("items"):
            candidates = cands.gather(self.table, world.schema, wanted, rows)
        missing = [wanted.ids[place] for place in np.flatnonzero(candidates.slots < 0).tolist()]
        asked = query_key(query) or ""
        ask = Ask(caller.user, caller.session, candidates.categories, missing, rows, now_us, asked, wanted.ids)
        shopper, rung = await self.read(world.schema, ask, budget)
        return await self.score(world, caller, candidates, shopper, rung, now_us, budget)

    async def read(self, schema: Schema, ask: Ask, budget: Budget) -> tuple[Shopper, Rung]:
        """The shopper, from the store, or as last seen, or as nobody."""
        columns = f"{schema.feature_service}/{len(schema.user)}/{ask.row_slot}"
        loop = get_running_loop()
        try:
            with self.meters.stage("features"):
                timeout_s = budget.share(loop.time(), ladder.FEATURES_SHARE)
                shopper = await self._store.read(schema, ask, timeout_s)
        except FreshrankError as error:
            self.meters.faults.labels("features", type(error).__name__).inc()
            seen = self._last_seen.get(ask.user, ask.session, columns, ask.now_us)
            absent = _no_pairs(schema, ask)
            if seen is None:
                return unknown(len(schema.user), absent), ladder.NO_USER_FEATURES
            return replace(with_pairs(seen, absent), misses=ItemMisses()), ladder.STALE_FEATURES
        self._last_seen.put(ask.user, ask.session, columns, without_query(shopper, schema), ask.now_us)
        return shopper, ladder.STALE_FEATURES if self.state.lagging else ladder.NONE

    async def read_pairs(self, schema: Schema, ask: Ask, shopper: Shopper, budget: Budget) -> tuple[Shopper, Rung]:
        """The shopper with features of pairs with a category for candidates that were found after the first trip."""
        try:
            with self.meters.stage("features"):
                timeout_s = budget.share(get_running_loop().time(), ladder.FEATURES_SHARE)
                pairs = await self._store.read_pairs(schema, ask, timeout_s)
        except FreshrankError as error:
            self.meters.faults.labels("features", type(error).__name__).inc()
            return with_pairs(shopper, _no_pairs(schema, ask)), ladder.STALE_FEATURES
        return with_pairs(shopper, pairs), ladder.STALE_FEATURES if self.state.lagging else ladder.NONE

    async def score(
        self,
        world: World,
        caller: Caller,
        candidates: Candidates,
        shopper: Shopper,
        rung: Rung,
        now_us: int,
        budget: Budget,
    ) -> Evaluation:
        """Scores of the first release that answers, else the order without one."""
        with self.meters.stage("inputs"):
            cands.fill_misses(candidates, world.schema, shopper.misses)
            touched = inputs.touches(self.table, shopper)
            inputs.complete(candidates, shopper, world.schema, touched, now_us, self._likeness)
        servings = world.servings(caller.user) if len(candidates) else []
        for number, serving in enumerate(servings):
            if number:
                candidates, shopper = self._with_rows(candidates, shopper, serving.rows)
            spec = serving.release.spec
            served = inputs.history(self.table, shopper, world.schema, touched, spec.history_length, serving.rows)
            scored = await self._ask(serving, caller, candidates, shopper, served, now_us, budget)
            if scored is not None:
                rung = ladder.lower(rung, ladder.LAST_RELEASE) if number else rung
                return Evaluation(world, serving, shopper, candidates, served, scored, rung)
        scored = rank.by_prior(candidates.wanted.prior_rank, self._popular(candidates.slots))
        rung = ladder.lower(rung, ladder.POPULAR) if world.route.champion and len(candidates) else rung
        served = inputs.history(self.table, shopper, world.schema, touched, HISTORY, RowSlot())
        candidates, shopper = self._with_rows(candidates, shopper, RowSlot())
        return Evaluation(world, None, shopper, candidates, served, scored, rung)

    async def _ask(
        self,
        serving: Serving,
        caller: Caller,
        candidates: Candidates,
        shopper: Shopper,
        served: Served,
        now_us: int,
        budget: Budget,
    ) -> Scored | None:
        context = context_ids(caller.context.region, caller.context.device, caller.context.platform)
        with self.meters.stage("inputs"):
            arrays = inputs.assemble(serving.inputs, candidates, shopper, served, context, now_us)
        try:
            with self.meters.stage("score"):
                timeout_s = budget.share(get_running_loop().time(), ladder.SCORE_SHARE)
                scores = await self._scorer.score(serving.release.name, arrays, timeout_s)
        except TemporaryError as error:
            self.meters.faults.labels("score", type(error).__name__).inc()
            return None
        release = serving.release
        return rank.by_model(
            scores[0, : len(candidates)], release.weights, release.spec.heads, candidates.wanted.prior_rank
        )

    def _with_rows(self, candidates: Candidates, shopper: Shopper, rows: RowSlot) -> tuple[Candidates, Shopper]:
        """The same candidates with the rows of another slot; the shopper's row there was not read."""
        taken = cands.item_rows(self.table, rows, candidates.slots)
        return replace(candidates, rows=taken), replace(shopper, row=None, row_seq=0, row_time_us=0)


def with_pairs(shopper: Shopper, pairs: Pairs) -> Shopper:
    """The same shopper with these features of pairs with a category."""
    return replace(shopper, pair=pairs.values, pair_pos=pairs.pos)


def _no_pairs(schema: Schema, ask: Ask) -> Pairs:
    return no_pairs(len(ask.categories), schema.pairs, len(schema.pair_views))
