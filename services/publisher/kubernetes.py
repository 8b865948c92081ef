"""In a cluster: Triton's pods by EndpointSlices, and one leading publisher by a Lease."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from services.common.clock import Clock, WallClock
from services.common.errors import InvalidInput, PermanentError, TemporaryError

PREFIX = "kubernetes:"


class TritonPods:
    """Addresses of a service's pods, whether they take traffic yet or not: a new pod needs its models first."""

    def __init__(self, api: Any, namespace: str, service: str, port: int) -> None:
        self._api, self._namespace, self._service, self._port = api, namespace, service, port
        self._known: list[str] = []
        self._lock = threading.Lock()

    def __call__(self) -> list[str]:
        """`host:port` of each pod that is not going away.

        While the API server is down the last answer stands: serving must not notice. Raises TemporaryError before
        the first answer.
        """
        try:
            found = self._api.list_namespaced_endpoint_slice(
                self._namespace, label_selector=f"kubernetes.io/service-name={self._service}", _request_timeout=5
            )
        except (ApiException, HTTPError) as error:
            with self._lock:
                if self._known:
                    return self._known
            raise TemporaryError(f"endpoint slices of {self._service}: {error}") from error
        addresses = sorted({address for part in found.items for address in self._addresses(part)})
        with self._lock:
            self._known = addresses
        return addresses

    def _addresses(self, part: Any) -> list[str]:
        staying = [e for e in part.endpoints or [] if not (e.conditions and e.conditions.terminating)]
        host = "[{}]:{}" if part.address_type == "IPv6" else "{}:{}"
        return [host.format(address, self._port) for endpoint in staying for address in endpoint.addresses]


def triton_pods(text: str) -> TritonPods:
    """Read `kubernetes:<namespace>/<service>:<port>`. Raises InvalidInput for another form."""
    place, _, port = text.removeprefix(PREFIX).rpartition(":")
    namespace, slash, service = place.partition("/")
    if not (slash and namespace and service and port.isdigit()):
        raise InvalidInput("triton", "bad_setting", f"{text!r} is not kubernetes:<namespace>/<service>:<port>")
    _configure()
    return TritonPods(client.DiscoveryV1Api(), namespace, service, int(port))


class Lease:
    """A coordination.k8s.io Lease: whoever renews it leads; another may take it when it has run out.

    Times are compared on this machine's clock from the moment a renewal was *seen*, so that clocks need not agree.
    """

    def __init__(
        self, api: Any, namespace: str, name: str, identity: str, seconds: int = 15, clock: Clock | None = None
    ) -> None:
        self._api, self._namespace, self._name, self._identity = api, namespace, name, identity
        self._seconds, self._clock = seconds, clock or WallClock()
        self._seen: tuple[str, str] | None = None
        self._seen_us = 0
        self._renewed_us = -(10**18)

    def acquire(self) -> bool:
        """Take or renew it. While the API server is away the holder leads on until its time is over."""
        now_us = self._clock.now_us()
        try:
            held = self._try(now_us)
        except (ApiException, HTTPError):
            return now_us - self._renewed_us < self._seconds * 1_000_000
        self._renewed_us = now_us if held else -(10**18)
        return held

    def release(self) -> None:
        """Give it up, so that the next one need not wait."""
        if self._renewed_us < 0:
            return
        self._renewed_us = -(10**18)
        try:
            lease = self._api.read_namespaced_lease(self._name, self._namespace)
            if lease.spec.holder_identity == self._identity:
                lease.spec.holder_identity = ""
                self._api.replace_namespaced_lease(self._name, self._namespace, lease)
        except (ApiException, HTTPError):
            return

    def _try(self, now_us: int) -> bool:
        try:
            lease = self._api.read_namespaced_lease(self._name, self._namespace, _request_timeout=5)
        except ApiException as error:
            if error.status != 404:
                raise
            return self._create(now_us)
        if lease.spec.holder_identity not in (self._identity, "", None) and not self._ran_out(lease, now_us):
            return False
        lease.spec = self._spec(now_us, lease.spec)
        return self._write(self._api.replace_namespaced_lease, self._name, self._namespace, lease)

    def _create(self, now_us: int) -> bool:
        meta = client.V1ObjectMeta(name=self._name, namespace=self._namespace)
        lease = client.V1Lease(metadata=meta, spec=self._spec(now_us, None))
        return self._write(self._api.create_namespaced_lease, self._namespace, lease)

    def _write(self, call: Any, *arguments: Any) -> bool:
        try:
            call(*arguments, _request_timeout=5)
        except ApiException as error:
            if error.status == 409:  # somebody else was quicker
                return False
            raise
        return True

    def _ran_out(self, lease: Any, now_us: int) -> bool:
        seen = (str(lease.spec.holder_identity), str(lease.spec.renew_time))
        if seen != self._seen:
            self._seen, self._seen_us = seen, now_us
            return False
        return now_us - self._seen_us > (lease.spec.lease_duration_seconds or self._seconds) * 1_000_000

    def _spec(self, now_us: int, before: Any) -> Any:
        now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now_us)
        mine = before is not None and before.holder_identity == self._identity
        changes = (before.lease_transitions or 0) + (0 if mine else 1) if before is not None else 0
        return client.V1LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=self._seconds,
            acquire_time=before.acquire_time if mine else now,
            renew_time=now,
            lease_transitions=changes,
        )


def lease(namespace: str, name: str, identity: str) -> Lease:
    """The Lease of this pod's cluster."""
    _configure()
    return Lease(client.CoordinationV1Api(), namespace, name, identity)


def _configure() -> None:
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            config.load_kube_config()
        except config.ConfigException as error:
            raise PermanentError(f"no cluster: {error}") from error
