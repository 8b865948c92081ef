"""Judged queries at the gate of releases: what people found good must not sink, as far as it was searched for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.events_pb2 import Impression

from services.common.encode import NoRows
from services.publisher import manifest as manifests
from services.publisher import shelf
from services.publisher.checks import Verdict
from services.publisher.examine import Situation, examine
from services.publisher.gate import GateBounds
from services.publisher.judgments import Judged, RelevanceBounds, from_file, judge
from services.publisher.onnx_file import FileBounds
from services.publisher.relevance import MOST, PER_QUERY, compare, figures, listed
from services.publisher.replay import Closed, Replay
from tests.publisher.chance import CONSTANT, FIRST
from tests.publisher.exports import SPEC, TRUE_WEIGHTS, Net, export, impressions, noisy
from tests.publisher.exports import figures as learned

ROWS = NoRows(SPEC.row_dim)
FEW = RelevanceBounds(queries=2)


def answer(query: str, features: dict[str, float], number: int = 0) -> Closed:
    """An answer whose items have a first feature."""
    impression = Impression(impression_id=f"{number:032x}", query=query, item_feature_ids=[SPEC.item_features[0].id])
    for item, value in features.items():
        impression.items.add(item_id=item, shown=True, features=[value])
    return Closed(impression, tuple(range(len(features))), (0,) * len(features), ("click",))


def judged(query: str, **grades: float) -> Judged:
    return Judged(query, tuple(grades), tuple(grades.values()))


LAMPS, HATS = judged("lamp", good=2, bad=0), judged("hat", good=1, bad=0)


def test_judged_items_are_ordered_by_the_inputs_as_served() -> None:
    log = [answer("lamp", {"bad": 0.9, "other": 0.5, "good": 0.1}), answer("hat", {"good": 0.7, "bad": 0.2})]
    lists = listed(log, [LAMPS, HATS])
    assert [one.items for every in lists.values() for one in every] == [(0, 2), (0, 1)]
    assert figures(lists, FIRST, ROWS) == pytest.approx([1 / np.log2(3), 1.0])


def test_answers_that_tell_nothing_are_left_out() -> None:
    log = [
        answer("lamp", {"good": 0.1, "other": 0.9}),  # one judged item
        answer("lamp", {"good": 0.1, "fine": 0.9}),  # two that are worth the same
        answer("rug", {"good": 0.1, "bad": 0.9}),  # nobody judged this query
        answer("", {"good": 0.1, "bad": 0.9}),  # nothing was searched for
    ]
    assert listed(log, [judged("lamp", good=2, fine=2, bad=0)]) == {}


def test_a_query_counts_once_by_its_newest_answers() -> None:
    old = [answer("lamp", {"bad": 0.9, "good": 0.1}, number) for number in range(9)]
    new = [answer("lamp", {"bad": 0.1, "good": 0.9}, 10 + number) for number in range(PER_QUERY - 1)]
    lists = listed([*old, *new, answer("hat", {"bad": 0.1, "good": 0.9})], [LAMPS, HATS])
    worst = 1 / np.log2(3)
    assert figures(lists, FIRST, ROWS) == pytest.approx([(worst + PER_QUERY - 1) / PER_QUERY, 1.0])


def test_of_many_queries_those_answered_last_are_looked_at() -> None:
    items = {"bad": 0.1, "good": 0.9}
    log = [answer(f"lamp {number}", items) for number in range(MOST + 5)] + [answer("lamp 0", items)]
    lists = listed(log, [judged(f"lamp {number}", good=2, bad=0) for number in range(MOST + 5)])
    assert len(lists) == MOST
    assert list(lists)[-1] == "lamp 0"
    assert "lamp 5" not in lists
    assert "lamp 6" in lists


def test_what_scores_alike_stands_in_no_order_of_the_log() -> None:
    lists = listed([answer("lamp", {"good": 0.9, "bad": 0.1}), answer("hat", {"bad": 0.9, "good": 0.1})], [LAMPS, HATS])
    assert figures(lists, CONSTANT, ROWS) == pytest.approx([1 / np.log2(3)] * 2)


def test_a_worse_order_fails_and_too_few_queries_are_said() -> None:
    log = [answer("lamp", {"bad": 0.1, "good": 0.9}), answer("hat", {"bad": 0.1, "good": 0.9})]
    check = compare(log, [LAMPS, HATS], CONSTANT, FIRST, ROWS, FEW)
    assert (check.passed, round(check.figure, 4)) == (False, -0.3691)
    assert "NDCG@10 0.6309, serving 1.0000, difference -0.3691 to -0.3691, over 2 queries" in check.detail
    assert compare(log, [LAMPS, HATS], FIRST, CONSTANT, ROWS, FEW).passed
    few = compare(log, [LAMPS], CONSTANT, FIRST, ROWS, FEW)
    assert (few.passed, few.detail) == (True, "not judged: 1 queries, 2 are needed")


def test_a_loss_within_the_bound_and_its_error_passes() -> None:
    chance, champion = np.random.default_rng(0), np.full(400, 0.8)
    noise = chance.normal(0, 0.1, 400)
    assert judge("x", (champion + noise - noise.mean() - 0.012).tolist(), champion.tolist(), RelevanceBounds()).passed
    worse = judge("x", (champion + noise - noise.mean() - 0.02).tolist(), champion.tolist(), RelevanceBounds())
    assert not worse.passed
    assert worse.bound == pytest.approx(-0.01 - noise.std(ddof=1) / 20)


QUERIES = 40
TRADED = Net(weights=TRUE_WEIGHTS * np.array([1, 1, 1, 1, 1, -40], np.float32))
"""Has given the last feature, which clicks hardly go by, another sign and size."""


def searched(count: int) -> list[Closed]:
    """Impressions of the planted shop, each an answer to one of the queries."""
    log = []
    for number, closed in enumerate(impressions(count, 3)):
        whole = Impression.FromString(closed.impression.SerializeToString())
        whole.query = f"query {number % QUERIES}"
        for place, item in enumerate(whole.items):
            item.item_id = f"{number}-{place}"
        log.append(replace(closed, impression=whole))
    return log


def grades(log: list[Closed], feature: int) -> list[Judged]:
    """What people say: of each answer the three items with most of one feature are worth something."""
    found: dict[str, dict[str, float]] = {}
    for closed in log:
        by = sorted(closed.impression.items, key=lambda item: -item.features[feature])
        found.setdefault(closed.impression.query, {}).update({item.item_id: float(k < 3) for k, item in enumerate(by)})
    return [judged(query, **worth) for query, worth in found.items()]


def verdict_of(folder: Path, net: Net, log: list[Closed], judgments: Path) -> Verdict:
    """What the gate says of a net when the planted one is the champion. The bounds of clicks are wide open."""
    replay = Replay(5_000)
    for closed in log:
        replay.add(closed)
    champion = shelf.opened(export(folder / "champion", Net(), {}, second=59))
    parent = champion.manifest.release
    candidate = export(folder / "exports", net, learned(net, Net(), log), seq=2, second=2, parent=parent)
    now = Situation(
        champion, replay.snapshot(), ROWS, 10**6, 1_000_000, True, frozenset([parent]), lambda: from_file(judgments)
    )
    wide = GateBounds(auc=1, log_loss=1e3, file_log_loss=1e3, calibration=1e6, stability=1e6, head_log_loss=1e3)
    return examine(manifests.read(candidate), 1, candidate, now, wide, FileBounds())


def written(folder: Path, judgments: list[Judged]) -> Path:
    path = folder / "judged.jsonl"
    lines = [
        {"query": one.query, "item": item, "grade": gain}
        for one in judgments
        for item, gain in zip(one.items, one.gains, strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_a_release_that_sinks_what_people_judged_good_is_refused(tmp_path: Path) -> None:
    log = searched(400)
    path = written(tmp_path, grades(log, feature=5))
    found = verdict_of(tmp_path, TRADED, log, path)
    assert [check.name for check in found.failed] == ["relevance"]
    assert f"over {QUERIES} queries" in found.failed[0].detail


def test_one_that_orders_them_as_well_passes_and_says_so(tmp_path: Path) -> None:
    log = searched(400)
    found = verdict_of(tmp_path, noisy(Net(), 0.005, 1), log, written(tmp_path, grades(log, feature=0)))
    assert found.passed, found.reason
    (check,) = [check for check in found.checks if check.name == "relevance"]
    assert check.detail.startswith("NDCG@10 0.")


def test_without_judgments_nothing_is_judged_by_them_and_that_is_said(tmp_path: Path) -> None:
    found = verdict_of(tmp_path, TRADED, searched(400), tmp_path / "judged.jsonl")
    assert found.passed, found.reason
    assert [check.detail for check in found.checks if check.name == "relevance"] == [
        "not judged: 0 queries, 30 are needed"
    ]


def test_judgments_that_cannot_be_read_stop_releases_and_say_where(tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    path.write_text('{"query": "lamp", "item": "a", "grade": 1}\n{"query": "lamp"\n')
    found = verdict_of(tmp_path, noisy(Net(), 0.005, 1), searched(400), path)
    assert not found.passed
    assert "judged.jsonl, line 2" in found.reason
