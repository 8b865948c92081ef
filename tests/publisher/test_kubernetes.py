"""In a cluster: which Triton pods there are, and who leads."""

import time
from copy import deepcopy
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
        self.writes = self.asked = 0

    def list_namespaced_endpoint_slice(self, namespace: str, **_: Any) -> Any:
        self._reach()
        self.asked += 1
        return SimpleNamespace(items=self.slices)

    def read_namespaced_lease(self, name: str, namespace: str, **_: Any) -> Any:
        self._reach()
        if name not in self.leases:
            raise ApiException(status=404)
        return deepcopy(self.leases[name])

    def create_namespaced_lease(self, namespace: str, body: Any, **_: Any) -> Any:
        self._reach()
        if body.metadata.name in self.leases:
            raise ApiException(status=409)
        self._write(body)

    def replace_namespaced_lease(self, name: str, namespace: str, body: Any, **_: Any) -> Any:
        self._reach()
        if body.metadata.resource_version != self.leases[name].metadata.resource_version:
            raise ApiException(status=409)
        self._write(body)

    def _write(self, body: Any) -> None:
        body = deepcopy(body)
        self.writes += 1
        body.metadata.resource_version = str(self.writes)
        self.leases[body.metadata.name] = body

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
    pods = TritonPods(cluster, "shop", "triton", "8001", every_s=0.0)
    assert pods() == ["10.0.0.2:8001", "[fd00::1]:8001"]
    cluster.away = True
    assert pods() == ["10.0.0.2:8001", "[fd00::1]:8001"]


def test_the_api_server_is_asked_now_and_then_however_often_somebody_calls() -> None:
    cluster = SmallCluster()
    cluster.slices = [SimpleNamespace(address_type="IPv4", endpoints=[endpoint("10.0.0.1")])]
    pods = TritonPods(cluster, "shop", "triton", "1", every_s=0.2)
    assert pods() == ["10.0.0.1:1"]
    cluster.slices = []
    assert pods() == ["10.0.0.1:1"]
    until = time.monotonic() + 10
    while pods():
        assert time.monotonic() < until
        time.sleep(0.001)
    assert cluster.asked == 2


def test_a_port_by_name_is_the_one_of_each_slice() -> None:
    cluster = SmallCluster()
    cluster.slices = [
        SimpleNamespace(address_type="IPv4", endpoints=[endpoint(f"10.0.0.{n}")], ports=ports)
        for n, ports in enumerate(
            ([SimpleNamespace(name="http", port=1), SimpleNamespace(name="grpc", port=2)], [], None), 1
        )
    ]
    assert TritonPods(cluster, "shop", "triton", "grpc")() == ["10.0.0.1:2"]


def test_before_the_first_answer_nobody_knows_the_pods() -> None:
    cluster = SmallCluster()
    cluster.away = True
    with pytest.raises(TemporaryError):
        TritonPods(cluster, "shop", "triton", "8001")()


@pytest.mark.parametrize(
    "text", ["kubernetes:triton", "kubernetes:shop/triton", "kubernetes:/triton:1", "kubernetes:shop/triton:"]
)
def test_another_form_of_the_setting_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        triton_pods(text)


def leases(cluster: SmallCluster, clock: ManualClock, *names: str) -> list[Lease]:
    """Candidates for one Lease of 15 s, whose steady clock is the same."""
    return [Lease(cluster, "shop", "publisher", name, 15, clock, lambda: clock.now_us() / SECOND) for name in names]


def test_one_leads_until_its_renewals_stop() -> None:
    cluster, clock = SmallCluster(), ManualClock()
    one, other = leases(cluster, clock, "one", "other")
    assert (one.acquire(), other.acquire()) == (True, False)
    for second in range(9, 99, 9):
        clock.advance_to(second * SECOND)
        assert (one.acquire(), other.acquire()) == (True, False)
    clock.advance_to(107 * SECOND)
    assert (one.held(), other.acquire()) == (False, True)
    assert not one.acquire()
    assert one.lost()
    assert (one.term, other.term) == (1, 2)


def test_a_holder_stops_acting_before_another_may_lead() -> None:
    cluster, clock = SmallCluster(), ManualClock()
    one, other = leases(cluster, clock, "one", "other")
    assert (one.acquire(), other.acquire()) == (True, False)
    for tenth in range(1, 200):
        clock.advance_to(tenth * SECOND // 10)
        taken = other.acquire()
        assert not (one.held() and taken)
    assert (one.held(), other.held()) == (False, True)


def test_who_gives_up_leaves_at_once() -> None:
    cluster, clock = SmallCluster(), ManualClock()
    one, other = leases(cluster, clock, "one", "other")
    assert one.acquire()
    one.release()
    assert other.acquire()
    assert (one.term, other.term) == (1, 2)


def test_while_the_api_server_is_away_the_leader_acts_for_its_time_and_goes_on_when_it_is_back() -> None:
    cluster, clock = SmallCluster(), ManualClock()
    one, other = leases(cluster, clock, "one", "other")
    assert one.acquire()
    cluster.away = True
    clock.advance_to(9 * SECOND)
    assert (one.acquire(), other.acquire()) == (True, False)
    clock.advance_to(11 * SECOND)
    assert (one.acquire(), one.lost()) == (False, False)
    clock.advance_to(70 * SECOND)
    cluster.away = False
    assert (one.acquire(), one.term) == (True, 1)


def test_a_publisher_without_the_right_to_lead_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    cluster, clock = SmallCluster(), ManualClock()
    one, _ = leases(cluster, clock, "one", "other")
    cluster.away = True
    for second in range(5):
        clock.advance_to(second * SECOND)
        assert not one.acquire()
    cluster.away = False
    assert one.acquire()
    cluster.away = True
    one.acquire()
    assert [record.message for record in caplog.records] == ["lease not asked for or renewed"] * 2
    assert "503" in caplog.records[0].__dict__["error"]


def test_one_that_comes_back_after_another_has_led_and_left_has_lost() -> None:
    cluster, clock = SmallCluster(), ManualClock()
    one, other = leases(cluster, clock, "one", "other")
    assert (one.acquire(), other.acquire()) == (True, False)
    clock.advance_to(16 * SECOND)
    assert other.acquire()
    other.release()
    assert not one.acquire()
    assert one.lost()


def test_a_renewal_that_somebody_was_quicker_than_is_no_renewal() -> None:
    cluster, clock = SmallCluster(), ManualClock()
    one, other, third = leases(cluster, clock, "one", "other", "third")
    assert (one.acquire(), other.acquire(), third.acquire()) == (True, False, False)
    clock.advance_to(16 * SECOND)
    read = cluster.read_namespaced_lease

    def slow(name: str, namespace: str, **more: Any) -> Any:
        found = read(name, namespace, **more)
        cluster.read_namespaced_lease = read  # type: ignore[method-assign]
        assert third.acquire()
        return found

    cluster.read_namespaced_lease = slow  # type: ignore[method-assign]
    assert not other.acquire()
    assert (other.term, third.term) == (0, 2)


def test_terms_go_on_from_one_that_was_seen_when_the_lease_itself_was_lost() -> None:
    cluster, clock = SmallCluster(), ManualClock()
    (one,) = leases(cluster, clock, "one")
    assert one.acquire()
    one.above(41)
    assert one.term == 42
    clock.advance_to(5 * SECOND)
    assert one.acquire()
    one.release()
    (next_one,) = leases(cluster, clock, "next")
    assert next_one.acquire()
    assert next_one.term == 43


def test_a_new_process_of_the_same_name_waits_and_leads_a_term_of_its_own() -> None:
    cluster, clock = SmallCluster(), ManualClock()
    one, again = leases(cluster, clock, "one", "one")
    assert one.acquire()
    assert not again.acquire()
    clock.advance_to(16 * SECOND)
    assert (again.acquire(), again.term) == (True, 2)
