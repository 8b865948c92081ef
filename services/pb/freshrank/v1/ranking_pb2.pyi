from freshrank.v1 import events_pb2 as _events_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Shopper(_message.Message):
    __slots__ = ("user_id", "session_id", "context")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    session_id: str
    context: _events_pb2.Context
    def __init__(self, user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., context: _Optional[_Union[_events_pb2.Context, _Mapping]] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("shopper", "placement", "page_size", "page_token", "categories", "exclude", "request_time_us", "preview")
    SHOPPER_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_US_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    shopper: Shopper
    placement: str
    page_size: int
    page_token: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    exclude: _containers.RepeatedScalarFieldContainer[str]
    request_time_us: int
    preview: bool
    def __init__(self, shopper: _Optional[_Union[Shopper, _Mapping]] = ..., placement: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ..., exclude: _Optional[_Iterable[str]] = ..., request_time_us: _Optional[int] = ..., preview: _Optional[bool] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("shopper", "query", "page_size", "page_token", "placement", "filter", "facets", "exact", "request_time_us", "preview")
    SHOPPER_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    FACETS_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_US_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    shopper: Shopper
    query: str
    page_size: int
    page_token: str
    placement: str
    filter: Filter
    facets: bool
    exact: bool
    request_time_us: int
    preview: bool
    def __init__(self, shopper: _Optional[_Union[Shopper, _Mapping]] = ..., query: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., placement: _Optional[str] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., facets: _Optional[bool] = ..., exact: _Optional[bool] = ..., request_time_us: _Optional[int] = ..., preview: _Optional[bool] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("categories", "brands", "price_from", "price_to")
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    BRANDS_FIELD_NUMBER: _ClassVar[int]
    PRICE_FROM_FIELD_NUMBER: _ClassVar[int]
    PRICE_TO_FIELD_NUMBER: _ClassVar[int]
    categories: _containers.RepeatedScalarFieldContainer[str]
    brands: _containers.RepeatedScalarFieldContainer[str]
    price_from: float
    price_to: float
    def __init__(self, categories: _Optional[_Iterable[str]] = ..., brands: _Optional[_Iterable[str]] = ..., price_from: _Optional[float] = ..., price_to: _Optional[float] = ...) -> None: ...

class FacetValue(_message.Message):
    __slots__ = ("value", "count")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    value: str
    count: int
    def __init__(self, value: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Facet(_message.Message):
    __slots__ = ("name", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.RepeatedCompositeFieldContainer[FacetValue]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[_Union[FacetValue, _Mapping]]] = ...) -> None: ...

class AskedCategory(_message.Message):
    __slots__ = ("category", "probability")
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    category: str
    probability: float
    def __init__(self, category: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class SuggestRequest(_message.Message):
    __slots__ = ("prefix", "size")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    size: int
    def __init__(self, prefix: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class SuggestResponse(_message.Message):
    __slots__ = ("queries",)
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    queries: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, queries: _Optional[_Iterable[str]] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("item_id", "prior_rank", "price", "bid", "campaign")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    PRIOR_RANK_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    BID_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    prior_rank: int
    price: float
    bid: float
    campaign: str
    def __init__(self, item_id: _Optional[str] = ..., prior_rank: _Optional[int] = ..., price: _Optional[float] = ..., bid: _Optional[float] = ..., campaign: _Optional[str] = ...) -> None: ...

class RankRequest(_message.Message):
    __slots__ = ("shopper", "placement", "candidates", "request_time_us", "preview")
    SHOPPER_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_US_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    shopper: Shopper
    placement: str
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    request_time_us: int
    preview: bool
    def __init__(self, shopper: _Optional[_Union[Shopper, _Mapping]] = ..., placement: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., request_time_us: _Optional[int] = ..., preview: _Optional[bool] = ...) -> None: ...

class SimilarRequest(_message.Message):
    __slots__ = ("item_id", "page_size", "shopper")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SHOPPER_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    page_size: int
    shopper: Shopper
    def __init__(self, item_id: _Optional[str] = ..., page_size: _Optional[int] = ..., shopper: _Optional[_Union[Shopper, _Mapping]] = ...) -> None: ...

class RankedItem(_message.Message):
    __slots__ = ("item_id", "score", "objective_scores", "reasons")
    class ObjectiveScoresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_SCORES_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    objective_scores: _containers.ScalarMap[str, float]
    reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., objective_scores: _Optional[_Mapping[str, float]] = ..., reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class Ages(_message.Message):
    __slots__ = ("user_features_ms", "item_features_ms", "rows_ms", "release_ms")
    USER_FEATURES_MS_FIELD_NUMBER: _ClassVar[int]
    ITEM_FEATURES_MS_FIELD_NUMBER: _ClassVar[int]
    ROWS_MS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_MS_FIELD_NUMBER: _ClassVar[int]
    user_features_ms: float
    item_features_ms: float
    rows_ms: float
    release_ms: float
    def __init__(self, user_features_ms: _Optional[float] = ..., item_features_ms: _Optional[float] = ..., rows_ms: _Optional[float] = ..., release_ms: _Optional[float] = ...) -> None: ...

class RankingResponse(_message.Message):
    __slots__ = ("results", "attribution_token", "next_page_token", "release", "arm", "degradation", "ages", "frozen", "missing_ids", "request_id", "query", "corrected_query", "found", "facets", "categories", "language")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    DEGRADATION_FIELD_NUMBER: _ClassVar[int]
    AGES_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    MISSING_IDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_QUERY_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    FACETS_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RankedItem]
    attribution_token: str
    next_page_token: str
    release: str
    arm: str
    degradation: _events_pb2.Degradation
    ages: Ages
    frozen: bool
    missing_ids: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    query: str
    corrected_query: str
    found: int
    facets: _containers.RepeatedCompositeFieldContainer[Facet]
    categories: _containers.RepeatedCompositeFieldContainer[AskedCategory]
    language: str
    def __init__(self, results: _Optional[_Iterable[_Union[RankedItem, _Mapping]]] = ..., attribution_token: _Optional[str] = ..., next_page_token: _Optional[str] = ..., release: _Optional[str] = ..., arm: _Optional[str] = ..., degradation: _Optional[_Union[_events_pb2.Degradation, str]] = ..., ages: _Optional[_Union[Ages, _Mapping]] = ..., frozen: _Optional[bool] = ..., missing_ids: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ..., query: _Optional[str] = ..., corrected_query: _Optional[str] = ..., found: _Optional[int] = ..., facets: _Optional[_Iterable[_Union[Facet, _Mapping]]] = ..., categories: _Optional[_Iterable[_Union[AskedCategory, _Mapping]]] = ..., language: _Optional[str] = ...) -> None: ...

class TrackRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_events_pb2.Event]
    def __init__(self, events: _Optional[_Iterable[_Union[_events_pb2.Event, _Mapping]]] = ...) -> None: ...

class TrackResult(_message.Message):
    __slots__ = ("partition", "offset", "error_reason", "error_field", "error_detail")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_FIELD_NUMBER: _ClassVar[int]
    ERROR_DETAIL_FIELD_NUMBER: _ClassVar[int]
    partition: int
    offset: int
    error_reason: str
    error_field: str
    error_detail: str
    def __init__(self, partition: _Optional[int] = ..., offset: _Optional[int] = ..., error_reason: _Optional[str] = ..., error_field: _Optional[str] = ..., error_detail: _Optional[str] = ...) -> None: ...

class TrackResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[TrackResult]
    def __init__(self, results: _Optional[_Iterable[_Union[TrackResult, _Mapping]]] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("item_id", "title", "description", "categories", "brand", "price", "stock", "published_us", "vectors")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    BRAND_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    STOCK_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_US_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    title: str
    description: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    brand: str
    price: float
    stock: int
    published_us: int
    vectors: _containers.RepeatedCompositeFieldContainer[ItemVector]
    def __init__(self, item_id: _Optional[str] = ..., title: _Optional[str] = ..., description: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ..., brand: _Optional[str] = ..., price: _Optional[float] = ..., stock: _Optional[int] = ..., published_us: _Optional[int] = ..., vectors: _Optional[_Iterable[_Union[ItemVector, _Mapping]]] = ...) -> None: ...

class ItemVector(_message.Message):
    __slots__ = ("name", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class UpsertItemsRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class UpsertItemsResponse(_message.Message):
    __slots__ = ("upserted",)
    UPSERTED_FIELD_NUMBER: _ClassVar[int]
    upserted: int
    def __init__(self, upserted: _Optional[int] = ...) -> None: ...

class DeleteItemsRequest(_message.Message):
    __slots__ = ("item_ids",)
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteItemsResponse(_message.Message):
    __slots__ = ("deleted",)
    DELETED_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    def __init__(self, deleted: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("attribution_token", "item_id", "top", "request_time_us")
    ATTRIBUTION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_US_FIELD_NUMBER: _ClassVar[int]
    attribution_token: str
    item_id: str
    top: int
    request_time_us: int
    def __init__(self, attribution_token: _Optional[str] = ..., item_id: _Optional[str] = ..., top: _Optional[int] = ..., request_time_us: _Optional[int] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("feature", "value", "contribution", "age_ms")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    feature: str
    value: float
    contribution: float
    age_ms: float
    def __init__(self, feature: _Optional[str] = ..., value: _Optional[float] = ..., contribution: _Optional[float] = ..., age_ms: _Optional[float] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("item_id", "score", "served_score", "contributions", "release", "query", "matched_words", "reranker", "reranked", "categories")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SERVED_SCORE_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    MATCHED_WORDS_FIELD_NUMBER: _ClassVar[int]
    RERANKER_FIELD_NUMBER: _ClassVar[int]
    RERANKED_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    served_score: float
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    release: str
    query: str
    matched_words: _containers.RepeatedScalarFieldContainer[str]
    reranker: str
    reranked: float
    categories: _containers.RepeatedCompositeFieldContainer[AskedCategory]
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., served_score: _Optional[float] = ..., contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ..., release: _Optional[str] = ..., query: _Optional[str] = ..., matched_words: _Optional[_Iterable[str]] = ..., reranker: _Optional[str] = ..., reranked: _Optional[float] = ..., categories: _Optional[_Iterable[_Union[AskedCategory, _Mapping]]] = ...) -> None: ...
