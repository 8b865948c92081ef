"""A small shop for the gateway's tests: a plan, a catalogue, real classes instead of Redis, Triton and Kafka."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from freshrank.v1.events_pb2 import Inbound
from freshrank.v1.models_pb2 import CatalogueItem, Command, ItemFeatures, ItemRow, Route
from numpy.typing import NDArray

from services.common.content import tokens_of
from services.common.definitions import FeatureDefinition, define
from services.common.errors import FreshrankError, TemporaryError
from services.common.kafka import Ack
from services.common.metrics import Metrics
from services.common.plans import CrossFeature, History, Plan, RankingPlan, ViewPlan, cross
from services.common.spec import Arrays, ModelSpec
from services.common.tokens import Tokens
from services.gateway import catalogue, retrieve
from services.gateway.catalogue import Tower
from services.gateway.explain import Explainer
from services.gateway.feast import Ask
from services.gateway.given import Given
from services.gateway.impressions import AsServed, RecentAnswers
from services.gateway.intake import Intake
from services.gateway.ladder import Budget
from services.gateway.meters import Meters
from services.gateway.pipeline import Pipeline, State
from services.gateway.ranker import Policy, Ranker
from services.gateway.releases import Release, Routes, Worlds, worlds_of
from services.gateway.retrieve import Covisits
from services.gateway.schema import Schema
from services.gateway.search.index import IndexReader
from services.gateway.search.reranker import Rerankers
from services.gateway.search.searcher import Searcher, SearchPolicy, Words
from services.gateway.search.texts import Texts
from services.gateway.search.vectors import AlikeByVectors
from services.gateway.search.writer import Indexer
from services.gateway.shopper import ItemMisses, Pairs, Recent, Shopper
from services.gateway.table import ItemTable
from services.gateway.table_writer import Origin, TableWriter
from services.gateway.track import Parcel
from tests.gateway.search.encoder import Embedder

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
DAY = 86_400 * SECOND
TOKENS = Tokens({1: b"k" * 16}, 1)
VECTORS = {"image": 16}
CATEGORIES = ("shoes", "shirts", "hats")


def feature(view: str, keys: Sequence[str], name: str, function: str = "count", **tags: str) -> FeatureDefinition:
    """A definition with a window of a day."""
    types = {"count": "INT64", "decay": "FLOAT32", "mean": "FLOAT32"}
    if function == "last_n":
        kind = "STRING_LIST" if name.endswith("items") else "INT64_LIST"
        column = {"items": "item", "kinds": "kind", "times": "time_us"}[name.rsplit("_", 1)[1]]
        return define(view, keys, name, function, column, DAY, DAY, kind, {"n": "5"})
    column = "price" if function == "mean" else "kind"
    return define(view, keys, name, function, column, DAY, DAY, types[function], tags)


def view(name: str, keys: Sequence[str], *features: FeatureDefinition) -> ViewPlan:
    """A streaming view."""
    return ViewPlan(name, tuple(keys), features)


def lists(name: str, keys: Sequence[str], prefix: str) -> list[FeatureDefinition]:
    """Three parallel lists."""
    return [feature(name, keys, f"{prefix}_{part}", "last_n") for part in ("items", "kinds", "times")]


def plan(extra_item_feature: str = "") -> Plan:
    """Two numbers per entity, two lists, some cross features."""
    user, session, item, pair = ("user_id",), ("session_id",), ("item_id",), ("user_id", "category")
    users = [feature("user_stats", user, "clicks"), feature("user_stats", user, "spend", "mean")]
    visits = [feature("session_stats", session, "views")]
    items = [feature("item_stats", item, "popular"), feature("item_stats", item, "trend", "decay", half_life="1h")]
    items += [feature("item_stats", item, extra_item_feature)] if extra_item_feature else []
    pairs = [feature("pair_stats", pair, "pair_clicks"), feature("pair_stats", pair, "pair_price", "mean")]
    crosses = (
        cross("cross", "rank", {"builtin": "recency_rank", "list": "session_stats:session"}),
        cross("cross", "count", {"builtin": "list_count", "list": "user_stats:recent", "kind": "click"}),
        cross("cross", "prior", {"builtin": "prior_reciprocal"}),
        cross("cross", "price", {"builtin": "price"}),
        cross("cross", "looks", {"builtin": "vector_likeness", "list": "user_stats:recent", "kind": "click"}),
    )
    history = History("user_stats:recent_items", "user_stats:recent_kinds", "user_stats:recent_times")
    ranking = RankingPlan(
        feature_service=f"ranking@{len(items):08x}",
        user=tuple(f.ref for f in users + visits),
        item=tuple(f.ref for f in items + pairs) + tuple(c.ref for c in crosses),
        history=history,
        cross=crosses,
        arrays=(),
    )
    views = (
        view("item_stats", item, *items),
        view("pair_stats", pair, *pairs),
        view("session_stats", session, *visits, *lists("session_stats", session, "session")),
        view("user_stats", user, *users, *lists("user_stats", user, "recent")),
    )
    return Plan("shop", views, ranking, history, crosses)


def spec_of(the_plan: Plan, row_dim: int = 4) -> ModelSpec:
    """A model that reads everything in the plan."""
    ranking = the_plan.ranking
    return ModelSpec(ranking.user, ranking.item, row_dim=row_dim, feature_service=ranking.feature_service)


def release(name: str, the_plan: Plan, row_dim: int = 4) -> Release:
    """A release of such a model with retrieval matrices."""
    spec, random = spec_of(the_plan, row_dim), np.random.default_rng(0)
    sizes = {"content": spec.content_dim, "row": row_dim, "user_row": row_dim}
    matrices = {key: random.normal(size=(size, 6)).astype(np.float32) for key, size in sizes.items()}
    return Release(name, spec, {"click": 1.0, "purchase": 2.0}, NOW - 60 * SECOND, matrices)


def fill(writer: TableWriter, the_plan: Plan, count: int, rows: str = "a") -> list[tuple[bytes, bytes | None]]:
    """What was written: items i0, i1, ... of three categories; popularity grows with the number, trend falls."""
    item_view = the_plan.view("item_stats")
    updates: list[tuple[bytes, bytes | None]] = []
    for n in range(count):
        item, categories = f"i{n}", [CATEGORIES[n % 3]]
        entry = CatalogueItem(
            item_id=item,
            title=f"thing {n}",
            categories=categories,
            price=float(n + 1),
            stock=-1,
            published_us=NOW - n * DAY,
            updated_us=NOW,
            content=tokens_of(categories, "", f"thing {n}"),
        )
        values = [float(n + 1), float(count - n), 0.5][: len(item_view.features)]
        stats = ItemFeatures(ids=[f.id for f in item_view.features], values=values, pos=100 + n, time_us=NOW - SECOND)
        row = ItemRow(row=[n / 10, 1, 0, 0], epoch=1, seq=n + 1, learned_up_to_us=NOW - 2 * SECOND)
        updates.append((f"c|{item}".encode(), entry.SerializeToString()))
        updates.append((f"f|item_stats|{item}".encode(), stats.SerializeToString()))
        updates.append((f"r|{rows}|{item}".encode(), row.SerializeToString()))
    writer.apply(updates)
    return updates


@dataclass
class FakeStore:
    """Shoppers by name; can be told to fail."""

    lists: dict[str, Recent] = field(default_factory=dict)
    failure: FreshrankError | None = None
    asked: list[Ask] = field(default_factory=list)
    row: bool = True

    async def read(self, schema: Schema, ask: Ask, timeout_s: float) -> Shopper:
        """Numbers 1, 2, 3 ... for everybody."""
        self.asked.append(ask)
        if self.failure:
            raise self.failure
        row = np.ones(ask.row_slot.dim, np.float32) if self.row and ask.row_slot.name else None
        return Shopper(
            user=np.arange(1, 1 + len(schema.user), dtype=np.float32),
            pair=self._pairs(schema, ask).values,
            pair_pos=self._pairs(schema, ask).pos,
            lists=self.lists,
            views=("user_stats", "session_stats"),
            pos=(11, 12),
            times_us=(NOW - 3 * SECOND, NOW - 4 * SECOND),
            row=row,
            row_seq=9 if row is not None else 0,
            row_time_us=NOW - SECOND if row is not None else 0,
            misses=self._misses(schema, ask),
        )

    async def read_pairs(self, schema: Schema, ask: Ask, timeout_s: float) -> Pairs:
        """As in `read`."""
        self.asked.append(ask)
        if self.failure:
            raise self.failure
        return self._pairs(schema, ask)

    def _pairs(self, schema: Schema, ask: Ask) -> Pairs:
        numbers = [[len(name) + k / 10 for k in range(schema.pairs)] for name in ask.categories]
        values = np.array(numbers, np.float32).reshape(len(ask.categories), schema.pairs)
        return Pairs(values, np.array([[len(name)] for name in ask.categories], np.int64).reshape(-1, 1))

    def _misses(self, schema: Schema, ask: Ask) -> ItemMisses:
        n, dim = len(ask.missing), ask.row_slot.dim
        views = {v.view: np.full((n, len(v.fields)), 0.25, np.float32) for v in schema.item_views}
        pos = {v.view: np.full(n, 77, np.int64) for v in schema.item_views}
        if not ask.row_slot.name:
            return ItemMisses(ask.missing, views, pos)
        return ItemMisses(
            ask.missing, views, pos, np.full((n, dim), 0.5, np.float32), np.ones(n, np.bool_), np.full(n, 5, np.int64)
        )


@dataclass
class FakeScorer:
    """The score of a candidate is its price feature; can be told to fail, for all or for some releases."""

    price_column: int
    failing: set[str] = field(default_factory=set)
    calls: list[tuple[str, Arrays]] = field(default_factory=list)

    async def score(self, release: str, arrays: Arrays, timeout_s: float) -> NDArray[np.float32]:
        """Dearer is better."""
        self.calls.append((release, arrays))
        if release in self.failing:
            raise TemporaryError("down")
        base = np.nan_to_num(arrays["item"][:, :, self.price_column]) / 1000
        base = base + np.nan_to_num(arrays["user"]).sum(axis=1)[:, None] / 1e5 + arrays["row"].sum(axis=2) / 1e6
        return np.stack([base, base / 2, base / 4], axis=2).astype(np.float32)


@dataclass
class FakePairs:
    """The score of a pair is how many tokens the texts share, less a tenth of the text's; can be told to fail."""

    failure: FreshrankError | None = None
    asked: list[tuple[str, Arrays]] = field(default_factory=list)

    async def pairs(self, reranker: str, arrays: Arrays, timeout_s: float) -> NDArray[np.float32]:
        """Scores [B, 1]."""
        self.asked.append((reranker, arrays))
        if self.failure:
            raise self.failure
        rows = zip(*(arrays[name].tolist() for name in ("input_ids", "attention_mask", "token_type_ids")), strict=True)
        return np.array([[self._one(*row)] for row in rows], np.float32)

    def _one(self, ids: list[int], mask: list[int], types: list[int]) -> float:
        first, second = (
            {token for token, kept, kind in zip(ids, mask, types, strict=True) if kept and kind == which}
            for which in (0, 1)
        )
        return len(first & second) - len(second) / 10


@dataclass
class FakeSends:
    """A log in memory; can be told to fail or to keep silent."""

    partitions: int = 4
    events: list[tuple[int, Inbound]] = field(default_factory=list)
    items: list[tuple[str, CatalogueItem | None]] = field(default_factory=list)
    rows: list[tuple[str, str, ItemRow | None]] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    failure: FreshrankError | None = None
    silent: bool = False

    def parcel(self, parcel: Parcel) -> "asyncio.Future[Ack]":
        """Events."""
        self.events.append((parcel.partition, parcel.inbound))
        return self._ack(parcel.partition, len(self.events) - 1)

    def impression(self, user: str, inbound: bytes) -> "asyncio.Future[Ack]":
        """An impression."""
        self.events.append((0, Inbound.FromString(inbound)))
        return self._ack(0, len(self.events) - 1)

    def forget(self, user: str, before_us: int, received_us: int) -> "asyncio.Future[Ack]":
        """A forget."""
        inbound = Inbound(received_us=received_us)
        inbound.forget.user_id, inbound.forget.before_us = user, before_us
        self.events.append((0, inbound))
        return self._ack(0, len(self.events) - 1)

    def item(self, item: str, entry: CatalogueItem | None) -> "asyncio.Future[Ack]":
        """A catalogue entry."""
        self.items.append((item, entry))
        return self._ack(0, len(self.items) - 1)

    def row(self, slot: str, item: str, row: ItemRow | None) -> "asyncio.Future[Ack]":
        """A vector of an item."""
        self.rows.append((slot, item, row))
        return self._ack(0, len(self.rows) - 1)

    def command(self, command: Command) -> "asyncio.Future[Ack]":
        """A command."""
        self.commands.append(command)
        return self._ack(0, len(self.commands) - 1)

    def _ack(self, partition: int, offset: int) -> "asyncio.Future[Ack]":
        future: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        if self.failure:
            future.set_exception(self.failure)
        elif not self.silent:
            future.set_result((partition, offset))
        return future


class Shop:
    """Everything wired up over files in a folder."""

    def __init__(
        self, folder: Path, items: int = 30, champion: str = "r1", previous: str = "", policy: Policy | None = None
    ) -> None:
        self.plan = plan()
        self.writer = TableWriter(folder / "table", Origin("log", "boot"))
        updates = fill(self.writer, self.plan, items)
        self.indexer = Indexer(folder / "words", Origin("log", "boot"), "english", keep=False)
        self.indexer.apply(updates, self.writer.slot_of)
        self.indexer.settle({0: len(updates)}, 10.0, caught_up=True)
        self.table: ItemTable = self.writer.reader()
        self.store, self.sends = FakeStore(), FakeSends()
        price = next(c for c in self.plan.crosses if c.builtin == "price")
        self.scorer = FakeScorer([ref.id for ref in self.plan.ranking.item].index(price.id))
        self.meters = Meters(Metrics("gateway"))
        self.state = State(self.world(champion, previous))
        self.served: list[AsServed] = []
        self.recent = RecentAnswers(100)
        self.given = Given(folder / "vectors", VECTORS, self.table)
        likeness = self.given.likeness
        pipeline = Pipeline(self.table, self.store, self.scorer, self.state, self.meters, self.popular, likeness)
        self.pipeline, self.covisits = pipeline, Covisits()
        self.embedder = Embedder()
        self.texts = Texts(folder / "store", folder / "vectors", self.embedder, self.meters)
        alike = AlikeByVectors(self.texts.vectors, self.table)
        chosen = policy or Policy(explore=0.0)
        self.ranker = Ranker(pipeline, TOKENS, self.emit, chosen, self.covisits, alike, self.given.alike)
        self.words = Words(lambda: IndexReader(folder / "words", "english"))
        self.pairs = FakePairs()
        self.rerankers = Rerankers(folder / "store", self.pairs, self.meters)
        self.searcher = Searcher(self.ranker, pipeline, self.words, self.texts, SearchPolicy(), self.rerankers)
        self.look()
        self.explainer = Explainer(self.recent, TOKENS, self.scorer, self.state, self.searcher.matched)
        self.forgotten: list[str] = []
        self.intake = Intake(self.sends, 4, False, self.meters, self.covisits, self.forgotten.append, VECTORS)
        self.paint()

    def world(self, champion: str, previous: str = "", watch_share: float = 0.0) -> Worlds:
        """Plan and route of one arm."""
        releases = {name: release(name, self.plan) for name in (champion, previous) if name}
        route = Route(champion=champion, previous=previous, watch_share=watch_share, slot="a", epoch=1, arm="main")
        route.previous_slot, route.previous_epoch = "a", 1
        return worlds_of(self.plan, Routes.only(route), releases)

    def paint(self) -> None:
        """Renew the picture of the catalogue."""
        champion = self.state.world.champion
        self.table.refresh()
        towers = [Tower(champion.release.name, champion.release.matrices, champion.rows)] if champion else []
        self.state.picture = catalogue.paint(self.table, self.state.picture, towers, retrieve.popularity(self.plan))

    def look(self) -> None:
        """Renew the index of words."""
        self.words.renew()
        self.words.learn_spelling()

    def upsert(self, *entries: CatalogueItem) -> None:
        """Add or change items, as records of the log do."""
        updates = [(f"c|{entry.item_id}".encode(), entry.SerializeToString()) for entry in entries]
        self.writer.apply(updates)
        self.indexer.apply(updates, self.writer.slot_of)
        self.indexer.settle({0: 1}, 1e9, caught_up=True)
        self.indexer._settled_s = 0.0
        self.paint()
        self.look()

    def emit(self, served: AsServed) -> None:
        """Keep what was served."""
        self.served.append(served)
        self.recent.put(served)

    def popular(self, slots: NDArray[np.int64]) -> NDArray[np.float32]:
        """Popularity of items."""
        return catalogue.values_of(self.table, retrieve.popularity(self.plan).popular, slots)


def budget(seconds: float = 1.0) -> Budget:
    """Time for a call that begins now."""
    return Budget(asyncio.get_running_loop().time() + seconds)


def recent(*entries: tuple[str, int, int]) -> Recent:
    """(item, kind, seconds ago), newest first."""
    return Recent(
        [item for item, _, _ in entries],
        np.array([kind for _, kind, _ in entries], np.int64),
        np.array([NOW - ago * SECOND for _, _, ago in entries], np.int64),
    )


def crosses_of(tags: Mapping[str, Mapping[str, Any]]) -> list[CrossFeature]:
    """Cross features by name -> tags."""
    return [cross("cross", name, dict(values)) for name, values in tags.items()]
