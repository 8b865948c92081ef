"""The gateway over real Kafka, Redis and Triton. The tests follow one another: read them as a story."""

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
from freshrank import Client, errors
from freshrank.v1 import events_pb2 as ev
from freshrank.v1.events_pb2 import Event
from freshrank.v1.ranking_pb2 import Item
from prometheus_client.mmap_dict import MmapedDict

from services.common.encode import encode
from services.common.topics import ITEM_UPDATES
from services.demo.tools import Tools
from services.trainer.text import reranker as rerankers
from tests.gateway.pictures import LOOKS, pictured
from tests.gateway.stage import Stage, staged, until
from tests.trainer.text import tiny

pytestmark = pytest.mark.pipeline

ITEMS = [f"i{n}" for n in range(30)]
ASKED = {"query_stats", "query_item_stats", "query_category_stats"}


@pytest.fixture(scope="module")
def stage(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("gateway"), tools) as it:
        yield it


def test_items_that_were_sent_can_be_recommended_before_any_release(stage: Stage) -> None:
    entries = [Item(item_id=i, title=f"thing {i}", categories=[f"c{n % 3}"], price=n + 1) for n, i in enumerate(ITEMS)]
    assert stage.client.upsert(*entries) == 30
    stage.shopper("ada", clicks=3)
    answer = until(lambda: (a := stage.client.recommend("ada", page_size=30)).results and len(a.results) >= 28 and a)
    assert (answer.release, answer.degradation) == ("", ev.DEGRADATION_NONE)
    impression = stage.impression(answer.request_id)
    assert [item.item_id for item in impression.items][:3] == [r.item_id for r in answer.results][:3]
    assert [entry.item_id for entry in impression.history] == ["i2", "i3"]
    assert impression.user_pos[list(impression.user_views).index("user_stats")] == 9


def test_before_any_release_the_callers_order_stays(stage: Stage) -> None:
    answer = stage.client.rank("ada", ["i5", "i1", "i9"])
    assert [r.item_id for r in answer.results] == ["i5", "i1", "i9"]


def test_a_routed_release_scores_what_the_impression_says_it_saw(stage: Stage) -> None:
    for n, item in enumerate(ITEMS):
        stage.stats(item, n / 10)
        stage.row(item, n / 30, 1, 0, -n / 30)
    end = stage.positions()["applied"]
    until(lambda: sum(stage.positions()["applied"][f"{ITEM_UPDATES.name}-{p}"] for p in (0, 1)) >= 90, 20)
    assert end
    stage.load("r1")
    stage.route("r1")
    answer = stage.client.rank("ada", ITEMS)
    assert (answer.release, answer.degradation, list(answer.missing_ids)) == ("r1", ev.DEGRADATION_NONE, [])
    impression = stage.impression(answer.request_id)
    arrays = encode([impression], stage.spec, Rows())
    model = onnxruntime.InferenceSession(str(stage.store / "releases" / "r1" / "model.onnx"))
    (scores,) = model.run(["scores"], arrays)
    expected = scores[0] @ np.array([1, 0, 2], np.float32)
    np.testing.assert_allclose([r.score for r in answer.results], expected, rtol=1e-6)
    assert 0 < answer.ages.rows_ms < 60_000


class Rows:
    """The rows that the test has written."""

    def items(self, ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `Stage.row` was called."""
        numbers = np.array([int(item[1:]) for item in ids])
        rows = np.stack([numbers / 30, np.ones(len(ids)), np.zeros(len(ids)), -numbers / 30], axis=1)
        return rows.astype(np.float32), np.ones(len(ids), np.float32)

    def users(self, ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `Stage.shopper` writes it."""
        return np.array([[0.5, -0.5, 1, 0]] * len(ids), np.float32), np.ones(len(ids), np.float32)


def test_a_search_is_ranked_and_logged_as_it_was_seen(stage: Stage) -> None:
    answer = until(lambda: (a := stage.client.search("ada", "thimg i7", facets=True)).corrected_query and a)
    assert (answer.query, answer.corrected_query, answer.found) == ("thimg i7", "thing i7", 30)
    assert answer.results[0].item_id == "i7"
    impression = stage.impression(answer.request_id)
    assert (impression.query, impression.placement) == ("thimg i7", "search")
    arrays = encode([impression], stage.spec, Rows())
    model = onnxruntime.InferenceSession(str(stage.store / "releases" / "r1" / "model.onnx"))
    (scores,) = model.run(["scores"], arrays)
    chances = [result.objective_scores["click"] for result in answer.results]
    np.testing.assert_allclose(chances, scores[0, :, 0], rtol=1e-6)
    column = [ref.name for ref in stage.spec.item_features].index("lexical_score")
    lexical = {item.item_id: arrays["item"][0, place, column] for place, item in enumerate(impression.items)}
    assert max(lexical, key=lexical.__getitem__) == "i7"


def test_what_is_counted_of_a_query_is_served_with_its_search_and_explained(stage: Stage) -> None:
    stage.asked("thing i7", "i7", "c1", value=5)
    answer = stage.client.search("ada", "Thing i7")
    impression = stage.impression(answer.request_id)
    found = dict(zip(impression.user_views, impression.user_pos, strict=True))
    assert found["query_stats"] == 9
    explained = stage.client.explain(answer.attribution_token, item_id="i7", top=200)
    values = {part.feature: part.value for part in explained.contributions}
    ours = [f"{view.name}:{f.name}" for view in stage.plan.views for f in view.features if view.name in ASKED]
    assert {values[name] for name in ours} == {5.0}
    other = stage.impression(stage.client.search("ada", "thing i8").request_id)
    assert dict(zip(other.user_views, other.user_pos, strict=True))["query_stats"] == 0


def test_a_changed_item_is_found_by_its_new_words_within_a_second(stage: Stage) -> None:
    began = time.monotonic()
    stage.client.upsert(Item(item_id="i3", title="parasol", categories=["c0"], price=4))
    until(lambda: [r.item_id for r in stage.client.search("ada", "parasols", exact=True).results] == ["i3"])
    print(f"visible after {time.monotonic() - began:.3f} s")
    stage.client.upsert(Item(item_id="i3", title="thing i3", categories=["c0"], price=4))
    until(lambda: not stage.client.search("ada", "parasols", exact=True).results)


def test_a_reranker_has_a_say_in_the_order_and_is_done_without(stage: Stage, tmp_path: Path) -> None:
    made = rerankers.load(str(tiny.reranker(tmp_path / "model")))
    rerankers.export(made, tmp_path / "out")
    before = stage.client.search("ada", "thing").results
    stage.rerank(tmp_path / "out", "x20260101t000000-00000000")
    answer = stage.client.search("ada", "thing")
    read = {result.item_id for result in before}
    assert {result.item_id for result in answer.results} == read
    scores = made.scores(made.tokenizer.pairs("thing", [f"thing {item}. c{int(item[1:]) % 3}" for item in read]))
    wanted = dict(zip(read, scores[:, 0].tolist(), strict=True))
    impression = stage.impression(answer.request_id)
    assert impression.reranker == "x20260101t000000-00000000"
    assert {item.item_id: item.reranked for item in impression.items} == pytest.approx(wanted, abs=1e-4)
    explained = stage.client.explain(answer.attribution_token, item_id=answer.results[0].item_id)
    assert explained.reranked == pytest.approx(wanted[explained.item_id], abs=1e-4)
    stage.unload("x20260101t000000-00000000")
    after = stage.client.search("ada", "thing")
    assert [result.item_id for result in after.results] == [result.item_id for result in before]
    assert stage.impression(after.request_id).reranker == ""
    assert b'part_failures_total{error="ScorerUnavailable",part="rerank"}' in stage.get("/metrics")


def test_what_looks_alike_is_similar(stage: Stage) -> None:
    assert stage.client.upsert(*(pictured(name, seed) for seed, name in enumerate(LOOKS))) == len(LOOKS)
    for name, (colour, _) in LOOKS.items():
        until(lambda name=name, colour=colour: colours(stage, name) == [colour] * 2)
    assert stage.client.delete(*LOOKS) == len(LOOKS)
    until(lambda: not set(LOOKS) & {result.item_id for result in stage.client.similar("i5", page_size=50).results})


def colours(stage: Stage, item: str) -> list[str]:
    """Of the two items most like one."""
    with contextlib.suppress(errors.NotFound):
        return [LOOKS.get(r.item_id, [""])[0] for r in stage.client.similar(item, page_size=2).results]
    return []


def test_a_changed_feature_changes_the_next_answer(stage: Stage) -> None:
    before = stage.client.rank("ada", ITEMS).results[0].score
    stage.shopper("ada", clicks=40)
    assert stage.client.rank("ada", ITEMS).results[0].score != before


def test_an_item_that_only_the_store_knows_is_read_in_the_shoppers_round_trip(stage: Stage) -> None:
    stage.stored_item("ghost", value=7, row=[1, 2, 3, 4])
    answer = stage.client.rank("ada", ["ghost", "i1"])
    assert list(answer.missing_ids) == ["ghost"]
    impression = stage.impression(answer.request_id)
    ghost = next(item for item in impression.items if item.item_id == "ghost")
    views = [f.id for f in stage.plan.view("item_stats").features]
    stored = [v for v, i in zip(ghost.features, impression.item_feature_ids, strict=True) if i in views]
    assert stored == [7.0] * len(views)
    assert (ghost.row_seq, ghost.pos[0]) == (9, 9)


def test_categories_of_the_candidates_bring_the_shoppers_values_with_them(stage: Stage) -> None:
    stage.pair("ada", "c1", value=5)
    answer = stage.client.rank("ada", ["i1", "i2"])
    impression = stage.impression(answer.request_id)
    view = stage.plan.view("user_category_stats")
    ids = [f.id for f in view.features]
    at = list(impression.item_views).index("user_category_stats")
    for item in impression.items:
        found = [v for v, i in zip(item.features, impression.item_feature_ids, strict=True) if i in ids]
        known = item.item_id == "i1"
        assert (item.category, item.pos[at]) == (("c1", 9) if known else ("c2", 0))
        assert all(v == 5.0 if known else np.isnan(v) for v in found)


def test_a_tracked_event_lies_where_the_answer_says(stage: Stage) -> None:
    token = stage.client.rank("ada", ["i1"]).attribution_token
    event = Event(kind="EVENT_KIND_CLICK", user_id="ada", item_id="i1", attribution_token=token)
    good, bad = stage.client.track(event, Event(event_id="x"))
    assert stage.record(good.partition, good.offset).event == event
    assert bad.error_field == "user_id"


def test_an_answer_can_be_explained(stage: Stage) -> None:
    answer = stage.client.rank("ada", ITEMS)
    found = stage.client.explain(answer.attribution_token, top=200)
    assert found.score == pytest.approx(answer.results[0].score, rel=1e-5)
    assert len(found.contributions) == len(stage.spec.user_features) + len(stage.spec.item_features) + 5


def test_a_deleted_item_goes_from_recommendations(stage: Stage) -> None:
    assert stage.client.delete("i29") == 1
    until(lambda: "i29" not in [r.item_id for r in stage.client.recommend("ada", page_size=30).results])
    until(lambda: not stage.client.search("ada", "i29", exact=True).results)


def test_wrong_calls_are_typed_errors(stage: Stage) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        stage.client.rank("", [])
    assert {v.field for v in caught.value.violations} == {"shopper.user_id", "candidates"}
    with pytest.raises(errors.NotFound):
        stage.client.similar("never")


def test_a_killed_table_writer_comes_back_and_goes_on(stage: Stage) -> None:
    (writer,) = [
        child for child in psutil.Process(stage.stack.supervisor.pid("gateway")).children() if _is_writer(child)
    ]
    writer.kill()
    stage.client.upsert(Item(item_id="late", title="late", categories=["c0"]))
    until(lambda: "late" in [r.item_id for r in stage.client.recommend("ada", page_size=100).results], 30)
    until(lambda: [r.item_id for r in stage.client.search("ada", "late", exact=True).results] == ["late"])


def _is_writer(process: psutil.Process) -> bool:
    return "table" in process.cmdline()


def test_without_redis_answers_come_in_time_and_say_so(stage: Stage) -> None:
    stage.client.rank("ada", ITEMS)
    stage.stack.kill("redis")
    slowest = 0.0
    for user, expected in (("ada", ev.DEGRADATION_STALE_FEATURES), ("new", ev.DEGRADATION_NO_USER_FEATURES)) * 5:
        began = time.monotonic()
        answer = stage.client.rank(user, ITEMS, timeout_s=1.0)
        slowest = max(slowest, time.monotonic() - began)
        assert (answer.degradation, answer.release) == (expected, "r1")
    assert slowest < 1.0
    stage.stack.restart("redis")
    until(lambda: stage.client.rank("ada", ITEMS).degradation == ev.DEGRADATION_NONE)


def test_lost_features_are_labelled_until_they_are_back(stage: Stage) -> None:
    stage.redis.flushall()
    until(lambda: stage.client.rank("ada", ITEMS).degradation == ev.DEGRADATION_STALE_FEATURES)
    stage.shopper("ada", clicks=3)
    until(lambda: stage.client.rank("ada", ITEMS).degradation == ev.DEGRADATION_NONE)


def test_without_triton_the_callers_order_stays_in_time(stage: Stage) -> None:
    stage.stack.kill("triton")
    for _ in range(10):
        began = time.monotonic()
        answer = stage.client.rank("ada", ITEMS, timeout_s=1.0)
        assert time.monotonic() - began < 1.0
        assert (answer.degradation, [r.item_id for r in answer.results]) == (ev.DEGRADATION_POPULAR, ITEMS)
    stage.stack.restart("triton")
    stage.reload("r1")
    until(lambda: stage.client.rank("ada", ITEMS).degradation == ev.DEGRADATION_NONE)


def test_a_release_that_triton_lost_is_answered_by_the_one_before(stage: Stage) -> None:
    stage.load("r22")
    stage.route("r22", previous="r1", previous_slot="a", previous_epoch=1)
    assert stage.client.rank("ada", ITEMS).release == "r22"
    stage.stack.kill("triton")
    stage.stack.restart("triton")
    stage.reload("r1")
    answer = until(lambda: (a := stage.client.rank("ada", ITEMS)).release and a)
    assert (answer.release, answer.degradation) == ("r1", ev.DEGRADATION_LAST_RELEASE)


def test_sigterm_drains_and_leaves_no_process(stage: Stage) -> None:
    gateway = psutil.Process(stage.stack.supervisor.pid("gateway"))
    everyone = [gateway, *gateway.children(recursive=True)]
    os.kill(gateway.pid, signal.SIGTERM)
    _, alive = psutil.wait_procs(everyone, timeout=20)
    assert not alive


def test_a_killed_gateway_takes_its_children_along(stage: Stage) -> None:
    until(lambda: not stage.stack.supervisor.running("gateway"))
    stage.stack.restart("gateway")
    stage.client.wait_ready(20)
    assert stage.client.rank("ada", ITEMS).results
    gateway = psutil.Process(stage.stack.supervisor.pid("gateway"))
    children = gateway.children(recursive=True)
    assert children
    gateway.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_two_workers_share_port_and_table_and_one_page_of_metrics(stage: Stage) -> None:
    until(lambda: not stage.stack.supervisor.running("gateway"))
    stage.stack.supervisor.start(stage.program(WORKERS=2))
    stage.stack.supervisor.wait_ready("gateway")
    gateway = psutil.Process(stage.stack.supervisor.pid("gateway"))
    assert sorted(child.cmdline()[3] for child in gateway.children()) == ["table", "worker"]

    def worker() -> psutil.Process | None:
        with contextlib.suppress(psutil.NoSuchProcess):  # nor is it one between its death and its next start
            return next((child for child in gateway.children() if child.cmdline()[3:4] == ["worker"]), None)
        return None

    def both_have_answered() -> bool:
        answer(stage)
        answered.append(1)
        shown = until(lambda: (count := page(stage)[RANKED]) >= len(answered) and count)
        assert shown == len(answered)
        return all(counted(folder, process.pid) for process in (gateway, second))

    answered: list[int] = []
    second = until(worker)
    folder = Path(second.environ()["PROMETHEUS_MULTIPROC_DIR"])
    until(both_have_answered, 60)
    assert page(stage)["freshrank_gateway_table_items"] >= len(ITEMS)

    second.kill()
    second = until(lambda: (other := worker()) and other.pid != second.pid and other)
    until(both_have_answered, 60)
    stage.stack.supervisor.stop("gateway")
    assert not folder.exists()


RANKED = 'freshrank_gateway_requests_total{code="OK",method="Rank"}'


def answer(stage: Stage) -> None:
    """Of one worker or the other: the kernel gives each new connection to one."""
    with Client(f"127.0.0.1:{stage.port}", options=[("grpc.use_local_subchannel_pool", 1)]) as client:
        client.wait_ready(20)
        assert client.rank("ada", ITEMS, timeout_s=2.0).results


def page(stage: Stage) -> defaultdict[str, float]:
    """Values of /metrics by series."""
    lines = [line.rpartition(" ") for line in stage.get("/metrics").decode().splitlines() if line[0] != "#"]
    return defaultdict(float, {series: float(value) for series, _, value in lines})


def counted(folder: Path, pid: int) -> float:
    """How many calls of Rank one process has written down; none before it counts at all."""
    if not (path := folder / f"counter_{pid}.db").exists():
        return 0.0
    values = MmapedDict.read_all_values_from_file(str(path))
    return sum(value for key, value, *_ in values if "requests_total" in key and '"Rank"' in key)
