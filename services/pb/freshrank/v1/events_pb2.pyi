from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_VIEW: _ClassVar[EventKind]
    EVENT_KIND_CLICK: _ClassVar[EventKind]
    EVENT_KIND_ADD_TO_CART: _ClassVar[EventKind]
    EVENT_KIND_PURCHASE: _ClassVar[EventKind]
    EVENT_KIND_RATE: _ClassVar[EventKind]
    EVENT_KIND_SEARCH: _ClassVar[EventKind]
    EVENT_KIND_LIKE: _ClassVar[EventKind]
    EVENT_KIND_FOLLOW: _ClassVar[EventKind]
    EVENT_KIND_COMMENT: _ClassVar[EventKind]
    EVENT_KIND_PLAY: _ClassVar[EventKind]

class Degradation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEGRADATION_UNSPECIFIED: _ClassVar[Degradation]
    DEGRADATION_NONE: _ClassVar[Degradation]
    DEGRADATION_STALE_FEATURES: _ClassVar[Degradation]
    DEGRADATION_NO_USER_FEATURES: _ClassVar[Degradation]
    DEGRADATION_LAST_RELEASE: _ClassVar[Degradation]
    DEGRADATION_POPULAR: _ClassVar[Degradation]
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_VIEW: EventKind
EVENT_KIND_CLICK: EventKind
EVENT_KIND_ADD_TO_CART: EventKind
EVENT_KIND_PURCHASE: EventKind
EVENT_KIND_RATE: EventKind
EVENT_KIND_SEARCH: EventKind
EVENT_KIND_LIKE: EventKind
EVENT_KIND_FOLLOW: EventKind
EVENT_KIND_COMMENT: EventKind
EVENT_KIND_PLAY: EventKind
DEGRADATION_UNSPECIFIED: Degradation
DEGRADATION_NONE: Degradation
DEGRADATION_STALE_FEATURES: Degradation
DEGRADATION_NO_USER_FEATURES: Degradation
DEGRADATION_LAST_RELEASE: Degradation
DEGRADATION_POPULAR: Degradation

class Context(_message.Message):
    __slots__ = ("region", "device", "platform")
    REGION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    region: str
    device: str
    platform: str
    def __init__(self, region: _Optional[str] = ..., device: _Optional[str] = ..., platform: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("event_id", "kind", "user_id", "session_id", "item_id", "event_time_us", "value", "quantity", "rating", "play_seconds", "play_share", "query", "attribution_token", "context", "source")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    RATING_FIELD_NUMBER: _ClassVar[int]
    PLAY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PLAY_SHARE_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    kind: EventKind
    user_id: str
    session_id: str
    item_id: str
    event_time_us: int
    value: float
    quantity: float
    rating: float
    play_seconds: float
    play_share: float
    query: str
    attribution_token: str
    context: Context
    source: str
    def __init__(self, event_id: _Optional[str] = ..., kind: _Optional[_Union[EventKind, str]] = ..., user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., item_id: _Optional[str] = ..., event_time_us: _Optional[int] = ..., value: _Optional[float] = ..., quantity: _Optional[float] = ..., rating: _Optional[float] = ..., play_seconds: _Optional[float] = ..., play_share: _Optional[float] = ..., query: _Optional[str] = ..., attribution_token: _Optional[str] = ..., context: _Optional[_Union[Context, _Mapping]] = ..., source: _Optional[str] = ...) -> None: ...

class EventBatch(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class Forget(_message.Message):
    __slots__ = ("user_id", "before_us")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    BEFORE_US_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    before_us: int
    def __init__(self, user_id: _Optional[str] = ..., before_us: _Optional[int] = ...) -> None: ...

class Tick(_message.Message):
    __slots__ = ("time_us",)
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    time_us: int
    def __init__(self, time_us: _Optional[int] = ...) -> None: ...

class ImpressionItem(_message.Message):
    __slots__ = ("item_id", "position", "score", "features", "content", "row_seq", "propensity", "bid", "campaign", "category", "pos", "explored", "shown", "reranked")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    ROW_SEQ_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    BID_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    POS_FIELD_NUMBER: _ClassVar[int]
    EXPLORED_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    RERANKED_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    position: int
    score: float
    features: _containers.RepeatedScalarFieldContainer[float]
    content: _containers.RepeatedScalarFieldContainer[int]
    row_seq: int
    propensity: float
    bid: float
    campaign: str
    category: str
    pos: _containers.RepeatedScalarFieldContainer[int]
    explored: bool
    shown: bool
    reranked: float
    def __init__(self, item_id: _Optional[str] = ..., position: _Optional[int] = ..., score: _Optional[float] = ..., features: _Optional[_Iterable[float]] = ..., content: _Optional[_Iterable[int]] = ..., row_seq: _Optional[int] = ..., propensity: _Optional[float] = ..., bid: _Optional[float] = ..., campaign: _Optional[str] = ..., category: _Optional[str] = ..., pos: _Optional[_Iterable[int]] = ..., explored: _Optional[bool] = ..., shown: _Optional[bool] = ..., reranked: _Optional[float] = ...) -> None: ...

class HistoryItem(_message.Message):
    __slots__ = ("item_id", "kind", "time_us", "content", "row_seq")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    ROW_SEQ_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    kind: EventKind
    time_us: int
    content: _containers.RepeatedScalarFieldContainer[int]
    row_seq: int
    def __init__(self, item_id: _Optional[str] = ..., kind: _Optional[_Union[EventKind, str]] = ..., time_us: _Optional[int] = ..., content: _Optional[_Iterable[int]] = ..., row_seq: _Optional[int] = ...) -> None: ...

class Impression(_message.Message):
    __slots__ = ("impression_id", "user_id", "session_id", "time_us", "placement", "context", "release", "arm", "feature_service", "user_feature_ids", "user_features", "item_feature_ids", "items", "history", "user_row_seq", "user_views", "user_pos", "item_views", "degradation", "slot", "epoch", "page", "closed_loop", "query", "reranker")
    IMPRESSION_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SERVICE_FIELD_NUMBER: _ClassVar[int]
    USER_FEATURE_IDS_FIELD_NUMBER: _ClassVar[int]
    USER_FEATURES_FIELD_NUMBER: _ClassVar[int]
    ITEM_FEATURE_IDS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    USER_ROW_SEQ_FIELD_NUMBER: _ClassVar[int]
    USER_VIEWS_FIELD_NUMBER: _ClassVar[int]
    USER_POS_FIELD_NUMBER: _ClassVar[int]
    ITEM_VIEWS_FIELD_NUMBER: _ClassVar[int]
    DEGRADATION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    CLOSED_LOOP_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    RERANKER_FIELD_NUMBER: _ClassVar[int]
    impression_id: str
    user_id: str
    session_id: str
    time_us: int
    placement: str
    context: Context
    release: str
    arm: str
    feature_service: str
    user_feature_ids: _containers.RepeatedScalarFieldContainer[int]
    user_features: _containers.RepeatedScalarFieldContainer[float]
    item_feature_ids: _containers.RepeatedScalarFieldContainer[int]
    items: _containers.RepeatedCompositeFieldContainer[ImpressionItem]
    history: _containers.RepeatedCompositeFieldContainer[HistoryItem]
    user_row_seq: int
    user_views: _containers.RepeatedScalarFieldContainer[str]
    user_pos: _containers.RepeatedScalarFieldContainer[int]
    item_views: _containers.RepeatedScalarFieldContainer[str]
    degradation: Degradation
    slot: str
    epoch: int
    page: int
    closed_loop: bool
    query: str
    reranker: str
    def __init__(self, impression_id: _Optional[str] = ..., user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., time_us: _Optional[int] = ..., placement: _Optional[str] = ..., context: _Optional[_Union[Context, _Mapping]] = ..., release: _Optional[str] = ..., arm: _Optional[str] = ..., feature_service: _Optional[str] = ..., user_feature_ids: _Optional[_Iterable[int]] = ..., user_features: _Optional[_Iterable[float]] = ..., item_feature_ids: _Optional[_Iterable[int]] = ..., items: _Optional[_Iterable[_Union[ImpressionItem, _Mapping]]] = ..., history: _Optional[_Iterable[_Union[HistoryItem, _Mapping]]] = ..., user_row_seq: _Optional[int] = ..., user_views: _Optional[_Iterable[str]] = ..., user_pos: _Optional[_Iterable[int]] = ..., item_views: _Optional[_Iterable[str]] = ..., degradation: _Optional[_Union[Degradation, str]] = ..., slot: _Optional[str] = ..., epoch: _Optional[int] = ..., page: _Optional[int] = ..., closed_loop: _Optional[bool] = ..., query: _Optional[str] = ..., reranker: _Optional[str] = ...) -> None: ...

class Inbound(_message.Message):
    __slots__ = ("event", "batch", "impression", "forget", "tick", "forwarded", "received_us")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    IMPRESSION_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    TICK_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_US_FIELD_NUMBER: _ClassVar[int]
    event: Event
    batch: EventBatch
    impression: Impression
    forget: Forget
    tick: Tick
    forwarded: Forwarded
    received_us: int
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ..., batch: _Optional[_Union[EventBatch, _Mapping]] = ..., impression: _Optional[_Union[Impression, _Mapping]] = ..., forget: _Optional[_Union[Forget, _Mapping]] = ..., tick: _Optional[_Union[Tick, _Mapping]] = ..., forwarded: _Optional[_Union[Forwarded, _Mapping]] = ..., received_us: _Optional[int] = ...) -> None: ...

class Forwarded(_message.Message):
    __slots__ = ("partition", "offset", "index", "inbound", "hops")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    INBOUND_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    partition: int
    offset: int
    index: int
    inbound: Inbound
    hops: int
    def __init__(self, partition: _Optional[int] = ..., offset: _Optional[int] = ..., index: _Optional[int] = ..., inbound: _Optional[_Union[Inbound, _Mapping]] = ..., hops: _Optional[int] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("stage", "reason", "field", "detail", "payload", "topic", "partition", "offset", "index", "time_us")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    stage: str
    reason: str
    field: str
    detail: str
    payload: bytes
    topic: str
    partition: int
    offset: int
    index: int
    time_us: int
    def __init__(self, stage: _Optional[str] = ..., reason: _Optional[str] = ..., field: _Optional[str] = ..., detail: _Optional[str] = ..., payload: _Optional[bytes] = ..., topic: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ..., index: _Optional[int] = ..., time_us: _Optional[int] = ...) -> None: ...
