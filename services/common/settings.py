"""Settings every service has, and how they are read: from the environment, once, in `__main__`.

`FRESHRANK_<SERVICE>_<FIELD>` sets one service, `FRESHRANK_<FIELD>` all of them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from services.common.errors import InvalidInput

SHARED_PREFIX = "FRESHRANK_"

_HOST_PORT = r"(\[[0-9a-fA-F:]+\]|[^\s:,/\[\]]+):\d{1,5}"


class ServiceSettings(BaseSettings):
    """Where the outside parts are. A service extends this class with its own fields and prefix."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    bootstrap: str = Field(
        "127.0.0.1:9092",
        pattern=f"^{_HOST_PORT}(,{_HOST_PORT})*$",
        description="Kafka bootstrap servers, host:port, comma-separated",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379", pattern="^rediss?://", description="Redis of the Feast online store"
    )
    store: Path = Field(Path("store"), description="model store: snapshots, checkpoints, releases, archive")
    feature_repo: Path = Field(Path("feature_repo"), description="folder with feature_store.yaml")
    http_port: int = Field(0, ge=0, le=65535, description="probes and metrics; 0 takes a free port")
    http_host: str = Field(
        "127.0.0.1", min_length=1, description="address the probe server binds; the pod's own in a cluster"
    )
    partitions: int = Field(4, ge=1, le=1024, description="partitions of each keyed topic")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="least level logged")
    otlp_endpoint: str = Field(
        "", pattern=f"^({_HOST_PORT})?$", description="OpenTelemetry collector, host:port; empty = traces are off"
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the service's own variables, then the shared ones."""
        shared = EnvSettingsSource(settings_cls, env_prefix=SHARED_PREFIX)
        return named["init_settings"], named["env_settings"], shared


AnySettings = TypeVar("AnySettings", bound=ServiceSettings)


class _Variables(EnvSettingsSource):
    """Reads a mapping instead of the process's environment."""

    def __init__(self, cls: type[BaseSettings], prefix: str, variables: Mapping[str, str]) -> None:
        self._variables = {name.lower(): value for name, value in variables.items()}
        super().__init__(cls, env_prefix=prefix)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return dict(self._variables)


def load_settings(
    cls: type[AnySettings], environment: Mapping[str, str] | None = None, given: Mapping[str, Any] | None = None
) -> AnySettings:
    """Read a service's settings: what is `given` by field name, then `environment`, then the process's environment.

    Only the names of `environment` are checked, of the process's own when there is none.
    Raises InvalidInput naming the variable that is wrong or not known.
    """
    prefix, variables = str(cls.model_config.get("env_prefix", "")), environment or {}
    checked = os.environ if environment is None else environment
    known = {f"{prefix}{name}".upper() for name in cls.model_fields}
    for name in checked:
        if name.upper().startswith(prefix.upper()) and name.upper() not in known:
            raise InvalidInput(name, "unknown_setting", f"no such setting; known: {', '.join(sorted(known))}")
    try:
        values = _Variables(cls, SHARED_PREFIX, variables)() | _Variables(cls, prefix, variables)()
        return cls(**(values | dict(given or {})))
    except ValidationError as error:
        first: Any = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "settings"
        said = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidInput(_variable(prefix, field, checked), "bad_setting", said) from error
    except SettingsError as error:  # of a list or table that is not JSON
        field = str(error).split('"')[1] if '"' in str(error) else "settings"
        raise InvalidInput(_variable(prefix, field, checked), "bad_setting", "must be JSON") from error


def _variable(prefix: str, field: str, checked: Mapping[str, str]) -> str:
    """The variable that a field came from: the service's own, or the shared one when only that is set."""
    own, shared = f"{prefix}{field}".upper(), f"{SHARED_PREFIX}{field}".upper()
    names = {name.upper() for name in checked}
    return shared if shared in names and own not in names else own
