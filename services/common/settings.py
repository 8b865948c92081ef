"""Settings every service has; each service extends this class with its own prefix."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """Where the outside parts are. Variables: FRESHRANK_<SERVICE>_<FIELD>, or FRESHRANK_<FIELD> for all services."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    bootstrap: str = Field("127.0.0.1:9092", description="Kafka bootstrap servers, host:port, comma-separated")
    redis_url: str = Field("redis://127.0.0.1:6379", description="Redis of the Feast online store")
    store: Path = Field(Path("store"), description="model store: snapshots, checkpoints, releases, archive")
    feature_repo: Path = Field(Path("feature_repo"), description="folder with feature_store.yaml")
    http_port: int = Field(0, ge=0, le=65535, description="probes and metrics; 0 takes a free port")
    http_host: str = Field("127.0.0.1", description="address the probe server binds; the pod's own in a cluster")
    partitions: int = Field(4, ge=1, le=1024, description="partitions of each keyed topic")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="least level logged")
    otlp_endpoint: str = Field("", description="OpenTelemetry collector, host:port; empty = traces are off")
