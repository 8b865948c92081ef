"""Settings of the publisher: FRESHRANK_PUBLISHER_<FIELD>, read once in `__main__`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import TritonSettings
from services.publisher.canary import WatchBounds
from services.publisher.compression.attempt import Compression
from services.publisher.compression.judge import CompressionBounds
from services.publisher.compression.plan import parse
from services.publisher.encoders.watch import SearchBounds
from services.publisher.gate import GateBounds
from services.publisher.judgments import RelevanceBounds
from services.publisher.outside import ReleasePolicy
from services.publisher.rows import RowBounds


def _a_plan(text: str) -> str:
    parse(text)
    return text


class PublisherSettings(TritonSettings):
    """Every field with its unit and the reason for its default."""

    model_config = SettingsConfigDict(env_prefix="FRESHRANK_PUBLISHER_", frozen=True, extra="forbid")

    arm: str = Field(
        "main", pattern=r"^[a-z0-9][a-z0-9-]{0,30}$", description="arm of the model store that is published"
    )
    slots: str = Field(
        "ab",
        pattern=r"^[a-z]{2}$",
        description="the two row slots of this arm, as feature_repo/rows.py has them; each arm has two of its own",
    )
    project: str = Field("freshrank", description="Feast project whose views hold the rows; as in feature_store.yaml")
    triton: str = Field(
        "127.0.0.1:8001",
        description="every Triton gRPC endpoint, host:port, comma-separated; or kubernetes:<namespace>/<service>:<port>"
        " to find them by EndpointSlices",
    )
    backend: Literal["python", "onnxruntime"] = Field(
        "python", description="Triton backend of a release: the pip server has python, a cluster's onnxruntime"
    )
    instance_kind: Literal["KIND_CPU", "KIND_GPU"] = Field(
        "KIND_CPU", description="where Triton runs a release; KIND_GPU needs a GPU in each of its pods"
    )
    leadership: Literal["file", "lease"] = Field(
        "file", description="how two publishers agree: a lock in the store on one machine, a Lease in a cluster"
    )
    namespace: str = Field("default", description="Kubernetes namespace of the Lease")
    lease: str = Field("", description="name of the Lease; empty = freshrank-publisher-<arm>")
    identity: str = Field("", description="name of this pod in the Lease; empty = the host's name")
    lease_s: float = Field(
        15.0,
        ge=1,
        le=300,
        description="s after the last renewal until another may lead; the holder acts for two thirds",
    )
    approval: Literal["auto", "manual"] = Field(
        "auto", description="auto: what passes is routed; manual: it is held for a person"
    )
    keep: int = Field(
        5, ge=2, le=100, description="releases on disk that can be gone back to, the serving ones included"
    )
    watch_share: float = Field(
        0.02, ge=0, le=0.5, description="share of shoppers who stay on the previous release, by hash of their id"
    )
    drain_s: float = Field(
        10.0, ge=0, le=600, description="s from routing away to unloading: a route's way and the longest request"
    )
    rows_wait_s: float = Field(10.0, ge=0, le=600, description="s that a candidate waits for its rows to be pushed")
    rows_every_s: float = Field(0.2, gt=0, le=2, description="s between two looks for row deltas; at most 2 by design")
    golden_every_s: float = Field(
        2.0, gt=0, le=60, description="s between golden requests: a dead model process shows in nothing else"
    )
    row_dim: int = Field(16, ge=1, le=256, description="values of an embedding row; as the trainer's")
    row_codec: Literal["float32", "half", "int8"] = Field(
        "float32",
        description="how rows of items go to their topic: half takes half the bytes, int8 a quarter and a scale; the"
        " row gate judges them as gateways will read them",
    )
    row_norm: float = Field(16.0, gt=0, description="longest row; the trainer clips at 8")
    row_change: float = Field(8.0, gt=0, description="longest change of a row in one delta")
    row_share: float = Field(
        0.5, gt=0, le=1, description="share of the known rows that one delta may change, from 50,000 rows on"
    )
    row_loss_ratio: float = Field(
        2.0,
        gt=0,
        description="rise of the champion's log-loss on newest examples over its baseline that stops pushes, as a share"
        " of it; clicks come after their impressions and sales bring more of them, so traffic alone moves it",
    )
    probe_candidates: int = Field(
        4_000,
        ge=0,
        le=200_000,
        description="labelled candidates that each delta is tried on before it is pushed; 0 = none",
    )
    replay_impressions: int = Field(5_000, ge=10, description="labelled impressions kept for the gate")
    replay_candidates: int = Field(
        150_000,
        ge=1_000,
        description="candidates they have at most, unless fewer than `least_impressions` would stay: memory and the"
        " gate's time go by these",
    )
    ripe_s: float = Field(
        60.0,
        ge=0,
        description="s after which an impression's clicks count although its window is open; 0 = wait for"
        " the end of the window",
    )
    examples_back: int = Field(
        2_000, ge=0, description="messages of each partition of examples read again at start, to have impressions"
    )
    least_impressions: int = Field(300, ge=1, description="impressions behind any figure that a release is judged by")
    auc_loss: float = Field(0.005, gt=0, lt=1, description="area under the curve that a release may lose")
    log_loss_rise: float = Field(0.01, gt=0, lt=1, description="relative rise of log-loss that a release may bring")
    stability: float = Field(
        0.2, gt=0, description="population stability index of a release's scores against the champion's that may be"
    )
    offpolicy: Literal["figures", "gate"] = Field(
        "figures",
        description="clicks that release and champion would have earned where answers were left to chance: figures of"
        " the audit record, or also a check that the release is not surely worse",
    )
    relevance_ndcg: float = Field(
        0.01, ge=0, lt=1, description="NDCG@10 on judged queries, as far as they were searched for, that a release may"
        " lose against the champion, less a standard error"
    )  # fmt: skip
    relevance_queries: int = Field(30, ge=2, description="such queries below which a release is not judged by them")
    latency_ms: float = Field(25.0, gt=0, description="ms of a golden batch in onnxruntime that are always allowed")
    rows_age_s: float = Field(120.0, gt=0, description="s that the pushed rows may lag behind a release's weights")
    compression: Annotated[str, AfterValidator(_a_plan)] = Field(
        "",
        description="how a release that has passed is made smaller before it is served, such as drop_units(0.25),"
        " int8_static: of prune(share), drop_units(share), low_rank(energy), and last fp16, int8_dynamic or"
        " int8_static; empty = not at all",
    )
    compression_size: float = Field(
        0.9, gt=0, description="bytes of a compressed model over the original's, at most; one that saves nothing is not"
        " worth any loss"
    )  # fmt: skip
    compression_latency: float = Field(
        1.2, gt=0, description="time of a golden batch over the original's, at most; above 1 for a busy machine's noise"
    )
    compression_auc: float = Field(
        0.001, ge=0, lt=1, description="area under the curve that compression may lose on the replayed impressions"
    )
    compression_log_loss: float = Field(
        0.002, ge=0, lt=1, description="relative rise of log-loss that compression may bring on them"
    )
    compression_error: float = Field(
        0.05, gt=0, lt=1, description="largest difference of a golden score from the original's"
    )
    text_ndcg: float = Field(
        0.01, ge=0, lt=1, description="NDCG@10 on searches that were clicked, and on judged queries, that a text"
        " encoder may lose against the one that serves, less a standard error"
    )  # fmt: skip
    text_queries: int = Field(30, ge=2, description="queries below which a text encoder is not judged by them")
    text_watch_share: float = Field(
        0.1, ge=0, le=0.5, description="share of shoppers who keep the text encoder before, by hash of their id, while"
        " the next one is watched; 0 = no watch"
    )  # fmt: skip
    text_watch_s: float = Field(
        3_600.0, ge=0, le=2_592_000, description="s that a text encoder is watched for; candidates wait meanwhile"
    )
    text_rows: bool = Field(
        True,
        description="items that the trainer has seen seldom or never are served rows made from their texts, while"
        " judged useful; needs a text encoder",
    )
    text_rows_every_s: float = Field(
        300.0, ge=1, description="s between two fits of rows to texts: a second of one core with 20,000 items"
    )
    text_rows_weight: float = Field(
        20.0, gt=0, le=1_000, description="times seen at which an item's own row and that of its text weigh the same"
    )
    text_rows_until: int = Field(
        100, ge=1, le=255, description="times seen from which an item's own row is served as it is"
    )
    fold_deltas: int = Field(100, ge=1, description="row deltas from which they are folded into one base file")

    def row_bounds(self) -> RowBounds:
        """What a row delta may do."""
        return RowBounds(
            norm=self.row_norm, change=self.row_change, share=self.row_share, loss_ratio=self.row_loss_ratio
        )

    def gate_bounds(self) -> GateBounds:
        """What a release may do."""
        return GateBounds(
            learner_impressions=self.least_impressions,
            replayed_impressions=self.least_impressions,
            auc=self.auc_loss,
            log_loss=self.log_loss_rise,
            file_log_loss=self.log_loss_rise,
            latency_ms=self.latency_ms,
            rows_age_s=self.rows_age_s,
            stability=self.stability,
            offpolicy=self.offpolicy == "gate",
            relevance=RelevanceBounds(self.relevance_ndcg, self.relevance_queries),
        )

    def compression_asked(self) -> Compression:
        """How a release is made smaller, and what that may cost."""
        bounds = CompressionBounds(
            self.compression_size, self.compression_latency, self.compression_auc, self.compression_log_loss,
            self.compression_error, self.least_impressions,
        )  # fmt: skip
        return Compression(parse(self.compression), bounds)

    def watch_bounds(self) -> WatchBounds:
        """When a champion is taken back."""
        return WatchBounds()

    def search_bounds(self) -> SearchBounds:
        """When an encoder is taken back."""
        return SearchBounds(self.text_watch_share, int(self.text_watch_s * 1e6))

    def policy(self) -> ReleasePolicy:
        """How releases move."""
        return ReleasePolicy(self.approval, self.keep, self.watch_share, self.drain_s, self.rows_wait_s)
