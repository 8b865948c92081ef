"""A shop that arrives with a history: `freshrank import` on an empty system gives it a first release."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from freshrank import Client

from services.common.topics import TOPICS
from services.demo.kafka import TopicSpec, create_topics
from services.demo.runfile import write_runfile
from services.demo.services import SERVICES, Plan, environment, plan_of, program
from services.demo.stack import Stack
from services.demo.tools import Tools
from services.features import commands

pytestmark = pytest.mark.pipeline
ROOT = Path(__file__).parents[2]
PARTITIONS = 2
CATEGORIES, ITEMS, SHOPPERS, CLICKS = 8, 160, 400, 6_000
START_S = 1_760_000_000


@dataclass(frozen=True)
class Shop:
    """An empty running system whose log clock moves with its records only, and the way to call it."""

    folder: Path
    plan: Plan

    def freshrank(self, *arguments: str, timeout_s: float = 420.0) -> tuple[int, Any]:
        """Run the command as people do; its exit code and its JSON."""
        command = [sys.executable, "-m", "services.cli", *arguments, "--folder", str(self.folder), "--json"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
        print(ended.stderr)
        return ended.returncode, json.loads(ended.stdout) if ended.stdout else None


@pytest.fixture(scope="module")
def shop(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    settings = {"FRESHRANK_INGEST_TICKS": "log", "FRESHRANK_TRAINER_UPDATE_INTERVAL": "20"}
    before = dict(os.environ)
    with Stack(folder, PARTITIONS, tools=tools, model_repository=folder / "store" / "triton") as stack:
        plan = plan_of(stack, folder, ROOT / "feature_repo", PARTITIONS, settings)
        create_topics(stack.kafka.bootstrap, [TopicSpec.of(topic, PARTITIONS) for topic in TOPICS])
        try:
            os.environ.update(environment(stack, plan))
            commands.apply(plan.feature_repo)
        finally:
            os.environ.clear()
            os.environ.update(before)
        for name in SERVICES:
            stack.supervisor.start(program(name, stack, plan))
        for name in SERVICES:
            stack.supervisor.wait_ready(name)
        admin = f"127.0.0.1:{plan.admin_port}"
        write_runfile(folder, environment(stack, plan), plan.gateway, admin, plan.urls)
        yield Shop(folder, plan)


def test_a_history_becomes_a_catalogue_a_log_and_a_first_release(shop: Shop, tmp_path: Path) -> None:
    code, found = shop.freshrank("import", *history(tmp_path), "--wait", "300")
    assert code == 0, found
    assert (found["items"], found["interactions"]) == (ITEMS, CLICKS)
    assert found["positives"] == CLICKS - sum(n % 3 == 0 for n in range(CLICKS))
    assert found["release"].startswith("r")

    code, status = shop.freshrank("status")
    assert (code, status["does_not_answer"]) == (0, [])
    assert status["serving"]["champion"]
    assert {s["service"] for s in status["services"] if s["ready"]} == set(SERVICES)

    code, release = shop.freshrank("releases", "show", found["release"])
    assert code == 0
    assert release["after"]["auc"] > 0.6

    with Client(shop.plan.gateway) as api:
        answer = api.recommend("shopper-1", page_size=10, timeout_s=2.0)
    assert answer.release
    assert len(answer.results) == 10


def test_a_second_import_is_refused_because_the_log_is_past_it(shop: Shop, tmp_path: Path) -> None:
    code, _ = shop.freshrank("import", *history(tmp_path), "--wait", "0")
    assert code == 1


def history(folder: Path) -> list[str]:
    """Files of shoppers who each like one category: what they click can be learned."""
    chance = random.Random(5)
    items = [
        {"item": f"item-{n}", "title": f"thing {n}", "categories": [f"kind-{n % CATEGORIES}"], "price": 5.0 + n}
        for n in range(ITEMS)
    ]
    rows = [
        {
            "customer": f"shopper-{shopper}",
            "item": f"item-{liked(chance, shopper)}",
            "kind": "view" if number % 3 == 0 else "click",
            "time": START_S + number * 60,
        }
        for number, shopper in ((number, chance.randrange(SHOPPERS)) for number in range(CLICKS))
    ]
    pq.write_table(pa.Table.from_pylist(items), folder / "items.parquet")
    pq.write_table(pa.Table.from_pylist(rows), folder / "clicks.parquet")
    files = ("--catalogue", str(folder / "items.parquet"), "--interactions", str(folder / "clicks.parquet"))
    return [*files, "--map", "user=customer"]


def liked(chance: random.Random, shopper: int) -> int:
    """An item of the shopper's category, four times out of five."""
    kind = shopper % CATEGORIES if chance.random() < 0.8 else chance.randrange(CATEGORIES)
    return kind + CATEGORIES * chance.randrange(ITEMS // CATEGORIES)
