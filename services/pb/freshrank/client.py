"""A synchronous client: retries, load balancing, deadlines and typed errors, over the generated stubs.

    from freshrank import Client

    with Client("dns:///freshrank-gateway:50051") as shop:
        answer = shop.rank("user-1", ["shoe-1", "shoe-2"], session_id="visit-9")
        shop.track(Event(kind="EVENT_KIND_CLICK", user_id="user-1", item_id=answer.results[0].item_id,
                         session_id="visit-9", attribution_token=answer.attribution_token))

Answers are the messages of `freshrank.v1.ranking_pb2`; every failure is an error of `freshrank.errors`.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from freshrank import errors
from freshrank.v1 import ranking_pb2 as pb
from freshrank.v1 import ranking_pb2_grpc
from freshrank.v1.events_pb2 import Context, Event

READ_S, WRITE_S = 0.5, 5.0
"""Deadlines in seconds of calls that rank, and of those that wait for the log."""

MOST_EVENTS = 1000
"""Events in one Track call; longer lists go in several."""

SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": "freshrank.v1.Ranking"}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
        "healthCheckConfig": {"serviceName": "freshrank.v1.Ranking"},
    }
)
"""Only UNAVAILABLE is tried again, and not when a tenth of the calls fail: retries must not bring a service down.
Every call is safe to repeat: events are counted once by their id, items by theirs. A server that says NOT_SERVING, as
one does that is about to stop, gets no more calls."""

_OPTIONS = [
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),  # a server that comes back is used within seconds, not minutes
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),  # and so are new ones behind the name
]


class Client:
    """One connection to the service, for any number of threads."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        read_s: float = READ_S,
        write_s: float = WRITE_S,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """`target`: host:port, or dns:///name:port to spread over all pods behind a headless service.

        `credentials`: `grpc.ssl_channel_credentials(...)` for TLS, None for plain text.
        """
        own = [*_OPTIONS, *options]
        if credentials is None:
            self._channel = grpc.insecure_channel(target, own)
        else:
            self._channel = grpc.secure_channel(target, credentials, own)
        self._stub: Any = ranking_pb2_grpc.RankingStub(self._channel)  # type: ignore[no-untyped-call]
        self._read_s, self._write_s = read_s, write_s

    def recommend(
        self,
        user_id: str,
        *,
        session_id: str = "",
        context: Context | None = None,
        placement: str = "",
        page_size: int = 0,
        page_token: str = "",
        categories: Iterable[str] = (),
        exclude: Iterable[str] = (),
        request_time_us: int = 0,
        preview: bool = False,
        timeout_s: float | None = None,
    ) -> pb.RankingResponse:
        """Items for a shopper; give `next_page_token` of an answer back as `page_token` for the next page.

        `preview` answers without a trace: no impression, no token, no exploration.
        """
        request = pb.RecommendRequest(
            shopper=_shopper(user_id, session_id, context),
            placement=placement,
            page_size=page_size,
            page_token=page_token,
            categories=categories,
            exclude=exclude,
            request_time_us=request_time_us,
            preview=preview,
        )
        answer: pb.RankingResponse = _call(self._stub.Recommend, request, timeout_s or self._read_s)
        return answer

    def rank(
        self,
        user_id: str,
        candidates: Iterable[str | pb.Candidate],
        *,
        session_id: str = "",
        context: Context | None = None,
        placement: str = "",
        request_time_us: int = 0,
        preview: bool = False,
        timeout_s: float | None = None,
    ) -> pb.RankingResponse:
        """Your own candidates in order. Ids alone get their place in the list as `prior_rank`.

        `preview` answers without a trace, as in `recommend`.
        """
        request = pb.RankRequest(
            shopper=_shopper(user_id, session_id, context),
            placement=placement,
            candidates=[
                pb.Candidate(item_id=c, prior_rank=place) if isinstance(c, str) else c
                for place, c in enumerate(candidates, 1)
            ],
            request_time_us=request_time_us,
            preview=preview,
        )
        answer: pb.RankingResponse = _call(self._stub.Rank, request, timeout_s or self._read_s)
        return answer

    def search(
        self,
        user_id: str,
        query: str,
        *,
        session_id: str = "",
        context: Context | None = None,
        placement: str = "",
        page_size: int = 0,
        page_token: str = "",
        filter: pb.Filter | None = None,
        facets: bool = False,
        exact: bool = False,
        request_time_us: int = 0,
        preview: bool = False,
        timeout_s: float | None = None,
    ) -> pb.RankingResponse:
        """Items for a query; pages as in `recommend`. `exact` corrects no spelling; `facets` counts what was found."""
        request = pb.SearchRequest(
            shopper=_shopper(user_id, session_id, context),
            query=query,
            placement=placement,
            page_size=page_size,
            page_token=page_token,
            filter=filter,
            facets=facets,
            exact=exact,
            request_time_us=request_time_us,
            preview=preview,
        )
        answer: pb.RankingResponse = _call(self._stub.Search, request, timeout_s or self._read_s)
        return answer

    def suggest(self, prefix: str, *, size: int = 0, timeout_s: float | None = None) -> list[str]:
        """Queries that begin as typed."""
        answer = _call(self._stub.Suggest, pb.SuggestRequest(prefix=prefix, size=size), timeout_s or self._read_s)
        return list(answer.queries)

    def similar(
        self,
        item_id: str,
        *,
        page_size: int = 0,
        user_id: str = "",
        session_id: str = "",
        context: Context | None = None,
        timeout_s: float | None = None,
    ) -> pb.RankingResponse:
        """Items like one item; with a `user_id` without those the shopper has seen, and with a token."""
        shopper = _shopper(user_id, session_id, context) if user_id else None
        request = pb.SimilarRequest(item_id=item_id, page_size=page_size, shopper=shopper)
        answer: pb.RankingResponse = _call(self._stub.Similar, request, timeout_s or self._read_s)
        return answer

    def track(self, *events: Event, timeout_s: float | None = None) -> list[pb.TrackResult]:
        """Report what shoppers did; one result per event, in order.

        An event without an `event_id` gets one, so that a retry counts once. A refused event has `error_reason`.
        """
        for event in events:
            event.event_id = event.event_id or uuid.uuid4().hex
        results: list[pb.TrackResult] = []
        for start in range(0, len(events), MOST_EVENTS):
            request = pb.TrackRequest(events=events[start : start + MOST_EVENTS])
            results += _call(self._stub.Track, request, timeout_s or self._write_s).results
        return results

    def explain(
        self, attribution_token: str, item_id: str = "", *, top: int = 0, timeout_s: float | None = None
    ) -> pb.ExplainResponse:
        """Why an item of a recent answer got its score; without an item, the first result."""
        request = pb.ExplainRequest(attribution_token=attribution_token, item_id=item_id, top=top)
        answer: pb.ExplainResponse = _call(self._stub.Explain, request, timeout_s or self._write_s)
        return answer

    def upsert(self, *items: pb.Item, timeout_s: float | None = None) -> int:
        """Add or change items of the catalogue; returns how many."""
        response = _call(self._stub.UpsertItems, pb.UpsertItemsRequest(items=items), timeout_s or self._write_s)
        return int(response.upserted)

    def delete(self, *item_ids: str, timeout_s: float | None = None) -> int:
        """Take items out of the catalogue; returns how many."""
        response = _call(self._stub.DeleteItems, pb.DeleteItemsRequest(item_ids=item_ids), timeout_s or self._write_s)
        return int(response.deleted)

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Wait until a server can be reached. Raises Unavailable."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout_s)
        except grpc.FutureTimeoutError as error:
            raise errors.Unavailable(grpc.StatusCode.UNAVAILABLE, "no server can be reached") from error

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _shopper(user_id: str, session_id: str, context: Context | None) -> pb.Shopper:
    return pb.Shopper(user_id=user_id, session_id=session_id, context=context)


def _call(method: Callable[..., Any], request: Any, timeout_s: float) -> Any:
    try:
        return method(request, timeout=timeout_s)
    except grpc.RpcError as error:
        raise errors.of(error) from error
