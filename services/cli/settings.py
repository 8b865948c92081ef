"""Where the command finds the parts: options first, then the folder of a running demo, then the environment.

The prefix is FRESHRANK_CLI_, because a service refuses variables with its own prefix that it does not know.
"""

from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.errors import InvalidInput
from services.common.settings import ServiceSettings, load_settings

SERVICES = ("ingest", "features", "joiner", "trainer", "publisher", "gateway")
"""In the order of the data."""

_URLS = r"^(https?://[^,\s]+(\s*,\s*https?://[^,\s]+)*)?$"


class CliSettings(ServiceSettings):
    """Addresses and credentials. Variables: FRESHRANK_CLI_<FIELD>, or FRESHRANK_<FIELD> as for the services."""

    model_config = SettingsConfigDict(env_prefix="FRESHRANK_CLI_", frozen=True, extra="forbid")

    gateway: str = Field("127.0.0.1:50051", description="ranking API, host:port or dns:///name:port")
    admin: str = Field("127.0.0.1:50052", description="admin API, host:port")
    namespace: str = Field(
        "", description="Kubernetes namespace; when given, admin is reached with the kubeconfig's credentials alone"
    )
    context: str = Field("", description="context of the kubeconfig; empty = the current one")
    service: str = Field("freshrank-gateway", description="the gateway's Service in that namespace")
    tls: bool = Field(False, description="speak TLS and trust the system's authorities; tls_ca implies it")
    tls_ca: Path | None = Field(None, description="PEM; authority that signed the gateway's certificate")
    tls_cert: Path | None = Field(None, description="PEM; own certificate, where the gateway asks for one")
    tls_key: Path | None = Field(None, description="PEM; private key of tls_cert")
    admin_token: str = Field("", description="bearer token of the admin API")
    token_keys: str = Field("", description="as the gateway's; import signs attribution tokens with the first")
    folder: Path | None = Field(None, description="folder of a running demo")
    ingest_url: str = Field(
        "", pattern=_URLS, description="probe server of ingest, http://host:port; several with commas"
    )
    features_url: str = Field("", pattern=_URLS, description="the same of features")
    joiner_url: str = Field("", pattern=_URLS, description="the same of joiner")
    trainer_url: str = Field("", pattern=_URLS, description="the same of trainer")
    publisher_url: str = Field("", pattern=_URLS, description="the same of publisher")
    gateway_url: str = Field("", pattern=_URLS, description="the same of gateway")

    def urls(self) -> dict[str, list[str]]:
        """Probe servers of each service that has any."""
        named = {service: str(getattr(self, f"{service}_url")) for service in SERVICES}
        return {service: [part.strip() for part in text.split(",")] for service, text in named.items() if text}


def load(folder: Path | None = None, **options: Any) -> CliSettings:
    """Settings of one command; options that are None were not given. Raises InvalidInput naming the option."""
    given: dict[str, Any] = {}
    if folder is not None:
        from services.demo.runfile import read_runfile

        given = {**read_runfile(folder), "folder": folder}
    named = {name: value for name, value in options.items() if value is not None}
    try:
        return load_settings(CliSettings, given=given | named)
    except InvalidInput as error:
        field = error.field.removeprefix("FRESHRANK_CLI_").lower()
        if field in named:
            raise InvalidInput(f"--{field.replace('_', '-')}", error.reason, error.detail) from error
        raise
