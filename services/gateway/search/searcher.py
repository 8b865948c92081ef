"""Search and Suggest: the protocol-free core. Words find candidates; the loop's model and their match order them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from services.common.errors import Overloaded, TemporaryError
from services.gateway import filter as filters
from services.gateway import ladder, rerank
from services.gateway.calls import Answer, Caller, SearchCall, SuggestCall
from services.gateway.candidates import Match, Wanted, surest
from services.gateway.ladder import Budget
from services.gateway.pages import Rest
from services.gateway.pipeline import Evaluation, Pipeline
from services.gateway.ranker import Ranker
from services.gateway.search.finder import Hits, K, Meant, blended, find
from services.gateway.search.index import IndexReader
from services.gateway.search.language import Tell, untold
from services.gateway.search.reranker import Reranked, Rerankers, reranked
from services.gateway.search.rewrite import Rewrite, unchanged
from services.gateway.search.spelling import Speller
from services.gateway.search.suggest import completed
from services.gateway.search.texts import Texts
from services.gateway.search.understand import MOST_WORDS, Query, Synonyms, understand
from services.gateway.search.words import words
from services.gateway.served import as_served

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

LOOK_S, SPELLING_S = 0.1, 2.0
"""Seconds between looks at the index, and between vocabularies that spelling is corrected by."""


@dataclass(frozen=True)
class SearchPolicy:
    """How searches are answered."""

    candidates: int = 200
    """Most items ranked."""
    relevance: float = 0.5
    """Part of the order that the words' match decides; the model decides the rest."""
    similarity: float = 0.3
    """Cosine from which an item is found though it has none of the words."""
    synonyms: Synonyms = field(default_factory=lambda: Synonyms([]))
    rewrite: Rewrite = unchanged
    language: Tell = untold
    rerank: int = 0
    """First items of an answer that the reranker reads; 0 = none."""
    rerank_share: float = 0.5
    """Part of their order that it decides."""


class Words:
    """The index as requests use it: renewed beside them."""

    def __init__(self, open_index: Callable[[], IndexReader]) -> None:
        self._open = open_index
        self.reader: IndexReader | None = None
        self.speller = Speller([])
        self._learned, self._searched = 0, 0

    def renew(self) -> bool:
        """Look for what was committed; True when there was something. Runs in a thread. Raises TemporaryError."""
        if self.reader is None:
            self.reader = self._open()
            return True
        return self.reader.refresh()

    @property
    def outgrown(self) -> bool:
        """The index holds a tenth more items than when spelling was learned."""
        return self.reader is not None and self.reader.count > 1.1 * self._learned

    def learn_spelling(self) -> None:
        """Take the vocabulary over; runs in a thread."""
        if self.reader is not None:
            self._learned = self.reader.count
            self.speller = Speller(self.reader.vocabulary())
            self._searched = 0
            self.learn_searches()

    @property
    def asked_anew(self) -> bool:
        """What shoppers search for has changed."""
        return self.reader is not None and self.reader.queries.seen != self._searched

    def learn_searches(self) -> None:
        """Take over what shoppers search for; runs in a thread."""
        if self.reader is not None and self.asked_anew:
            self._searched = self.reader.queries.seen
            self.speller = self.speller.told(self.reader.queries.words())


async def watch_words(words: Words) -> None:
    """Look for what was committed again and again; the vocabulary follows more slowly."""
    learned_s, loop, new = -SPELLING_S, asyncio.get_running_loop(), False
    while True:
        try:
            new = await asyncio.to_thread(words.renew) or new
            if new and (words.outgrown or loop.time() - learned_s >= SPELLING_S):
                await asyncio.to_thread(words.learn_spelling)
                learned_s, new = loop.time(), False
            elif words.asked_anew:
                await asyncio.to_thread(words.learn_searches)
        except TemporaryError:  # nobody has made it yet: not ready
            pass
        await asyncio.sleep(LOOK_S)


class Searcher:
    """Answers Search and Suggest."""

    def __init__(
        self,
        ranker: Ranker,
        pipeline: Pipeline,
        index: Words,
        texts: Texts,
        policy: SearchPolicy,
        rerankers: Rerankers | None = None,
    ) -> None:
        self._ranker, self._pipeline, self._index, self._policy = ranker, pipeline, index, policy
        self._texts, self._rerankers = texts, rerankers

    async def search(self, call: SearchCall, budget: Budget) -> Answer:
        """Items for a query, or the next page of an earlier answer.

        Raises InvalidInput for a query without a word, Overloaded while the index is being opened.
        """
        if call.page_token:
            return await self._next_page(call, budget)
        query = await self._understood(call.query, call.exact)
        meant = await self._meant(query, call.caller, budget)
        with self._pipeline.meters.stage("retrieve"):
            hits = self._hits(query, call, meant)
            wanted = replace(self._wanted(hits.slots, hits.lexical, query, meant), prior_rank=hits.prior_rank)
        seen = await self._pipeline.evaluate(call.caller, wanted, call.now_us, budget, query.text)
        score, order = self._ordered(seen, hits.sure)
        score, order, second = await self._reranked(query, seen, score, order, budget)
        shown = rerank.Shown(order[: call.size], None, None)
        served = as_served(
            seen, call.caller, call.placement, call.now_us, shown, True, score=score, query=query.text, reranked=second
        )
        rest = Rest(
            [wanted.ids[place] for place in order[call.size :].tolist()],
            1,
            len(shown.order),
            call.size,
            call.placement,
            call.now_us // 1_000_000,
            query.text,
        )
        answer = self._ranker.answer(served, seen, next_page=self._ranker.page(rest, call.caller), preview=call.preview)
        return replace(
            answer,
            query=query.text,
            corrected=query.corrected,
            found=hits.count,
            facets=hits.facets,
            asked=surest(wanted.match),
            language=self._policy.language(query.text),
        )

    def matched(self, query: str, item: str) -> list[str]:
        """Words of a query that an item has."""
        reader = self._index.reader
        return reader.matched(list(dict.fromkeys(words(query))), item) if reader is not None else []

    def suggest(self, call: SuggestCall) -> list[str]:
        """Queries that begin as typed."""
        prefix, reader = call.prefix, self._reader()
        known = lambda query: all(reader.frequency(w) or not reader.tells(w) for w in words(query))  # noqa: E731
        searched = reader.queries.beginning(prefix, call.size, known)
        return completed(prefix, call.size, searched, reader.beginning, words)

    async def _understood(self, text: str, exact: bool) -> Query:
        reader, policy = self._reader(), self._policy
        if exact:
            return understand(
                text, lambda word: max(1, reader.frequency(word)), lambda word: None, policy.synonyms, policy.rewrite
            )
        missing = [word for word in words(text) if not reader.frequency(word)]
        if missing:  # comparing with all words takes milliseconds: not here
            await asyncio.to_thread(lambda: [self._index.speller.correct(word) for word in missing[:MOST_WORDS]])
        correct = self._index.speller.correct
        return understand(text, reader.frequency, correct, policy.synonyms, policy.rewrite, reader.tells)

    async def _meant(self, query: Query, caller: Caller, budget: Budget) -> Meant | None:
        """The query's vector; None without an encoder, or when it does not answer in time.

        Of the words as they were typed: one that no item has may well be a word that means something.
        """
        text, loop = self._texts.of(caller.user), asyncio.get_running_loop()
        if text is None:
            return None
        vector = await self._texts.query(text, query.text, lambda: budget.share(loop.time(), ladder.TEXT_SHARE))
        return Meant(text, vector) if vector is not None else None

    def _hits(self, query: Query, call: SearchCall, meant: Meant | None) -> Hits:
        policy = self._policy
        return find(
            self._reader(),
            self._pipeline.table,
            query,
            call.filter,
            policy.candidates,
            call.facets,
            None if call.exact else meant,
            policy.similarity,
        )

    def _wanted(self, slots: Ints, lexical: dict[int, float], query: Query, meant: Meant | None) -> Wanted:
        table = self._pipeline.table
        numbers = np.array([lexical.get(slot, np.nan) for slot in slots.tolist()], np.float32)
        unknown = np.full(len(slots), np.nan, np.float32)
        similarity = meant.cosines(table, slots) if meant is not None else unknown
        asked = meant.text.asked(meant.vector) if meant is not None else {}
        return replace(Wanted.of(table.ids(slots)), match=Match(query.size, numbers, similarity, asked))

    def _ordered(self, seen: Evaluation, sure: int) -> tuple[Floats, Ints]:
        """Score and order of what may be shown: the model's order and that of the words, fused; `sure` ones first."""
        candidates = seen.candidates
        places, shares = blended(seen.scored.order, candidates.wanted.prior_rank, self._policy.relevance)
        score = np.zeros(len(candidates), np.float32)
        score[places] = shares
        score[:sure] += 1
        order = places[np.argsort(places >= sure, kind="stable")]
        return score, order[filters.available(candidates.records)[order]]

    async def _reranked(
        self, query: Query, seen: Evaluation, score: Floats, order: Ints, budget: Budget
    ) -> tuple[Floats, Ints, Reranked | None]:
        """Score and order with the first ones as the reranker would have them too; as they are without its answer.

        It reads what is looked for: the words with their spelling corrected.
        """
        most, loop = min(self._policy.rerank, len(order)), asyncio.get_running_loop()
        if self._rerankers is None or self._rerankers.now is None or most < 2:
            return score, order, None
        slots = seen.candidates.slots[order[:most]]
        kept = self._reader().texts([seen.candidates.wanted.ids[place] for place in order[:most].tolist()])
        texts = [kept.get(slot, "") for slot in slots.tolist()]
        share = lambda: budget.share(loop.time(), ladder.RERANK_SHARE)  # noqa: E731
        name, found = await self._rerankers.scores(query.corrected or query.text, texts, share)
        if not name:
            return score, order, None
        first, fused = reranked(order, found, self._policy.rerank_share)
        second = np.full(len(score), np.nan, np.float32)
        second[order[:most]] = found
        score[first] = 2 + fused  # above all others, as `sure` ones are above the rest
        return score, np.concatenate([first, order[most:]]), Reranked(name, second)

    async def _next_page(self, call: SearchCall, budget: Budget) -> Answer:
        rest = self._ranker.rest(call.page_token, call.caller, call.now_us)
        table, reader = self._pipeline.table, self._reader()
        keep = filters.available(table.catalogue(table.slots(rest.ids)))
        ids = [item for item, kept in zip(rest.ids, keep.tolist(), strict=True) if kept]
        page, left = ids[: rest.size], ids[rest.size :]
        query = await self._understood(rest.query, call.exact)
        lexical, meant = reader.scores(query.wish, page), await self._meant(query, call.caller, budget)
        wanted = self._wanted(table.slots(page), lexical, query, meant)
        wanted = replace(wanted, prior_rank=np.arange(1, 1 + len(page)) + rest.position)
        seen = await self._pipeline.evaluate(call.caller, wanted, call.now_us, budget, rest.query)
        shown = rerank.Shown(np.arange(len(page)), None, None)
        score = (1 / (K + wanted.prior_rank)).astype(np.float32)
        served = as_served(
            seen,
            call.caller,
            rest.placement,
            call.now_us,
            shown,
            True,
            page=rest.page,
            first=rest.position,
            score=score,
            query=rest.query,
        )
        following = replace(rest, ids=left, page=rest.page + 1, position=rest.position + len(page))
        answer = self._ranker.answer(
            served, seen, next_page=self._ranker.page(following, call.caller), preview=call.preview
        )
        language = self._policy.language(rest.query)
        return replace(answer, query=rest.query, asked=surest(wanted.match), language=language)

    def _reader(self) -> IndexReader:
        if self._index.reader is None:
            raise Overloaded("the index of words is being opened, try again")
        return self._index.reader
