"""The reranker in force: a cross-encoder that reads the query together with each of the best items' texts.

It comes by the record `reranker` of the topic routes. What it says is fused with the order it is given; when it is late
or away that order is the answer.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from freshrank.v1.models_pb2 import TextRoute
from numpy.typing import NDArray

from services.common.errors import FreshrankError
from services.common.spec import Arrays
from services.gateway.meters import Meters
from services.gateway.search.finder import blended
from services.text import names
from services.text.folder import RERANKER
from services.text.reranker import PairTokenizer

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

LOOK_S = 0.1


class PairScorer(Protocol):
    """Who turns tokens of pairs into scores."""

    async def pairs(self, reranker: str, arrays: Arrays, timeout_s: float) -> Floats:
        """Scores [B, 1]."""
        ...


@dataclass(frozen=True)
class Model:
    """A reranker with its tokens."""

    name: str
    tokens: PairTokenizer


@dataclass(frozen=True)
class Reranked:
    """What a reranker said of an answer."""

    reranker: str
    scores: Floats
    """[candidates]; NaN = it was not asked."""


class Rerankers:
    """What searches are reranked by; without a reranker everything here is nothing."""

    def __init__(self, store: Path, scorer: PairScorer, meters: Meters) -> None:
        """`store`: where rerankers lie."""
        self._store, self._scorer, self._meters = store, scorer, meters
        self._route = TextRoute()
        self.now: Model | None = None
        """In force; None: there is none, or it is being read."""

    def routed(self, route: TextRoute) -> None:
        """Another record; it takes effect when the reranker is read (`renew`)."""
        self._route = route

    def renew(self) -> None:
        """Read the routed reranker; runs in a thread. Raises CorruptState, and what is in force stays."""
        name, now = self._route.encoder, self.now
        if not name:
            self.now = None
        elif now is None or now.name != name:
            self.now = Model(name, PairTokenizer.of(names.kept(self._store, RERANKER) / name))
            logger.info("reranker", extra={"reranker": name})

    async def scores(self, query: str, texts: Sequence[str], timeout_s: Callable[[], float]) -> tuple[str, Floats]:
        """Name of the reranker and scores [n] of the query with each text; empty when they cannot be had in time."""
        model = self.now
        if model is None or not texts:
            return "", np.zeros(0, np.float32)
        try:
            with self._meters.stage("rerank"):
                arrays = model.tokens.pairs(query, texts)
                found = await self._scorer.pairs(model.name, arrays, timeout_s())
        except FreshrankError as error:
            self._meters.faults.labels("rerank", type(error).__name__).inc()
            return "", np.zeros(0, np.float32)
        return model.name, found[:, 0]


def reranked(order: Ints, scores: Floats, share: float) -> tuple[Ints, Floats]:
    """The first of an order, those with scores [n], by both: best first, with what they are ordered by.

    Reciprocal rank fusion, as of words and model; `share`: what the scores decide.

    >>> reranked(np.array([7, 8, 9]), np.array([.1, .2, .3], np.float32), 1.0)[0]
    array([9, 8, 7])
    """
    by_scores = np.argsort(-scores, kind="stable")
    places, fused = blended(by_scores, np.arange(1, 1 + len(scores)), 1 - share)
    return order[: len(scores)][places], fused.astype(np.float32)


async def watch_rerankers(rerankers: Rerankers) -> None:
    """Look for another reranker again and again."""
    while True:
        try:
            await asyncio.to_thread(rerankers.renew)
        except FreshrankError as error:
            logger.warning("reranker cannot be read", extra={"error": str(error)})
            await asyncio.sleep(1)
        await asyncio.sleep(LOOK_S)
