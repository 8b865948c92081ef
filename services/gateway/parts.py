"""The core of a worker and what it reaches outside for, put together from the settings."""

import asyncio
import logging

import numpy as np
from freshrank.v1.models_pb2 import Route
from numpy.typing import NDArray

from services.common.clock import ManualClock, WallClock
from services.common.kafka import Outbox
from services.common.tokens import Tokens
from services.common.tracing import Tracing
from services.gateway import catalogue, kafka, retrieve, schema
from services.gateway.beside import vectors_folder, words_folder
from services.gateway.checks import Times
from services.gateway.emit import Emitter
from services.gateway.explain import Explainer
from services.gateway.feast import ShopperStore
from services.gateway.given import Given
from services.gateway.impressions import RecentAnswers
from services.gateway.intake import Intake
from services.gateway.keep import Keeper
from services.gateway.meters import Meters
from services.gateway.pipeline import Pipeline, State
from services.gateway.ranker import Policy, Ranker
from services.gateway.releases import World, Worlds
from services.gateway.rerank import Boosts
from services.gateway.retrieve import Covisits
from services.gateway.search.index import IndexReader
from services.gateway.search.language import teller_of
from services.gateway.search.reranker import Rerankers
from services.gateway.search.rewrite import rewrite_of
from services.gateway.search.searcher import Searcher, SearchPolicy, Words
from services.gateway.search.texts import Texts
from services.gateway.search.understand import Synonyms
from services.gateway.search.vectors import AlikeByVectors
from services.gateway.settings import GatewaySettings
from services.gateway.table import ItemTable
from services.gateway.triton import TritonScorer
from services.online.reader import MatrixReader
from services.online.wire import Endpoint

logger = logging.getLogger(__name__)


class Parts:
    """The core and what it reaches outside for: everything of a worker but its ports."""

    def __init__(self, settings: GatewaySettings, table: ItemTable, meters: Meters, tracing: Tracing) -> None:
        self.table, self.meters = table, meters
        self.replay = settings.clock == "request"
        self.wall, self.request_clock = WallClock(), ManualClock()
        self.state = State(Worlds.only(World(schema.nothing())))
        self.sender = kafka.Sender(Outbox(settings.kafka, ordered=False), settings.partitions, tracing.headers)
        self.store = ShopperStore(MatrixReader(Endpoint.from_url(settings.redis_url, settings.redis_tls)))
        tokens, covisits = Tokens.parse(settings.token_keys), Covisits()
        self._recent = RecentAnswers(settings.recent_answers)
        self.emitter = Emitter(self.sender.impression, self._recent, meters, settings.gather_ms / 1e3)
        self.scorer = TritonScorer(settings.triton, self.emitter.build, settings.triton_tls)
        self.keeper = Keeper(self.state, settings.store, meters, settings.objective, self.scorer.place)
        self.given = Given(vectors_folder(settings), settings.item_vectors, table)
        likeness = self.given.likeness if settings.item_vectors else None
        self._pipeline = Pipeline(table, self.store, self.scorer, self.state, meters, self._popular, likeness)
        self.texts = Texts(settings.store, vectors_folder(settings), self.scorer, meters)
        alike = AlikeByVectors(self.texts.vectors, table)
        self.ranker = Ranker(self._pipeline, tokens, self.emitter, _policy(settings), covisits, alike, self.given.alike)
        self.intake = Intake(
            self.sender, settings.partitions, self.replay, meters, covisits, self._forgotten, settings.item_vectors
        )
        index = lambda: IndexReader(words_folder(settings), settings.search_language)  # noqa: E731
        self.words = Words(index)
        self.rerankers = Rerankers(settings.store, self.scorer, meters)
        self.searcher = Searcher(
            self.ranker, self._pipeline, self.words, self.texts, _search_policy(settings), self.rerankers
        )
        self.explainer = Explainer(self._recent, tokens, self.scorer, self.state, self.searcher.matched)

    def times(self) -> Times:
        """What time the next request has."""
        return Times(self.request_clock.now_us() if self.replay else self.wall.now_us(), self.replay)

    def route(self) -> Route:
        """What is routed now."""
        return self.state.world.route

    async def close(self) -> None:
        """Send what is queued and close connections."""
        self.emitter.flush()
        unsent = await asyncio.to_thread(self.sender.close)
        if unsent:
            logger.error("records could not be sent", extra={"records": unsent})
        await self.store.close()
        await self.scorer.close()

    def _forgotten(self, user: str) -> None:
        self._pipeline.forget(user)
        self._recent.forget(user)

    def _popular(self, slots: NDArray[np.int64]) -> NDArray[np.float32]:
        plan = self.keeper.plan
        return catalogue.values_of(self.table, retrieve.popularity(plan).popular if plan else None, slots)


def _policy(settings: GatewaySettings) -> Policy:
    return Policy(
        candidates=settings.candidates,
        explore=settings.explore,
        explore_uncertain=settings.explore_by == "uncertain",
        explore_rank=settings.explore_rank,
        unshown=settings.unshown,
        category_cap=settings.category_cap,
        similar_text=settings.similar_text,
        similar_vectors=settings.similar_vectors,
        boosts=Boosts(settings.boost_new, settings.boost_new_days, settings.boost_categories),
    )


def _search_policy(settings: GatewaySettings) -> SearchPolicy:
    synonyms = Synonyms.read(settings.synonyms) if settings.synonyms else Synonyms([])
    return SearchPolicy(
        settings.search_candidates,
        settings.search_relevance,
        settings.search_similarity,
        synonyms,
        rewrite_of(settings.search_rewrite),
        teller_of([code.strip() for code in settings.query_languages.split(",") if code.strip()]),
        settings.search_rerank,
        settings.search_rerank_share,
    )
