"""How everything stands, asked of real probe servers."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from freshrank.v1.models_pb2 import Freeze
from prometheus_client import generate_latest

from services.cli.figures import freshness, gauge, quantile
from services.cli.probes import ask, ask_all
from services.cli.settings import SERVICES
from services.cli.status import LONGEST_S, lags, service_row
from services.common.metrics import FRESHNESS_BUCKETS, Metrics
from services.common.topics import TOPICS
from services.demo.runfile import write_runfile
from tests.cli.fakes import Admin, probing, run, serving

DEAD = "127.0.0.1:9"
"""The discard port: nothing listens."""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Path]:
    """The folder of a run whose services answer; there is no Kafka."""
    with ExitStack() as running:
        address = running.enter_context(serving(Admin(freeze=Freeze(learning=True, actor="ada", reason="sale"))))
        urls = {name: running.enter_context(probing(name, {}, ages=(0.02, 0.04))) for name in SERVICES}
        write_runfile(tmp_path, {"FRESHRANK_BOOTSTRAP": DEAD}, address, address, urls)
        yield tmp_path


def test_the_services_are_those_that_read_topics() -> None:
    assert {c for topic in TOPICS for c in topic.consumers} - {"cli", "people"} == set(SERVICES)


def test_a_process_is_asked_for_readiness_positions_and_metrics() -> None:
    with probing("ingest", {"events.in-0": 5}, ready=False, ages=(0.2,)) as url:
        process = ask(url)
    assert (process.answers, process.ready, process.positions["applied"]) == (True, False, {"events.in-0": 5})
    (found,) = freshness("ingest", [process.metrics])
    assert (found.what, found.count) == ("freshness user_stats", 1)
    assert 0.1 < found.quantiles[0] <= 0.25


def test_processes_of_a_service_are_added_up() -> None:
    with (
        probing("features", {"interactions-0": 5}, ages=(0.02,)) as one,
        probing("features", {"interactions-1": 7}, ages=(0.02, 3.0)) as other,
    ):
        asked = ask_all({"features": [one, other]})["features"]
    row = service_row("features", asked, {"interactions": {0: 6, 1: 9}})
    assert (row["ready"], row["lag"]) == (True, {"interactions": 3})
    assert freshness("features", [p.metrics for p in asked])[0].count == 3


def test_a_process_that_is_away_makes_its_service_silent() -> None:
    with probing("trainer", {}) as url:
        found = service_row("trainer", ask_all({"trainer": [url, f"http://{DEAD}"]})["trainer"], {})
    assert (found["answers"], found["ready"]) == (False, False)


def test_lag_is_counted_for_topics_that_a_service_reports() -> None:
    assert lags({"examples-0": 9}, {"examples": {0: 9, 1: 0}, "interactions": {0: 4}}) == {"examples": 0}


@pytest.mark.parametrize(
    ("buckets", "q", "wanted"),
    [
        ([(1.0, 0.0), (math.inf, 0.0)], 0.5, math.nan),
        ([(1.0, 4.0), (math.inf, 4.0)], 0.5, 0.5),
        ([(1.0, 0.0), (2.0, 4.0), (math.inf, 4.0)], 1.0, 2.0),
        ([(1.0, 2.0), (math.inf, 4.0)], 0.99, 1.0),
    ],
)
def test_quantiles_come_from_buckets(buckets: list[tuple[float, float]], q: float, wanted: float) -> None:
    assert quantile(buckets, q) == pytest.approx(wanted, nan_ok=True)


def test_only_distributions_of_ages_are_freshness() -> None:
    metrics = Metrics("gateway")
    for name in ("age_seconds", "stage_seconds", "freshness_seconds", "request_seconds"):
        metrics.histogram(name, "a test's").observe(0.1)
    found = freshness("gateway", [generate_latest(metrics.registry).decode()])
    assert [f.what for f in found] == ["age", "freshness"]


def test_the_last_bound_is_that_of_the_distributions() -> None:
    assert FRESHNESS_BUCKETS[-1] == LONGEST_S


def test_a_gauge_is_added_over_its_labels_and_zero_when_absent() -> None:
    page = '# TYPE freshrank_x gauge\nfreshrank_x{p="0"} 2\nfreshrank_x{p="1"} 3\n'
    assert (gauge(page, "freshrank_x"), gauge(page, "freshrank_y")) == (5.0, 0.0)


def test_without_an_address_the_sentence_says_what_to_give() -> None:
    ended = run("status")
    assert ended.code == 2
    assert "--folder" in ended.err


@pytest.mark.pipeline
def test_a_demo_whose_kafka_is_away_is_shown_all_the_same(demo: Path) -> None:
    ended = run("status", "--folder", str(demo), "--json")
    assert ended.code == 3
    assert [s["service"] for s in ended.json["services"] if s["ready"]] == list(SERVICES)
    assert ended.json["serving"]["freeze"]["learning"] is True
    assert len(ended.json["does_not_answer"]) == 1
    assert "Kafka at 127.0.0.1:9" in ended.err
