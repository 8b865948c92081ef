"""The command's ends of the two APIs: what fails there becomes one of our errors, naming the option to look at."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import grpc
from freshrank import errors as api
from freshrank.client import Client
from freshrank.v1 import models_pb2 as pb
from freshrank.v1 import models_pb2_grpc
from freshrank.v1.events_pb2 import Event
from freshrank.v1.ranking_pb2 import ExplainResponse, Item

from services.cli.settings import CliSettings
from services.common.errors import Conflict, FreshrankError, InvalidInput, NotFound, TemporaryError

ANSWER_S = 15.0
"""Deadline of a call to the admin API: the gateway waits up to 10 s for a command to show."""


class Operator:
    """freshrank.v1.Admin, for one command."""

    def __init__(self, settings: CliSettings, answer_s: float = ANSWER_S) -> None:
        self._address, self._answer_s = settings.admin, answer_s
        secure = credentials(settings)
        # Over a port-forward the address is a local one, and the certificate the service's.
        name = f"{settings.service}.{settings.namespace}.svc"
        options = [("grpc.ssl_target_name_override", name)] if settings.namespace else []
        self._channel = (
            grpc.insecure_channel(self._address)
            if secure is None
            else grpc.secure_channel(self._address, secure, options)
        )
        self._stub: Any = models_pb2_grpc.AdminStub(self._channel)  # type: ignore[no-untyped-call]
        self._metadata = [("authorization", f"Bearer {settings.admin_token}")] if settings.admin_token else []

    def releases(self) -> list[pb.Release]:
        """All that are kept, newest first."""
        return list(self._call(self._stub.ListReleases, pb.ListReleasesRequest()).releases)

    def release(self, name: str, option: str = "RELEASE") -> pb.Release:
        """One of them. Raises NotFound."""
        for release in self.releases():
            if release.release == name:
                return release
        raise NotFound(f"{option}: there is no release {name!r}")

    def promote(self, release: str, actor: str) -> pb.Release:
        """Serve a release; answers how it stands."""
        answer: pb.Release = self._call(
            self._stub.PromoteRelease, pb.PromoteReleaseRequest(release=release, actor=actor)
        )
        return answer

    def rollback(self, release: str, actor: str, reason: str, arm: str = "") -> pb.Release:
        """Serve an earlier release; answers how it stands."""
        request = pb.RollbackReleaseRequest(release=release, actor=actor, reason=reason, arm=arm)
        answer: pb.Release = self._call(self._stub.RollbackRelease, request)
        return answer

    def freeze(self, wanted: pb.Freeze) -> pb.Freeze:
        """Set the switch; answers what holds."""
        answer: pb.Freeze = self._call(self._stub.SetFreeze, wanted)
        return answer

    def status(self) -> pb.Status:
        """What is served."""
        answer: pb.Status = self._call(self._stub.GetStatus, pb.GetStatusRequest())
        return answer

    def arms(self) -> pb.Arms:
        """The arms, and the trial between them."""
        answer: pb.Arms = self._call(self._stub.GetArms, pb.GetArmsRequest())
        return answer

    def start_trial(self, request: pb.StartTrialRequest) -> pb.Arms:
        """Compare arms; answers how they stand."""
        answer: pb.Arms = self._call(self._stub.StartTrial, request)
        return answer

    def stop_trial(self, actor: str, reason: str) -> pb.Arms:
        """End the trial; answers how the arms stand."""
        answer: pb.Arms = self._call(self._stub.StopTrial, pb.StopTrialRequest(actor=actor, reason=reason))
        return answer

    def promote_arm(self, arm: str, actor: str, reason: str) -> pb.Arms:
        """Make an arm the incumbent; answers how the arms stand."""
        request = pb.PromoteArmRequest(arm=arm, actor=actor, reason=reason)
        answer: pb.Arms = self._call(self._stub.PromoteArm, request)
        return answer

    def encoders(self) -> list[pb.Encoder]:
        """Text encoders and rerankers that were decided on, newest decision first."""
        return list(self._call(self._stub.ListEncoders, pb.ListEncodersRequest()).encoders)

    def rollback_encoder(self, actor: str, reason: str, reranker: bool = False) -> list[pb.Encoder]:
        """Search by the encoder, or reranker, before; answers how all of them stand."""
        request = pb.RollbackEncoderRequest(actor=actor, reason=reason, reranker=reranker)
        return list(self._call(self._stub.RollbackEncoder, request).encoders)

    def forget(self, user: str, before_us: int) -> pb.ForgetUserResponse:
        """Put the wish on the log; answers where it lies."""
        request = pb.ForgetUserRequest(user_id=user, before_us=before_us)
        answer: pb.ForgetUserResponse = self._call(self._stub.ForgetUser, request)
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        with translated(f"the admin API at {self._address} (--admin)"):
            try:
                return method(request, timeout=self._answer_s, metadata=self._metadata)
            except grpc.RpcError as error:
                raise api.of(error) from error


@contextmanager
def operator(settings: CliSettings) -> Iterator[Operator]:
    """The admin API, closed at the end; of a cluster when a namespace is given."""
    with reached(settings) as here:
        found = Operator(here)
        try:
            yield found
        finally:
            found.close()


def reached(settings: CliSettings) -> AbstractContextManager[CliSettings]:
    """The settings as they hold from here."""
    if not settings.namespace:
        return nullcontext(settings)
    from services.cli.kubernetes import forwarded  # the client takes 60 MB: only where there is a cluster

    return forwarded(settings)


class Shop:
    """freshrank.v1.Ranking as a shop calls it."""

    def __init__(self, settings: CliSettings) -> None:
        self._client = Client(settings.gateway, credentials=credentials(settings))
        self._where = f"the ranking API at {settings.gateway} (--gateway)"

    def reach(self, timeout_s: float = 5.0) -> None:
        """Return when it can be reached. Raises TemporaryError."""
        with translated(self._where):
            self._client.wait_ready(timeout_s)

    def explain(self, token: str, item: str, top: int) -> ExplainResponse:
        """Why an item got its score."""
        with translated(self._where):
            return self._client.explain(token, item, top=top)

    def upsert(self, items: list[Item]) -> int:
        """Add or change items; returns how many. A wrong field raises InvalidInput with its path, `items[3].price`."""
        with translated(self._where):
            return self._client.upsert(*items, timeout_s=30.0)

    def track(self, events: list[Event]) -> Counter[str]:
        """Report events; returns how many were refused, by field and reason."""
        with translated(self._where):
            results = self._client.track(*events, timeout_s=30.0)
        return Counter(f"{r.error_field}: {r.error_reason}" for r in results if r.error_reason)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


@contextmanager
def shop(settings: CliSettings) -> Iterator[Shop]:
    """The ranking API, closed at the end."""
    found = Shop(settings)
    try:
        yield found
    finally:
        found.close()


def credentials(settings: CliSettings) -> grpc.ChannelCredentials | None:
    """For TLS, or None for plain text. Raises InvalidInput for a file that cannot be read."""
    if not (settings.tls or settings.tls_ca or settings.tls_cert):
        return None
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise InvalidInput("--tls-cert", "missing_field", "--tls-cert and --tls-key are needed together")
    return grpc.ssl_channel_credentials(
        _read("--tls-ca", settings.tls_ca), _read("--tls-key", settings.tls_key), _read("--tls-cert", settings.tls_cert)
    )


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Errors of the API as ours; `where` names the API and its option."""
    try:
        yield
    except api.ApiError as error:
        raise _ours(error, where) from error


def _ours(error: api.ApiError, where: str) -> FreshrankError:
    if isinstance(error, api.InvalidArgument):
        first = error.violations[0] if error.violations else None
        return InvalidInput(first.field, first.reason, first.description) if first else Conflict(str(error))
    if isinstance(error, api.NotFound):
        return NotFound(str(error))
    if error.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return InvalidInput("--token", "refused", str(error))
    if isinstance(error, api.Retryable):
        return TemporaryError(f"{where} does not answer: {error}")
    return Conflict(f"{where} refuses: {error}")


def _read(option: str, path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path is not None else None
    except OSError as error:
        raise InvalidInput(option, "not_found", f"{path}: {error.strerror}") from error
