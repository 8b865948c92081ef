"""Settings of the gateway; variables FRESHRANK_GATEWAY_<FIELD>."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import Authority, Certificate, Key, TritonSettings

VectorName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]
VectorSize = Annotated[int, Field(ge=2, le=4096)]


class GatewaySettings(TritonSettings):
    """Everything that can be set, with its unit and the reason for its default."""

    model_config = SettingsConfigDict(env_prefix="FRESHRANK_GATEWAY_", frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address the gRPC servers bind; the pod's own in a cluster")
    port: int = Field(50051, ge=0, le=65535, description="shop's port; 0 takes a free one")
    admin_port: int = Field(50052, ge=0, le=65535, description="operator's port; 0 takes a free one")
    workers: int = Field(1, ge=1, le=64, description="processes that answer; they share the item table and the port")
    triton: str = Field("127.0.0.1:8001", description="Triton's gRPC address; dns:///name:port spreads over replicas")
    clock: Literal["wall", "request"] = Field(
        "wall", description="request: replays bring their own time with each call"
    )
    table_dir: Path | None = Field(None, description="folder of the item table; None = <store>/table, fast local disk")
    token_keys: str = Field(
        "",
        description="<id>:<hex>,...: the first signs attribution tokens, all check; as the joiner's; required",
    )
    deadline_ms: int = Field(150, ge=5, le=10_000, description="answering time of calls that bring no deadline")
    write_deadline_ms: int = Field(5_000, ge=5, le=60_000, description="the same for calls that wait for Kafka")
    longest_deadline_ms: int = Field(2_000, ge=5, le=60_000, description="a longer deadline is not used up")
    concurrency: int = Field(64, ge=1, description="calls answered at once per worker; more are refused at once")
    user_rate: float = Field(0.0, ge=0, description="ranking calls per second and user; 0 = no limit")
    user_burst: float = Field(20.0, ge=1, description="calls a user may make at once")
    explore: float = Field(0.03, ge=0, le=0.5, description="share of Recommend's positions given to exploration")
    explore_by: Literal["uniform", "uncertain"] = Field(
        "uniform",
        description="which of the candidates left over is explored: any alike, or rather those whose click is least"
        " certain; half of the chance stays uniform",
    )
    explore_rank: float = Field(0.0, ge=0, le=0.5, description="share of Rank's answers in a uniformly drawn order")
    objective: dict[str, float] = Field(
        default_factory=dict, description="weight per head, JSON; replaces the releases' own; empty = theirs"
    )
    boost_new: float = Field(1.0, gt=0, le=10, description="factor on scores of new items in Recommend; 1 = none")
    boost_new_days: float = Field(7.0, ge=0, description="days after publishing that an item is new")
    boost_categories: dict[str, float] = Field(
        default_factory=dict, description='factor per main category in Recommend, JSON such as {"hats": 1.2}'
    )
    candidates: int = Field(128, ge=10, le=1024, description="most candidates scored for Recommend")
    similar_text: float = Field(
        0.3, ge=0, le=1, description="part of Similar's nearness that texts decide, where there is an encoder"
    )
    item_vectors: dict[VectorName, VectorSize] = Field(
        default_factory=dict,
        description="vectors that the shop gives of its items, by name, and how many numbers each has, JSON such as"
        ' {"image": 512}; those made in another way need another name',
    )
    similar_vectors: float = Field(
        0.3,
        ge=0,
        le=1,
        description="part of Similar's nearness that vectors of the shop decide, in equal parts by name",
    )
    category_cap: int = Field(3, ge=0, description="results of one category among six in a row; 0 = no limit")
    search_candidates: int = Field(200, ge=10, le=1000, description="most items ranked for Search")
    search_relevance: float = Field(
        0.5, ge=0, le=1, description="part of Search's order that the match decides; the model decides the rest"
    )
    search_similarity: float = Field(
        0.3,
        ge=-1,
        le=1,
        description="cosine of the text vectors of query and item from which Search finds an item without the words",
    )
    search_rerank: int = Field(
        0, ge=0, le=64, description="first items of a search that a reranker, where there is one, reads together with"
        " the query; each takes Triton some milliseconds; 0 = none"
    )  # fmt: skip
    search_rerank_share: float = Field(0.5, ge=0, le=1, description="part of their order that the reranker decides")
    search_language: str = Field(
        "english", description="of the words' stems, as Tantivy names it, such as german; empty = words as they stand"
    )
    query_languages: str = Field(
        "",
        description="ISO 639-1 codes of the languages that shoppers search in, comma-separated, such as en,de,fr:"
        " answers of Search tell the query's, where it is sure, for 80 MB a worker; empty = none is told",
    )
    search_rewrite: str = Field(
        "", description="package.module:function of the shop's own, query -> query, before its words are looked for"
    )
    synonyms: Path | None = Field(None, description="file: words or phrases that mean the same, a group per line")
    gather_ms: int = Field(
        20, ge=0, le=1000, description="ms impressions wait for others to go to the log with; a crash loses so many"
    )
    unshown: int = Field(8, ge=0, le=64, description="candidates not shown, logged per impression of Recommend")
    plan_seconds: float = Field(10.0, gt=0, description="how often the feature repository's registry is read")
    picture_seconds: float = Field(1.0, gt=0, description="how often candidates' vectors and popularity are renewed")
    table_lag_seconds: float = Field(30.0, gt=0, description="a table whose writer is silent for longer is stale")
    recent_answers: int = Field(500, ge=0, description="answers kept for Explain, about 70 KB each")
    leave_seconds: float = Field(
        0.5, ge=0, le=60, description="after SIGTERM, s in which health says NOT_SERVING and calls are still taken"
    )
    drain_seconds: float = Field(
        10.0, ge=0, description="then, s at most for calls in flight; not below the longest deadline"
    )
    connection_age_seconds: float = Field(
        300.0, ge=1, description="s after which a client connects anew, so that pods that came later get traffic"
    )
    connection_age_grace_seconds: float = Field(
        20.0, ge=0, description="s for calls that are on a connection of that age; not below the longest deadline"
    )
    reflection: bool = Field(True, description="lets grpcurl list the services")
    tls_cert: Certificate = Field(None, description="PEM certificate chain; None = plain text")
    tls_key: Key = Field(None, validate_default=True, description="PEM private key of tls_cert")
    tls_client_ca: Authority = Field(None, description="PEM; when set, clients must present a certificate (mTLS)")
    admin_token: str = Field("", description="bearer token of the admin port; empty = none is asked for")
