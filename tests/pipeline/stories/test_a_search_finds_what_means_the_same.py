"""An encoder goes live beside the words; a changed text is found by its meaning, an encoder is replaced and taken back.

The encoder is the packaged one. Searches go on all the while: none fails, and none compares a query's vector with
another encoder's.
"""

import asyncio
import os
import shutil
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from freshrank.v1 import ranking_pb2
from prometheus_client.parser import text_string_to_metric_families

from services.demo import encoder
from services.demo.api import Api
from services.demo.cache import Progress, default_folder
from services.publisher.audit import Audit
from services.text.categories import FILE
from services.text.folder import read
from services.trainer.files import digest
from services.trainer.text.categories import Asked, fitted
from services.trainer.text.load import load
from tests.pipeline.loop import Loop, eventually

pytestmark = pytest.mark.pipeline

ITEMS = [
    ranking_pb2.Item(item_id=f"home-{n}", title=title, categories=["home"], price=10 + n, stock=5)
    for n, title in enumerate(("grey sofa with three seats", "steel saucepan", "wool blanket", "bedside lamp"))
]
MEANT = "couch for the living room"
"""None of its words is in the titles."""


async def test_meaning_is_found_beside_words_and_follows_text_and_encoder(loop: Loop, tmp_path: Path) -> None:
    await loop.serving()
    folder = encoder.provide(default_folder(os.environ), Progress(show_present=False))
    async with loop.calling() as api:
        await api.stock(ITEMS)
        assert "home-0" not in await found(api, MEANT)
        first = encoder.offer(folder, loop.plan.store, time.time_ns() // 1000)
        assert await eventually(lambda: serving(loop) == first, 120)
        await until(api, MEANT, "home-0")
        late = too_late(loop)
        async with searching(api) as searches:
            await similarity_is_explained(api)
            renamed = ranking_pb2.Item(item_id="home-1", title="settee with two seats", categories=["home"], stock=5)
            began = time.monotonic()
            await api.stock([renamed])
            await until(api, MEANT, "home-1")
            print(f"found by its new meaning {time.monotonic() - began:.2f} s after it was sent")
            assert not (await search(api, MEANT)).categories
            telling = telling_categories(folder, tmp_path / "telling")
            second = encoder.offer(telling, loop.plan.store, time.time_ns() // 1000 + 60_000_000)
            assert await eventually(lambda: serving(loop) == second, 120)
            assert loop.follower.positions("gateway")["encoder_before"] == first  # which some keep while it is watched
            await until(api, MEANT, "home-0")
            await category_is_told_and_ranked_by(api)
        assert searches.answers > 10
        assert searches.missed <= too_late(loop) - late
    await loop.follower.caught_up()
    assert await loop.ledger() == {}
    audit = Audit(loop.plan.store / "encoders" / "audit.jsonl").entries(second)
    assert [entry["decision"] for entry in audit] == ["held", "promoted"]
    assert [check["passed"] for check in audit[0]["checks"]] == [True, True]


async def similarity_is_explained(api: Api) -> None:
    answer = await search(api, MEANT)
    asked = ranking_pb2.ExplainRequest(attribution_token=answer.attribution_token, item_id="home-0", top=100)
    explained = await api.stub.Explain(asked, timeout=5)
    values = {part.feature: part.value for part in explained.contributions}
    similarity = next(value for name, value in values.items() if name.endswith(":text_similarity"))
    assert 0.3 < similarity < 1
    assert list(explained.matched_words) == []


def telling_categories(folder: Path, out: Path) -> Path:
    """The encoder with what tells a query's category, learned from searches for two."""
    said = {
        "home": ("couch", "pillow", "bed", "curtain", "carpet"),
        "rain": ("umbrella", "raincoat", "boots", "poncho"),
    }
    kept = [
        Asked(f"{how} {word}", 0, category)
        for how in (
            "red",
            "new",
            "large",
            "cheap",
            "soft",
            "blue",
            "light",
            "good",
            "small",
            "warm",
            "modern",
            "strong",
        )
        for category, words in said.items()
        for word in words
    ]
    told, figures = fitted(kept, load("default").queries)
    assert told is not None, figures
    shutil.copytree(folder, out)
    (out / FILE).write_bytes(told.to_bytes())
    about = read(folder)
    (out / "encoder.json").write_text(replace(about, files={**about.files, FILE: digest(out / FILE)}).to_json())
    return out


async def category_is_told_and_ranked_by(api: Api) -> None:
    answer = await search(api, MEANT)
    told = {one.category: one.probability for one in answer.categories}
    assert told["home"] > 0.5
    asked = ranking_pb2.ExplainRequest(attribution_token=answer.attribution_token, item_id="home-0", top=500)
    explained = await api.stub.Explain(asked, timeout=5)
    assert explained.categories == answer.categories
    values = {part.feature: part.value for part in explained.contributions}
    assert values["cross:category_probability"] == pytest.approx(told["home"])


@dataclass
class Searches:
    """Searches that go on while things change."""

    answers: int = 0
    missed: int = 0
    """Answers without the item that is meant."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def searching(api: Api) -> AsyncIterator[Searches]:
    """Search again and again; a call that fails ends the test."""
    seen = Searches()

    async def run() -> None:
        while not seen.stop.is_set():
            seen.missed += "home-0" not in await found(api, MEANT)
            seen.answers += 1
            await asyncio.sleep(0.05)

    task = asyncio.create_task(run())
    try:
        yield seen
    finally:
        seen.stop.set()
        await task


SHOPPER = ranking_pb2.Shopper(user_id="bo-means", session_id="bo-means-1")


def too_late(loop: Loop) -> int:
    """Queries whose vector a busy machine did not give in time: words alone have found then."""
    with urllib.request.urlopen(f"{loop.plan.urls['gateway']}/metrics", timeout=5) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    failed = [sample for sample in samples if sample.name == "freshrank_gateway_part_failures_total"]
    return int(sum(sample.value for sample in failed if sample.labels["part"] == "text"))


def serving(loop: Loop) -> str:
    """The encoder that the gateway uses."""
    return str(loop.follower.positions("gateway").get("encoder"))


async def until(api: Api, query: str, item: str, timeout_s: float = 30.0) -> None:
    """Search until an item is found."""
    ends = time.monotonic() + timeout_s
    while item not in await found(api, query):
        assert time.monotonic() < ends, f"{item} is not found"
        await asyncio.sleep(0.02)


async def found(api: Api, query: str) -> list[str]:
    return [result.item_id for result in (await search(api, query)).results]


async def search(api: Api, query: str) -> ranking_pb2.RankingResponse:
    request = ranking_pb2.SearchRequest(shopper=SHOPPER, query=query, page_size=50)
    answer: ranking_pb2.RankingResponse = await api.stub.Search(request, timeout=5)
    return answer
