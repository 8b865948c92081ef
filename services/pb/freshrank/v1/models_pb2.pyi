from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReleaseState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RELEASE_STATE_UNSPECIFIED: _ClassVar[ReleaseState]
    RELEASE_STATE_CANDIDATE: _ClassVar[ReleaseState]
    RELEASE_STATE_HELD: _ClassVar[ReleaseState]
    RELEASE_STATE_CHAMPION: _ClassVar[ReleaseState]
    RELEASE_STATE_PREVIOUS: _ClassVar[ReleaseState]
    RELEASE_STATE_REFUSED: _ClassVar[ReleaseState]
    RELEASE_STATE_ROLLED_BACK: _ClassVar[ReleaseState]
    RELEASE_STATE_RETIRED: _ClassVar[ReleaseState]
RELEASE_STATE_UNSPECIFIED: ReleaseState
RELEASE_STATE_CANDIDATE: ReleaseState
RELEASE_STATE_HELD: ReleaseState
RELEASE_STATE_CHAMPION: ReleaseState
RELEASE_STATE_PREVIOUS: ReleaseState
RELEASE_STATE_REFUSED: ReleaseState
RELEASE_STATE_ROLLED_BACK: ReleaseState
RELEASE_STATE_RETIRED: ReleaseState

class Release(_message.Message):
    __slots__ = ("release", "state", "parent", "created_us", "learned_up_to_us", "metrics", "reason", "slot", "epoch")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    CREATED_US_FIELD_NUMBER: _ClassVar[int]
    LEARNED_UP_TO_US_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    release: str
    state: ReleaseState
    parent: str
    created_us: int
    learned_up_to_us: int
    metrics: _containers.ScalarMap[str, float]
    reason: str
    slot: str
    epoch: int
    def __init__(self, release: _Optional[str] = ..., state: _Optional[_Union[ReleaseState, str]] = ..., parent: _Optional[str] = ..., created_us: _Optional[int] = ..., learned_up_to_us: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., reason: _Optional[str] = ..., slot: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class Encoder(_message.Message):
    __slots__ = ("encoder", "state", "reason", "decided_us", "slot", "epoch", "kind")
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DECIDED_US_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    encoder: str
    state: str
    reason: str
    decided_us: int
    slot: str
    epoch: int
    kind: str
    def __init__(self, encoder: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., decided_us: _Optional[int] = ..., slot: _Optional[str] = ..., epoch: _Optional[int] = ..., kind: _Optional[str] = ...) -> None: ...

class ListEncodersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListEncodersResponse(_message.Message):
    __slots__ = ("encoders",)
    ENCODERS_FIELD_NUMBER: _ClassVar[int]
    encoders: _containers.RepeatedCompositeFieldContainer[Encoder]
    def __init__(self, encoders: _Optional[_Iterable[_Union[Encoder, _Mapping]]] = ...) -> None: ...

class RollbackEncoderRequest(_message.Message):
    __slots__ = ("actor", "reason", "reranker")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RERANKER_FIELD_NUMBER: _ClassVar[int]
    actor: str
    reason: str
    reranker: bool
    def __init__(self, actor: _Optional[str] = ..., reason: _Optional[str] = ..., reranker: _Optional[bool] = ...) -> None: ...

class ListReleasesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReleasesResponse(_message.Message):
    __slots__ = ("releases",)
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    releases: _containers.RepeatedCompositeFieldContainer[Release]
    def __init__(self, releases: _Optional[_Iterable[_Union[Release, _Mapping]]] = ...) -> None: ...

class PromoteReleaseRequest(_message.Message):
    __slots__ = ("release", "actor")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    release: str
    actor: str
    def __init__(self, release: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class RollbackReleaseRequest(_message.Message):
    __slots__ = ("release", "actor", "reason", "arm")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    release: str
    actor: str
    reason: str
    arm: str
    def __init__(self, release: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., arm: _Optional[str] = ...) -> None: ...

class Freeze(_message.Message):
    __slots__ = ("rows", "releases", "learning", "actor", "reason")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    LEARNING_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    rows: bool
    releases: bool
    learning: bool
    actor: str
    reason: str
    def __init__(self, rows: _Optional[bool] = ..., releases: _Optional[bool] = ..., learning: _Optional[bool] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Status(_message.Message):
    __slots__ = ("freeze", "champion", "previous", "watch_share", "slot", "epoch")
    FREEZE_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    WATCH_SHARE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    freeze: Freeze
    champion: str
    previous: str
    watch_share: float
    slot: str
    epoch: int
    def __init__(self, freeze: _Optional[_Union[Freeze, _Mapping]] = ..., champion: _Optional[str] = ..., previous: _Optional[str] = ..., watch_share: _Optional[float] = ..., slot: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class GetArmsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StartTrialRequest(_message.Message):
    __slots__ = ("challengers", "share", "sticky_us", "least_us", "most_us", "gain", "reward", "error", "actor")
    class RewardEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CHALLENGERS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    STICKY_US_FIELD_NUMBER: _ClassVar[int]
    LEAST_US_FIELD_NUMBER: _ClassVar[int]
    MOST_US_FIELD_NUMBER: _ClassVar[int]
    GAIN_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    challengers: _containers.RepeatedScalarFieldContainer[str]
    share: float
    sticky_us: int
    least_us: int
    most_us: int
    gain: float
    reward: _containers.ScalarMap[str, float]
    error: float
    actor: str
    def __init__(self, challengers: _Optional[_Iterable[str]] = ..., share: _Optional[float] = ..., sticky_us: _Optional[int] = ..., least_us: _Optional[int] = ..., most_us: _Optional[int] = ..., gain: _Optional[float] = ..., reward: _Optional[_Mapping[str, float]] = ..., error: _Optional[float] = ..., actor: _Optional[str] = ...) -> None: ...

class StopTrialRequest(_message.Message):
    __slots__ = ("actor", "reason")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    actor: str
    reason: str
    def __init__(self, actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PromoteArmRequest(_message.Message):
    __slots__ = ("arm", "actor", "reason")
    ARM_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    arm: str
    actor: str
    reason: str
    def __init__(self, arm: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Challenger(_message.Message):
    __slots__ = ("arm", "share", "state", "reason", "figures")
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ARM_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    arm: str
    share: float
    state: str
    reason: str
    figures: _containers.ScalarMap[str, float]
    def __init__(self, arm: _Optional[str] = ..., share: _Optional[float] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., figures: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Arms(_message.Message):
    __slots__ = ("incumbent", "arms", "trial", "started_us", "ended_us", "challengers")
    INCUMBENT_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    STARTED_US_FIELD_NUMBER: _ClassVar[int]
    ENDED_US_FIELD_NUMBER: _ClassVar[int]
    CHALLENGERS_FIELD_NUMBER: _ClassVar[int]
    incumbent: str
    arms: _containers.RepeatedScalarFieldContainer[str]
    trial: str
    started_us: int
    ended_us: int
    challengers: _containers.RepeatedCompositeFieldContainer[Challenger]
    def __init__(self, incumbent: _Optional[str] = ..., arms: _Optional[_Iterable[str]] = ..., trial: _Optional[str] = ..., started_us: _Optional[int] = ..., ended_us: _Optional[int] = ..., challengers: _Optional[_Iterable[_Union[Challenger, _Mapping]]] = ...) -> None: ...

class ForgetUserRequest(_message.Message):
    __slots__ = ("user_id", "before_us")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    BEFORE_US_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    before_us: int
    def __init__(self, user_id: _Optional[str] = ..., before_us: _Optional[int] = ...) -> None: ...

class ForgetUserResponse(_message.Message):
    __slots__ = ("partition", "offset")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    partition: int
    offset: int
    def __init__(self, partition: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class CatalogueItem(_message.Message):
    __slots__ = ("item_id", "title", "categories", "brand", "price", "stock", "published_us", "updated_us", "content", "description")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    BRAND_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    STOCK_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_US_FIELD_NUMBER: _ClassVar[int]
    UPDATED_US_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    title: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    brand: str
    price: float
    stock: int
    published_us: int
    updated_us: int
    content: _containers.RepeatedScalarFieldContainer[int]
    description: str
    def __init__(self, item_id: _Optional[str] = ..., title: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ..., brand: _Optional[str] = ..., price: _Optional[float] = ..., stock: _Optional[int] = ..., published_us: _Optional[int] = ..., updated_us: _Optional[int] = ..., content: _Optional[_Iterable[int]] = ..., description: _Optional[str] = ...) -> None: ...

class ItemFeatures(_message.Message):
    __slots__ = ("ids", "values", "pos", "time_us")
    IDS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    POS_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    pos: int
    time_us: int
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ..., pos: _Optional[int] = ..., time_us: _Optional[int] = ...) -> None: ...

class ItemRow(_message.Message):
    __slots__ = ("row", "epoch", "seq", "learned_up_to_us", "half", "int8", "scale")
    ROW_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    LEARNED_UP_TO_US_FIELD_NUMBER: _ClassVar[int]
    HALF_FIELD_NUMBER: _ClassVar[int]
    INT8_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    row: _containers.RepeatedScalarFieldContainer[float]
    epoch: int
    seq: int
    learned_up_to_us: int
    half: bytes
    int8: bytes
    scale: float
    def __init__(self, row: _Optional[_Iterable[float]] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., learned_up_to_us: _Optional[int] = ..., half: _Optional[bytes] = ..., int8: _Optional[bytes] = ..., scale: _Optional[float] = ...) -> None: ...

class ArmSplit(_message.Message):
    __slots__ = ("incumbent", "trial", "challengers", "sticky_us", "updated_us", "term")
    INCUMBENT_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    CHALLENGERS_FIELD_NUMBER: _ClassVar[int]
    STICKY_US_FIELD_NUMBER: _ClassVar[int]
    UPDATED_US_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    incumbent: str
    trial: str
    challengers: _containers.RepeatedCompositeFieldContainer[ArmShare]
    sticky_us: int
    updated_us: int
    term: int
    def __init__(self, incumbent: _Optional[str] = ..., trial: _Optional[str] = ..., challengers: _Optional[_Iterable[_Union[ArmShare, _Mapping]]] = ..., sticky_us: _Optional[int] = ..., updated_us: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class ArmShare(_message.Message):
    __slots__ = ("arm", "share")
    ARM_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    arm: str
    share: float
    def __init__(self, arm: _Optional[str] = ..., share: _Optional[float] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("champion", "previous", "watch_share", "slot", "epoch", "freeze", "updated_us", "previous_slot", "previous_epoch", "loaded", "arm", "term", "champion_at", "previous_at")
    CHAMPION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    WATCH_SHARE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FREEZE_FIELD_NUMBER: _ClassVar[int]
    UPDATED_US_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_SLOT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_EPOCH_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_AT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_AT_FIELD_NUMBER: _ClassVar[int]
    champion: str
    previous: str
    watch_share: float
    slot: str
    epoch: int
    freeze: Freeze
    updated_us: int
    previous_slot: str
    previous_epoch: int
    loaded: _containers.RepeatedScalarFieldContainer[str]
    arm: str
    term: int
    champion_at: _containers.RepeatedScalarFieldContainer[str]
    previous_at: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, champion: _Optional[str] = ..., previous: _Optional[str] = ..., watch_share: _Optional[float] = ..., slot: _Optional[str] = ..., epoch: _Optional[int] = ..., freeze: _Optional[_Union[Freeze, _Mapping]] = ..., updated_us: _Optional[int] = ..., previous_slot: _Optional[str] = ..., previous_epoch: _Optional[int] = ..., loaded: _Optional[_Iterable[str]] = ..., arm: _Optional[str] = ..., term: _Optional[int] = ..., champion_at: _Optional[_Iterable[str]] = ..., previous_at: _Optional[_Iterable[str]] = ...) -> None: ...

class TextRoute(_message.Message):
    __slots__ = ("encoder", "slot", "epoch", "updated_us", "term", "at", "before")
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    UPDATED_US_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    encoder: str
    slot: str
    epoch: int
    updated_us: int
    term: int
    at: _containers.RepeatedScalarFieldContainer[str]
    before: TextBefore
    def __init__(self, encoder: _Optional[str] = ..., slot: _Optional[str] = ..., epoch: _Optional[int] = ..., updated_us: _Optional[int] = ..., term: _Optional[int] = ..., at: _Optional[_Iterable[str]] = ..., before: _Optional[_Union[TextBefore, _Mapping]] = ...) -> None: ...

class TextBefore(_message.Message):
    __slots__ = ("encoder", "slot", "epoch", "at", "share")
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    encoder: str
    slot: str
    epoch: int
    at: _containers.RepeatedScalarFieldContainer[str]
    share: float
    def __init__(self, encoder: _Optional[str] = ..., slot: _Optional[str] = ..., epoch: _Optional[int] = ..., at: _Optional[_Iterable[str]] = ..., share: _Optional[float] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("promote", "rollback", "freeze", "start_trial", "stop_trial", "promote_arm", "rollback_encoder", "command_id")
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    FREEZE_FIELD_NUMBER: _ClassVar[int]
    START_TRIAL_FIELD_NUMBER: _ClassVar[int]
    STOP_TRIAL_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_ARM_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_ENCODER_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    promote: PromoteReleaseRequest
    rollback: RollbackReleaseRequest
    freeze: Freeze
    start_trial: StartTrialRequest
    stop_trial: StopTrialRequest
    promote_arm: PromoteArmRequest
    rollback_encoder: RollbackEncoderRequest
    command_id: str
    def __init__(self, promote: _Optional[_Union[PromoteReleaseRequest, _Mapping]] = ..., rollback: _Optional[_Union[RollbackReleaseRequest, _Mapping]] = ..., freeze: _Optional[_Union[Freeze, _Mapping]] = ..., start_trial: _Optional[_Union[StartTrialRequest, _Mapping]] = ..., stop_trial: _Optional[_Union[StopTrialRequest, _Mapping]] = ..., promote_arm: _Optional[_Union[PromoteArmRequest, _Mapping]] = ..., rollback_encoder: _Optional[_Union[RollbackEncoderRequest, _Mapping]] = ..., command_id: _Optional[str] = ...) -> None: ...
