"""freshrank.v1.Ranking: thin methods over the core."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from freshrank.v1 import ranking_pb2 as pb
from freshrank.v1 import ranking_pb2_grpc

from services.gateway import checks, messages
from services.gateway.calls import Caller
from services.gateway.checks import Times
from services.gateway.explain import Explainer
from services.gateway.intake import Intake
from services.gateway.ladder import Budget
from services.gateway.limits import TokenBuckets
from services.gateway.ranker import Ranker
from services.gateway.search.searcher import Searcher

ANSWER_SHARE = 0.9
"""Of a caller's deadline; the rest is for the way back."""


@dataclass(frozen=True)
class Deadlines:
    """Seconds a call may take when it does not say, and at most."""

    default_s: float
    write_s: float
    longest_s: float

    def budget(self, context: Any, now_s: float) -> Budget:
        """Until when a ranking must be answered; a default is told in the trailing metadata."""
        left = context.time_remaining()
        if left is None:
            context.set_trailing_metadata((("freshrank-deadline-ms", str(round(self.default_s * 1e3))),))
            return Budget(now_s + self.default_s)
        return Budget(now_s + min(left * ANSWER_SHARE, self.longest_s))

    def timeout(self, context: Any) -> float:
        """Seconds a call that waits for Kafka may take."""
        left = context.time_remaining()
        return self.write_s if left is None else left * ANSWER_SHARE


class RankingServicer(ranking_pb2_grpc.RankingServicer):
    """freshrank.v1.Ranking."""

    def __init__(
        self,
        ranker: Ranker,
        searcher: Searcher,
        intake: Intake,
        explainer: Explainer,
        deadlines: Deadlines,
        buckets: TokenBuckets,
        times: Callable[[], Times],
        on_time: Callable[[int], None],
    ) -> None:
        """`times`: what time it is for the next request; `on_time` is told the time each request had."""
        self._ranker, self._searcher, self._intake, self._explainer = ranker, searcher, intake, explainer
        self._deadlines, self._buckets, self._times, self._on_time = deadlines, buckets, times, on_time

    async def Rank(self, request: pb.RankRequest, context: Any) -> bytes:
        """The caller's candidates in order."""
        call = checks.rank_call(request, self._times())
        budget = self._begin(call.caller, call.now_us, context)
        return messages.answer(await self._ranker.rank(call, budget))

    async def Recommend(self, request: pb.RecommendRequest, context: Any) -> bytes:
        """Items for a shopper."""
        call = checks.recommend_call(request, self._times())
        budget = self._begin(call.caller, call.now_us, context)
        return messages.answer(await self._ranker.recommend(call, budget))

    async def Similar(self, request: pb.SimilarRequest, context: Any) -> bytes:
        """Items like one item."""
        call = checks.similar_call(request, self._times())
        budget = self._begin(call.caller, call.now_us, context)
        return messages.answer(await self._ranker.similar(call, budget))

    async def Search(self, request: pb.SearchRequest, context: Any) -> bytes:
        """Items for a query."""
        call = checks.search_call(request, self._times())
        budget = self._begin(call.caller, call.now_us, context)
        return messages.answer(await self._searcher.search(call, budget))

    async def Suggest(self, request: pb.SuggestRequest, context: Any) -> pb.SuggestResponse:
        """Queries that begin as typed."""
        call = checks.suggest_call(request, self._times())
        return pb.SuggestResponse(queries=self._searcher.suggest(call))

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:
        """Why an answer was ranked as it was."""
        call = checks.explain_call(request, self._times())
        now_s = asyncio.get_running_loop().time()
        return messages.explanation(
            await self._explainer.explain(call, Budget(now_s + self._deadlines.timeout(context)), now_s)
        )

    async def Track(self, request: pb.TrackRequest, context: Any) -> pb.TrackResponse:
        """What shoppers did."""
        checks.track_call(request)
        outcomes = await self._intake.track(request.events, self._times().now_us, self._deadlines.timeout(context))
        return messages.tracked(outcomes)

    async def UpsertItems(self, request: pb.UpsertItemsRequest, context: Any) -> pb.UpsertItemsResponse:
        """Items of the catalogue."""
        checks.upsert_call(request, self._intake.vectors)
        timeout_s = self._deadlines.timeout(context)
        return pb.UpsertItemsResponse(
            upserted=await self._intake.upsert(request.items, self._times().now_us, timeout_s)
        )

    async def DeleteItems(self, request: pb.DeleteItemsRequest, context: Any) -> pb.DeleteItemsResponse:
        """Items that are no more."""
        checks.delete_call(request)
        timeout_s = self._deadlines.timeout(context)
        return pb.DeleteItemsResponse(deleted=await self._intake.delete(request.item_ids, timeout_s))

    def _begin(self, caller: Caller | None, now_us: int, context: Any) -> Budget:
        now_s = asyncio.get_running_loop().time()
        self._on_time(now_us)
        if caller is not None:
            self._buckets.take(caller.user, now_s)
        return self._deadlines.budget(context, now_s)
