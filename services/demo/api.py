"""The gateway as the driver calls it: timed, recorded, never retried (what fails is counted)."""

import time

import grpc
from freshrank.v1 import events_pb2, ranking_pb2, ranking_pb2_grpc

from services.common.tls import Tls
from services.demo.loaders.steps import Ask
from services.demo.record import Answer, Record

DEADLINE_S = 2.0

OPTIONS = [("grpc.lb_policy_name", "round_robin")]
"""Where the address names several gateways, all are asked."""

MOST_PARTS = 100
"""Contributions asked of Explain: all of them."""


class Api:
    """One channel to the gateway; every answer and acknowledgement goes into the record."""

    def __init__(self, address: str, record: Record, deadline_s: float = DEADLINE_S, tls: Tls | None = None) -> None:
        self._channel = (
            grpc.aio.insecure_channel(address, OPTIONS)
            if tls is None
            else grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*tls.pem()), OPTIONS)
        )
        self.stub = ranking_pb2_grpc.RankingStub(self._channel)  # type: ignore[no-untyped-call]
        self.record = record
        self._deadline_s = deadline_s

    async def recommend(
        self, shopper: ranking_pb2.Shopper, size: int = 20, time_us: int = 0, page: str = "", preview: bool = False
    ) -> tuple[ranking_pb2.RankingResponse, Answer] | None:
        """Ask for items of the whole catalogue; None when the call failed."""
        request = ranking_pb2.RecommendRequest(
            shopper=shopper, page_size=size, request_time_us=time_us, page_token=page, preview=preview
        )
        return await self._ask("Recommend", self.stub.Recommend, request)

    async def search(
        self, shopper: ranking_pb2.Shopper, query: str, size: int = 20, preview: bool = False
    ) -> tuple[ranking_pb2.RankingResponse, Answer] | None:
        """Ask for items by words; None when the call failed."""
        request = ranking_pb2.SearchRequest(shopper=shopper, query=query, page_size=size, preview=preview)
        return await self._ask("Search", self.stub.Search, request)

    async def rank(
        self, shopper: ranking_pb2.Shopper, candidates: list[ranking_pb2.Candidate], time_us: int = 0
    ) -> tuple[ranking_pb2.RankingResponse, Answer] | None:
        """Ask for an order of the candidates; None when the call failed."""
        request = ranking_pb2.RankRequest(shopper=shopper, candidates=candidates, request_time_us=time_us)
        return await self._ask("Rank", self.stub.Rank, request)

    async def preview(self, ask: Ask) -> list[str] | None:
        """An order of the candidates, as of now, that leaves no trace; None when the call failed."""
        request = ranking_pb2.RankRequest(
            shopper=ask.shopper, candidates=ask.candidates, request_time_us=ask.time_us, preview=True
        )
        try:
            response = await self.stub.Rank(request, timeout=self._deadline_s)
        except grpc.aio.AioRpcError as error:
            self.record.failed[f"Rank {error.code().name}"] += 1
            return None
        return [result.item_id for result in response.results]

    async def contributions(self, token: str, item: str, time_us: int) -> tuple[float, dict[str, float]] | None:
        """An item's score and what each input contributed to it; None when the call failed."""
        request = ranking_pb2.ExplainRequest(
            attribution_token=token, item_id=item, top=MOST_PARTS, request_time_us=time_us
        )
        try:
            response = await self.stub.Explain(request, timeout=self._deadline_s)
        except grpc.aio.AioRpcError as error:
            self.record.failed[f"Explain {error.code().name}"] += 1
            return None
        return response.score, {part.feature: part.contribution for part in response.contributions}

    async def _ask(
        self, name: str, method: grpc.aio.UnaryUnaryMultiCallable, request: object
    ) -> tuple[ranking_pb2.RankingResponse, Answer] | None:
        began = time.perf_counter()
        try:
            response = await method(request, timeout=self._deadline_s)
        except grpc.aio.AioRpcError as error:
            self.record.failed[f"{name} {error.code().name}"] += 1
            return None
        ages = response.ages
        answer = Answer(
            at_us=time.time_ns() // 1000,
            release=response.release,
            degradation=response.degradation,
            token=response.attribution_token,
            items=[result.item_id for result in response.results],
            scores=[result.score for result in response.results],
            latency_ms=(time.perf_counter() - began) * 1e3,
            ages_ms=(ages.user_features_ms, ages.item_features_ms, ages.rows_ms, ages.release_ms),
        )
        self.record.answered(answer)
        return response, answer

    async def track(self, events: list[events_pb2.Event]) -> list[ranking_pb2.TrackResult]:
        """Report events; acknowledged ones go into the ledger, refused ones are counted by reason."""
        try:
            response = await self.stub.Track(ranking_pb2.TrackRequest(events=events), timeout=self._deadline_s)
        except grpc.aio.AioRpcError as error:
            self.record.failed[f"Track {error.code().name}"] += len(events)
            return []
        now_us = time.time_ns() // 1000
        for event, result in zip(events, response.results, strict=True):
            if result.error_reason:
                self.record.refused[result.error_reason] += 1
            else:
                place = (result.partition, result.offset, now_us)
                self.record.acknowledged(event.event_id, event.user_id, event.kind, *place)
        return list(response.results)

    async def stock(self, items: list[ranking_pb2.Item]) -> None:
        """Put items into the catalogue, 500 at a time."""
        for start in range(0, len(items), 500):
            request = ranking_pb2.UpsertItemsRequest(items=items[start : start + 500])
            await self.stub.UpsertItems(request, timeout=30)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
