"""The rule, the ranks and the bounds of a replay's evaluation."""

import numpy as np
import pytest
from freshrank.v1 import events_pb2, ranking_pb2

from services.common.errors import NotFound
from services.demo.evaluate import RecentlyTouched, bootstrap, compare
from services.demo.loaders.steps import Ask, Stock, Tell


def touch(item: str, session: str = "s") -> events_pb2.Event:
    return events_pb2.Event(session_id=session, item_id=item)


def candidates(*items: str) -> list[ranking_pb2.Candidate]:
    return [ranking_pb2.Candidate(item_id=item) for item in items]


def ask(at: int, wanted: str, *items: str) -> Ask:
    shopper = ranking_pb2.Shopper(user_id="u", session_id="s")
    return Ask(at, shopper, candidates(*items), [touch(wanted)], wanted)


def answer(at: int, wanted: str, *items: str) -> dict[str, object]:
    return {"at_us": at, "wanted": wanted, "items": list(items), "scores": list(np.linspace(1, 0, len(items)))}


def test_the_rule_puts_what_was_touched_last_first_then_as_shown() -> None:
    rule = RecentlyTouched()
    rule.tell([touch("c"), touch("b"), touch("a", session="another")])
    assert rule.order("s", candidates("a", "b", "c", "d")) == ["b", "c", "a", "d"]


def test_only_the_second_half_counts_and_each_list_is_ranked_by_its_own_order() -> None:
    steps: list[Ask | Tell | Stock] = [ask(1, "a", "a", "b"), Tell(2, [touch("x")]), ask(3, "b", "a", "b")]
    found = compare(steps, [answer(1, "a", "b", "a"), answer(3, "b", "b", "a")])
    assert (found.requests, found.mrr, found.mrr_shown) == (1, 1.0, 0.5)
    assert found.mrr_rule == 0.5  # a was touched by the click before
    assert found.auc == 1.0


def test_a_log_without_answered_requests_is_not_found() -> None:
    with pytest.raises(NotFound):
        compare([ask(1, "a", "a", "b")], [])


def test_bootstrap_means_scatter_by_the_standard_error() -> None:
    values = np.random.default_rng(1).normal(0.01, 0.3, 2_000)
    means = bootstrap(values, draws=2_000)
    assert abs(means.mean() - values.mean()) < 0.001
    assert means.std() == pytest.approx(0.3 / np.sqrt(2_000), rel=0.1)
