"""Settings every service has, and how they are read: from the environment, once, in `__main__`.

`FRESHRANK_<SERVICE>_<FIELD>` sets one service, `FRESHRANK_<FIELD>` all of them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from services.common.errors import InvalidInput

SHARED_PREFIX = "FRESHRANK_"


class ServiceSettings(BaseSettings):
    """Where the outside parts are. A service extends this class with its own fields and prefix."""

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

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the service's own variables, then the shared ones."""
        shared = EnvSettingsSource(settings_cls, env_prefix=SHARED_PREFIX)
        return named["init_settings"], named["env_settings"], shared


AnySettings = TypeVar("AnySettings", bound=ServiceSettings)


def load_settings(cls: type[AnySettings], environment: Mapping[str, str] | None = None) -> AnySettings:
    """Read a service's settings. Raises InvalidInput naming the variable that is wrong or not known."""
    prefix = str(cls.model_config.get("env_prefix", ""))
    known = {f"{prefix}{name}".upper() for name in cls.model_fields}
    for name in environment if environment is not None else os.environ:
        if name.upper().startswith(prefix.upper()) and name.upper() not in known:
            raise InvalidInput(name, "unknown_setting", f"no such setting; known: {', '.join(sorted(known))}")
    try:
        return cls()
    except ValidationError as error:
        first: Any = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "settings"
        raise InvalidInput(f"{prefix}{field}".upper(), "bad_setting", first["msg"]) from error
