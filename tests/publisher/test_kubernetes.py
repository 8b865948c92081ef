"""In a cluster: which Triton pods there are, and who leads."""

from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from services.common.clock import ManualClock
from services.common.errors import InvalidInput, TemporaryError
from services.publisher.kubernetes import Lease, TritonPods, triton_pods

SECOND = 1_000_000


class SmallCluster:
    """Endpoint slices and leases in memory, with the conflicts of the real API."""

    def __init__(self) -> None:
        self.slices: list[Any] = []
        self.leases: dict[str, Any] = {}
        self.away = False

    def list_namespaced_endpoint_slice(self, namespace: str, **_: Any) -> Any:
        self._reach()
        return SimpleNamespace(items=self.slices)

    def read_namespaced_lease(self, name: str, namespace: str, **_: Any) -> Any:
        self._reach()
        if name not in self.leases:
            raise ApiException(status=404)
        return self.leases[name]

    def create_namespaced_lease(self, namespace: str, body: Any, **_: Any) -> Any:
        self._reach()
        if body.metadata.name in self.leases:
            raise ApiException(status=409)
        self.leases[body.metadata.name] = body

    def replace_namespaced_lease(self, name: str, namespace: str, body: Any, **_: Any) -> Any:
        self._reach()
        self.leases[name] = body

    def _reach(self) -> None:
        if self.away:
            raise ApiException(status=503)


def endpoint(*addresses: str, terminating: bool = False) -> Any:
    return SimpleNamespace(addresses=list(addresses), conditions=SimpleNamespace(terminating=terminating))


def test_pods_are_found_whether_ready_or_not_but_not_when_they_go() -> None:
    cluster = SmallCluster()
    cluster.slices = [
        SimpleNamespace(address_type="IPv4", endpoints=[endpoint("10.0.0.2"), endpoint("10.0.0.9", terminating=True)]),
        SimpleNamespace(address_type="IPv6", endpoints=[endpoint("fd00::1")]),
        SimpleNamespace(address_type="IPv4", endpoints=None),
    ]
    pods = TritonPods(cluster, "shop", "triton", 8001)
    assert pods() == ["10.0.0.2:8001", "[fd00::1]:8001"]
    cluster.away = True
    assert pods() == ["10.0.0.2:8001", "[fd00::1]:8001"]


def test_before_the_first_answer_nobody_knows_the_pods() -> None:
    cluster = SmallCluster()
    cluster.away = True
    with pytest.raises(TemporaryError):
        TritonPods(cluster, "shop", "triton", 8001)()


@pytest.mark.parametrize("text", ["kubernetes:triton", "kubernetes:shop/triton", "kubernetes:/triton:1"])
def test_another_form_of_the_setting_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        triton_pods(text)


def two(cluster: SmallCluster, clock: ManualClock) -> tuple[Lease, Lease]:
    one, other = (Lease(cluster, "shop", "publisher", name, 15, clock) for name in ("one", "other"))
    return one, other


def test_one_leads_until_its_renewals_stop() -> None:
    cluster, clock = SmallCluster(), ManualClock()
    one, other = two(cluster, clock)
    assert (one.acquire(), other.acquire()) == (True, False)
    for second in range(10, 100, 10):
        clock.advance_to(second * SECOND)
        assert (one.acquire(), other.acquire()) == (True, False)
    clock.advance_to(100 * SECOND)
    assert not other.acquire()
    clock.advance_to(107 * SECOND)
    assert other.acquire()
    assert not one.acquire()
    assert cluster.leases["publisher"].spec.lease_transitions == 1


def test_who_gives_up_leaves_at_once() -> None:
    cluster, clock = SmallCluster(), ManualClock()
    one, other = two(cluster, clock)
    assert one.acquire()
    one.release()
    assert other.acquire()


def test_while_the_api_server_is_away_the_leader_leads_until_its_time_is_over() -> None:
    cluster, clock = SmallCluster(), ManualClock()
    one, other = two(cluster, clock)
    assert one.acquire()
    cluster.away = True
    clock.advance_to(14 * SECOND)
    assert (one.acquire(), other.acquire()) == (True, False)
    clock.advance_to(16 * SECOND)
    assert not one.acquire()
