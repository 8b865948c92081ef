"""In a cluster: Triton's pods by EndpointSlices, and one leading publisher by a Lease."""

import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from services.common.clock import Clock, WallClock
from services.common.errors import InvalidInput, NotOwner, PermanentError, TemporaryError

logger = logging.getLogger(__name__)

PREFIX = "kubernetes:"

_ANSWER_S = 2.0
"""For the API server to answer: renewing a Lease takes two answers, and must be over before its time is."""
_TRUSTED = 2 / 3
"""Part of a Lease's time in which its holder acts: what it begins then is over when another one may lead."""


class TritonPods:
    """Addresses of a service's pods, whether they take traffic yet or not: a new pod needs its models first."""

    def __init__(self, api: Any, namespace: str, service: str, port: str, every_s: float = 1.0) -> None:
        """`port`: a number, or its name in the service. `every_s`: the API server is asked at most so often."""
        self._api, self._namespace, self._service, self._port = api, namespace, service, port
        self._every_s, self._next_s = every_s, 0.0
        self._known: list[str] = []
        self._asking = threading.Lock()

    def __call__(self) -> list[str]:
        """`host:port` of each pod that is not going away.

        While the API server is down the last answer stands: serving must not notice. Raises TemporaryError before
        the first answer.
        """
        if self._asking.acquire(blocking=not self._known):  # one asks, the others take what is known
            try:
                if not self._known or time.monotonic() >= self._next_s:
                    self._next_s = time.monotonic() + self._every_s
                    self._known = self._ask()
            except (ApiException, HTTPError) as error:
                if not self._known:
                    raise TemporaryError(f"endpoint slices of {self._service}: {error}") from error
            finally:
                self._asking.release()
        return self._known

    def _ask(self) -> list[str]:
        found = self._api.list_namespaced_endpoint_slice(
            self._namespace, label_selector=f"kubernetes.io/service-name={self._service}", _request_timeout=_ANSWER_S
        )
        return sorted({address for part in found.items for address in self._addresses(part)})

    def _addresses(self, part: Any) -> list[str]:
        port = self._port if self._port.isdigit() else _port_of(part, self._port)
        staying = [e for e in part.endpoints or [] if not (e.conditions and e.conditions.terminating)]
        host = "[{}]:{}" if part.address_type == "IPv6" else "{}:{}"
        return [host.format(address, port) for endpoint in staying for address in endpoint.addresses if port]


def _port_of(part: Any, name: str) -> str:
    """The number of a named port in a slice; empty when it has none."""
    return next((str(port.port) for port in part.ports or [] if port.name == name), "")


def triton_pods(text: str) -> TritonPods:
    """Read `kubernetes:<namespace>/<service>:<port>`, by number or name. Raises InvalidInput for another form."""
    place, _, port = text.removeprefix(PREFIX).rpartition(":")
    namespace, slash, service = place.partition("/")
    if not (slash and namespace and service and port):
        raise InvalidInput("triton", "bad_setting", f"{text!r} is not kubernetes:<namespace>/<service>:<port>")
    return TritonPods(client.DiscoveryV1Api(_configured()), namespace, service, port)


class Lease:
    """A coordination.k8s.io Lease: whoever renews it leads; another may take it when it has run out.

    Times are compared on this machine's steady clock from the moment a renewal was *seen*, so that clocks need not
    agree. The holder trusts a renewal for two thirds of its time, from before it was asked for. Each change of holder
    is one more transition, and their number is the term.
    """

    def __init__(
        self,
        api: Any,
        namespace: str,
        name: str,
        identity: str,
        seconds: float = 15,
        clock: Clock | None = None,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """`identity` is this process's own; `clock` is for the times that people read, `steady` for what is decided."""
        self._api, self._namespace, self._name, self._identity = api, namespace, name, identity
        self._seconds, self._clock, self._steady = seconds, clock or WallClock(), steady
        self._seen: tuple[str, str, float] | None = None
        self._until_s = float("-inf")
        self._other = False
        self._trouble = ""
        self.term = 0

    def acquire(self) -> bool:
        """Take or renew it. While the API server is away the holder leads on until its time is over."""
        try:
            self._try(self._steady())
            self._trouble = ""
        except (ApiException, HTTPError) as error:
            self._tell(f"{error.status} {error.reason}" if isinstance(error, ApiException) else type(error).__name__)
        return self.held()

    def _tell(self, trouble: str) -> None:
        """Say once what is wrong: a missing right looks like patience otherwise."""
        if trouble != self._trouble:
            logger.warning("lease not asked for or renewed", extra={"lease": self._name, "error": trouble})
        self._trouble = trouble

    def held(self) -> bool:
        """True while the last renewal can be trusted."""
        return self._steady() < self._until_s

    def lost(self) -> bool:
        """True when it has led and does not hold it any more."""
        return self._other

    def above(self, term: int) -> None:
        """Count on from a term that was seen. Raises NotOwner when it is not held, or cannot be written now."""
        if self.term > term:
            return
        began = self._steady()
        try:
            lease = self._read()
            if lease is None or lease.spec.holder_identity != self._identity:
                raise NotOwner(f"lease {self._name} is not held")
            self._take(lease, began, term + 1)
        except (ApiException, HTTPError) as error:
            raise NotOwner(f"lease {self._name}: {error}") from error

    def release(self) -> None:
        """Give it up, so that the next one need not wait."""
        if self._until_s < 0:
            return
        self._until_s = float("-inf")
        try:
            lease = self._read()
            if lease is not None and lease.spec.holder_identity == self._identity:
                lease.spec.holder_identity = ""
                self._replace(lease)
        except (ApiException, HTTPError):
            return

    def _try(self, began: float) -> None:
        lease = self._read()
        mine = lease is not None and lease.spec.holder_identity == self._identity
        if self.term and not mine:  # whoever has it, or had it and left: what this process knows may be old
            self._until_s, self._other = float("-inf"), True
        elif lease is None:
            self._create(began)
        elif mine and self.term:
            self._take(lease, began, lease.spec.lease_transitions)
        elif self._ran_out(lease, began):
            self._take(lease, began, (lease.spec.lease_transitions or 0) + 1)

    def _read(self) -> Any:
        try:
            return self._api.read_namespaced_lease(self._name, self._namespace, _request_timeout=_ANSWER_S)
        except ApiException as error:
            if error.status != 404:
                raise
            return None

    def _create(self, began: float) -> None:
        spec = self._spec(None, 1)
        lease = client.V1Lease(metadata=client.V1ObjectMeta(name=self._name, namespace=self._namespace), spec=spec)
        self._api.create_namespaced_lease(self._namespace, lease, _request_timeout=_ANSWER_S)
        self._leads(began, 1)

    def _take(self, lease: Any, began: float, transitions: int) -> None:
        """Write it as ours. Whoever else has written it since it was read wins: the API server raises a conflict."""
        lease.spec = self._spec(lease.spec, transitions)
        self._replace(lease)
        self._leads(began, transitions)

    def _replace(self, lease: Any) -> None:
        self._api.replace_namespaced_lease(self._name, self._namespace, lease, _request_timeout=_ANSWER_S)

    def _leads(self, began: float, term: int) -> None:
        self._until_s, self.term = began + _TRUSTED * self._seconds, term

    def _ran_out(self, lease: Any, now_s: float) -> bool:
        if not lease.spec.holder_identity:
            return True
        holder, renewed = str(lease.spec.holder_identity), str(lease.spec.renew_time)
        if self._seen is None or self._seen[:2] != (holder, renewed):
            self._seen = (holder, renewed, now_s)
        return now_s - self._seen[2] > (lease.spec.lease_duration_seconds or self._seconds)

    def _spec(self, before: Any, transitions: int) -> Any:
        now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._clock.now_us())
        mine = before is not None and before.holder_identity == self._identity
        return client.V1LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=math.ceil(self._seconds),
            acquire_time=before.acquire_time if mine else now,
            renew_time=now,
            lease_transitions=transitions,
        )


def lease(namespace: str, name: str, identity: str, seconds: float) -> Lease:
    """The Lease of this pod's cluster; `seconds` until another one may lead after the last renewal."""
    return Lease(client.CoordinationV1Api(_configured()), namespace, name, identity, seconds)


def _configured() -> Any:
    """A client of this pod's cluster, or of the kubeconfig. Raises PermanentError without either."""
    found = client.Configuration()
    try:
        config.load_incluster_config(found)
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=found)
        except config.ConfigException as error:
            raise PermanentError(f"no cluster: {error}") from error
    found.retries = False  # the caller asks again; retries of the client would outlast a Lease
    return client.ApiClient(found)
