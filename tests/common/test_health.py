"""A service is alive while what is behind moves."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest

from services.common.clock import ManualClock
from services.common.health import Health, serve
from services.common.metrics import Metrics

SECOND = 1_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000 * SECOND)


@pytest.fixture
def health(clock: ManualClock) -> Health:
    return Health(clock, stall_seconds=60)


def wait(clock: ManualClock, seconds: int) -> None:
    clock.advance_to(clock.now_us() + seconds * SECOND)


def test_a_service_with_nothing_to_do_is_alive_for_ever(health: Health, clock: ManualClock) -> None:
    health.applied("t", 0, 5)
    health.behind("t", 0, 0)
    wait(clock, 100_000)
    assert health.live()


def test_a_partition_that_is_behind_and_does_not_move_is_a_stall(health: Health, clock: ManualClock) -> None:
    health.behind("t", 0, 10)
    wait(clock, 59)
    assert health.live()
    wait(clock, 2)
    assert not health.live()
    health.applied("t", 0, 1)
    assert health.live()


def test_saying_the_same_position_again_is_no_movement(health: Health, clock: ManualClock) -> None:
    health.applied("t", 0, 5)
    health.behind("t", 0, 10)
    for _ in range(7):
        wait(clock, 10)
        health.applied("t", 0, 5)
        health.behind("t", 0, 10)
    assert not health.live()


def test_work_that_comes_after_a_long_rest_is_not_a_stall(health: Health, clock: ManualClock) -> None:
    health.applied("t", 0, 5)
    wait(clock, 3_600)
    health.behind("t", 0, 1)
    assert health.live()


def test_one_stalled_partition_is_a_stall_though_the_others_move(health: Health, clock: ManualClock) -> None:
    for n in range(7):
        health.behind("t", 0, 10)
        health.behind("t", 1, 10)
        health.applied("t", 1, n)
        wait(clock, 10)
    assert not health.live()


def test_a_partition_that_was_given_up_cannot_stall(health: Health, clock: ManualClock) -> None:
    health.applied("t", 0, 5)
    health.behind("t", 0, 10)
    health.revoked("t", 0)
    wait(clock, 100)
    assert health.live()
    assert health.positions()["applied"] == {}
    assert health.lag == 0


def test_a_service_without_partitions_of_its_own_says_one_lag(health: Health, clock: ManualClock) -> None:
    health.lag = 7
    wait(clock, 50)
    health.applied("examples", 0, 3)
    wait(clock, 50)
    assert health.live(), "it moved"
    wait(clock, 11)
    assert not health.live()
    health.lag = 0
    assert health.live()


@pytest.fixture
def url(health: Health) -> Iterator[str]:
    metrics = Metrics("shop")
    metrics.counter("sold_total", "things").inc(3)
    server = serve(health, metrics.registry, 0)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_probes_answer_by_status(url: str, health: Health, clock: ManualClock) -> None:
    assert get(f"{url}/livez") == (200, "ok")
    assert get(f"{url}/readyz") == (503, "starting")
    health.ready = True
    assert get(f"{url}/readyz") == (200, "ok")
    health.behind("t", 0, 1)
    wait(clock, 61)
    assert get(f"{url}/livez") == (503, "stalled")
    assert get(f"{url}/secrets")[0] == 404


def test_positions_are_json_with_what_the_service_adds(url: str, health: Health) -> None:
    health.applied("t", 3, 41)
    health.behind("t", 3, 2)
    health.extra = lambda: {"epoch": np.int64(9)}
    status, text = get(f"{url}/positions?pretty")
    assert (status, json.loads(text)) == (200, {"applied": {"t-3": 41}, "ready": False, "lag": 2, "epoch": 9})


def test_an_addition_that_fails_is_an_answer_and_not_a_hang(url: str, health: Health) -> None:
    health.extra = lambda: {"x": 1 / 0}
    assert get(f"{url}/positions") == (500, "failed")
    assert get(f"{url}/livez") == (200, "ok")


def test_metrics_are_served(url: str) -> None:
    assert "freshrank_shop_sold_total 3.0" in get(f"{url}/metrics")[1]


def test_the_port_is_free_after_shutdown(health: Health) -> None:
    server = serve(health, Metrics("shop").registry, 0)
    port = server.server_port
    server.shutdown()
    serve(health, Metrics("shop").registry, port).shutdown()
