"""Settings every service has, and how they are read: from the environment, once, in `__main__`.

`FRESHRANK_<SERVICE>_<FIELD>` sets one service, `FRESHRANK_<FIELD>` all of them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from services.common import tls
from services.common.broker import Broker
from services.common.errors import InvalidInput
from services.common.tls import Tls

SHARED_PREFIX = "FRESHRANK_"

_HOST_PORT = r"(\[[0-9a-fA-F:]+\]|[^\s:,/\[\]]+):\d{1,5}"


def _given(value: object) -> object:
    return None if value == "" else value  # a chart leaves a variable empty where there is no file


def _of_pair(key: Path | None, info: ValidationInfo) -> Path | None:
    """Key and certificate are one: what is wrong with the pair is told of the key."""
    name = str(info.field_name).removesuffix("key") + "cert"
    tls.check_pair(name, info.data.get(name), key)
    return key


def _of_user(file: Path | None, info: ValidationInfo) -> Path | None:
    if bool(info.data.get("kafka_username")) != (file is not None):
        raise ValueError("kafka_username and kafka_password_file are needed together")
    if file is not None and not tls.read(file).strip():
        raise ValueError(f"{file} is empty")
    return file


def _needs_authority(name: str, file: Path | None, info: ValidationInfo) -> Path | None:
    if file and not info.data.get(name):
        raise ValueError(f"it secures nothing without {name}")
    return file


Authority = Annotated[Path | None, BeforeValidator(_given), AfterValidator(tls.check_authority)]
Certificate = Annotated[Path | None, BeforeValidator(_given), AfterValidator(tls.check_file)]
Key = Annotated[Path | None, BeforeValidator(_given), AfterValidator(_of_pair)]
"""Its default is validated too, so that a certificate without a key is noticed."""
Password = Annotated[Path | None, BeforeValidator(_given), AfterValidator(_of_user)]


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
    kafka_ca: Authority = Field(None, description="PEM of the authority behind the brokers; switches TLS on")
    kafka_cert: Certificate = Field(None, description="PEM of the own certificate and its chain, for mTLS to Kafka")
    kafka_key: Key = Field(None, validate_default=True, description="PEM of its private key")
    kafka_username: str = Field("", description="user of SCRAM-SHA-512; empty = none is asked for")
    kafka_password_file: Password = Field(None, validate_default=True, description="file with that user's password")
    redis_ca: Authority = Field(
        None, description="PEM of the authority behind Redis, with a rediss:// url; none = the system's"
    )
    redis_cert: Certificate = Field(None, description="PEM of the own certificate and its chain, for mTLS to Redis")
    redis_key: Key = Field(None, validate_default=True, description="PEM of its private key")
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

    @property
    def kafka(self) -> Broker:
        """The brokers, with what they ask for."""
        files = Tls(self.kafka_ca, self.kafka_cert, self.kafka_key) if self.kafka_ca else None
        return Broker(self.bootstrap, files, self.kafka_username, self.kafka_password_file)

    @property
    def redis_tls(self) -> Tls | None:
        """For a rediss:// url; None in plain text."""
        secure = self.redis_url.startswith("rediss://")
        return Tls(self.redis_ca, self.redis_cert, self.redis_key) if secure else None

    @field_validator("redis_ca", "redis_cert")
    @classmethod
    def _redis_is_secure(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file and not str(info.data.get("redis_url", "rediss://")).startswith("rediss://"):
            raise ValueError("redis_url must begin with rediss:// for it")
        return file

    @field_validator("kafka_cert")
    @classmethod
    def _kafka_is_secure(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        return _needs_authority("kafka_ca", file, info)


class TritonSettings(ServiceSettings):
    """Of the services that call Triton."""

    triton_ca: Authority = Field(None, description="PEM of the authority behind Triton; switches TLS on")
    triton_cert: Certificate = Field(None, description="PEM of the own certificate and its chain, for mTLS to Triton")
    triton_key: Key = Field(None, validate_default=True, description="PEM of its private key")

    @property
    def triton_tls(self) -> Tls | None:
        """None in plain text."""
        return Tls(self.triton_ca, self.triton_cert, self.triton_key) if self.triton_ca else None

    @field_validator("triton_cert")
    @classmethod
    def _triton_is_secure(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        return _needs_authority("triton_ca", file, info)


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
