"""Options that several commands share, and where a command with them finds the parts."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]
Actor = Annotated[
    str, typer.Option(help="Who asks, for the audit record; the account when left out.", show_default=False)
]
Reason = Annotated[str, typer.Option(help="Why, for the audit record.", show_default=False)]


def who(actor: str) -> str:
    """Who asks: as said, else the account the command runs under."""
    if actor:
        return actor
    from getpass import getuser

    try:
        return getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "freshrank"


_SHARED: dict[str, tuple[str, type[Any], str]] = {
    "gateway": ("--gateway", str, "Ranking API, host:port."),
    "admin": ("--admin", str, "Admin API, host:port."),
    "namespace": ("--namespace", str, "Reach the admin API in this Kubernetes namespace, by the kubeconfig alone."),
    "context": ("--context", str, "Context of the kubeconfig; the current one when left out."),
    "service": ("--service", str, "The gateway's Service in that namespace."),
    "tls_ca": ("--tls-ca", Path, "PEM of the authority behind the gateway's certificate; speaks TLS."),
    "tls_cert": ("--tls-cert", Path, "PEM of the own certificate, for mTLS."),
    "tls_key": ("--tls-key", Path, "PEM of its private key."),
    "admin_token": ("--token", str, "Bearer token of the admin API; the variable keeps it out of process lists."),
    "bootstrap": ("--bootstrap", str, "Kafka, host:port."),
    "kafka_ca": ("--kafka-ca", Path, "PEM of the authority behind Kafka; speaks TLS."),
    "kafka_cert": ("--kafka-cert", Path, "PEM of the own certificate, for mTLS to Kafka."),
    "kafka_key": ("--kafka-key", Path, "PEM of its private key."),
    "feature_repo": ("--repo", Path, "Folder of the feature repository."),
    "store": ("--store", Path, "Model store of the services."),
    "redis_url": ("--redis", str, "Redis of the online store, redis://host:port."),
    "ingest_url": ("--ingest-url", str, "Probe server of ingest, http://host:port."),
    "features_url": ("--features-url", str, "The same of features."),
    "joiner_url": ("--joiner-url", str, "The same of joiner."),
    "trainer_url": ("--trainer-url", str, "The same of trainer."),
    "publisher_url": ("--publisher-url", str, "The same of publisher."),
    "gateway_url": ("--gateway-url", str, "The same of gateway."),
}
"""Field of the settings -> option, type, help."""

TLS = ("tls_ca", "tls_cert", "tls_key")
ADMIN = ("admin", "namespace", "context", "service", *TLS, "admin_token")
GATEWAY = ("gateway", *TLS)
KAFKA = ("bootstrap", "kafka_ca", "kafka_cert", "kafka_key")
PROBES = tuple(name for name in _SHARED if name.endswith("_url"))


def connected(*fields: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command options for these fields of the settings, and `--folder`; it is called with the settings first.

    An option goes before the folder of a demo, and that before the environment.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def called(**values: Any) -> None:
            from services.cli.settings import load

            given = {field: values.pop(field) for field in fields}
            command(load(values.pop("folder"), **given), **values)

        own = list(inspect.signature(command).parameters.values())[1:]
        shared = [_parameter(field, *_SHARED[field]) for field in fields]
        folder = "Folder of a running demo, for the addresses of its parts."
        shared.append(_keyword("folder", Path, typer.Option("--folder", help=folder, show_default=False)))
        keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        called.__signature__ = inspect.Signature([*keywords, *shared])  # type: ignore[attr-defined]
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        called.__annotations__ = {}
        return called

    return decorate


def _parameter(field: str, option: str, kind: type[Any], text: str) -> inspect.Parameter:
    variable = f"FRESHRANK_CLI_{field.upper()}"
    return _keyword(field, kind, typer.Option(option, help=f"{text} [{variable}]", show_default=False))


def _keyword(name: str, kind: type[Any], option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )
