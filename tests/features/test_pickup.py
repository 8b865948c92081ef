"""New and changed definitions are taken up while events go on, filled from below, and shown when whole."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.common.definitions import FeatureDefinition
from services.common.errors import FreshrankError, InvalidInput, TemporaryError
from services.common.metrics import Metrics
from services.common.plans import History, Plan, RankingPlan, ViewPlan
from services.common.records import FORGET, Message
from services.features.by_user import UserFold
from services.features.fold import ViewsFold
from services.features.meters import Meters
from services.features.pickup import Pickup, named_ids
from tests.features.makers import HOUR, MINUTE, START, Row, event, feature, message, messages, tick, view_of
from tests.features.test_functions import logs
from tests.features.test_restart import COUNT, plain, whole_plan

NOWHERE = History("v:i", "v:k", "v:t")


def never(_: int) -> bool:
    """No release names a superseded definition."""
    return False


def fill(fold: ViewsFold, below: list[Message]) -> None:
    """Back-fill everything that lacks its past."""
    for view, group in fold.unfilled():
        filler = fold.filler(view, group)
        for one in below:
            if one.offset < group.fill_below:
                filler.apply([one])
        assert fold.fill(view, group, filler)


def last_values(fold: ViewsFold, sent: list[Message]) -> dict[Any, Any]:
    """What is published in the end."""
    found: dict[Any, Any] = {}
    for one in sent:
        found |= {path: value for path, (value, _, _) in plain(fold.apply([one])).items()}
    return found


@given(log=logs, cut=st.integers(0, 6), late=st.integers(0, 6))
@settings(max_examples=8)
def test_features_added_later_become_what_they_would_have_been(log: list[list[Row]], cut: int, late: int) -> None:
    sent = messages([*log, [tick(START + 3 * HOUR)], [tick(START + 3 * HOUR + 1)]])
    whole = UserFold(whole_plan(), 0, 1)
    want = last_values(whole, sent)
    fold = UserFold([view_of(COUNT)], 0, 1)
    cut = min(cut, len(sent) - 2)
    filled = min(cut + late, len(sent) - 2)
    last_values(fold, sent[:cut])
    fold.replan(whole_plan(), never)
    last_values(fold, sent[cut:filled])
    fill(fold, sent)
    got = last_values(fold, sent[filled:])
    live = {(view, key) for view, _, key in got}
    assert {path: repr(got[path]) for path in got} == {
        path: repr(value) for path, value in want.items() if (path[0], path[2]) in live
    }
    held = [len(state.keys) for state in fold.views.values()]
    assert held == [len(state.keys) for state in whole.views.values()]


def test_a_new_feature_is_null_until_it_is_filled() -> None:
    added = feature("count", "item", "INT64", name="g")
    fold = UserFold([view_of(COUNT)], 0, 1)
    sent = messages([[event(START, item="i")], [event(START + 1, item="i")], [event(START + 2, item="i")]])
    fold.apply([sent[0]])
    fold.replan([view_of(COUNT, added)], never)
    shown = last_values(fold, [sent[1]])
    assert shown == {("stats", "f", ("u1",)): 2, ("stats", "g", ("u1",)): None}
    fill(fold, sent)
    assert last_values(fold, [sent[2]])["stats", "g", ("u1",)] == 3


def test_filled_values_are_published_without_another_event() -> None:
    added = feature("count", "item", "INT64", name="g")
    fold = UserFold([view_of(COUNT)], 0, 1)
    sent = messages([[event(START, item="i")], [tick(START + 1)]])
    fold.apply([sent[0]])
    fold.replan([view_of(COUNT, added)], never)
    fill(fold, sent)
    assert last_values(fold, [sent[1]])["stats", "g", ("u1",)] == 1


def test_a_changed_definition_goes_on_beside_the_new_one_while_a_release_names_it() -> None:
    changed = replace(COUNT, window_us=2 * HOUR)
    fold = UserFold([view_of(COUNT)], 0, 1)
    sent = messages([[event(START)], [tick(START + HOUR)], [tick(START + HOUR + 1)]])
    fold.apply([sent[0]])
    fold.replan([view_of(changed)], lambda feature_id: feature_id == COUNT.id)
    fill(fold, sent)
    old = ("stats", f"f@{COUNT.hash8}", ("u1",))
    assert last_values(fold, [sent[1]]) == {old: 0, ("stats", "f", ("u1",)): 1}
    fold.replan([view_of(changed)], never)
    assert old not in last_values(fold, [sent[2]])


def test_a_definition_no_release_names_stops_when_it_changes() -> None:
    fold = UserFold([view_of(COUNT)], 0, 1)
    fold.replan([view_of(replace(COUNT, window_us=2 * HOUR))], never)
    assert [field for _, field, _ in last_values(fold, messages([[event(START)]]))] == ["f"]


def test_a_removed_view_stops() -> None:
    other = feature("count", value_type="INT64", view="other")
    fold = UserFold([view_of(COUNT), view_of(other)], 0, 1)
    fold.apply(messages([[event(START)]]))
    fold.replan([view_of(COUNT)], never)
    assert {view for view, _, _ in last_values(fold, [message(1, [event(START + 1)])])} == {"stats"}


def test_what_is_forgotten_during_a_fill_does_not_come_back() -> None:
    added = feature("count_distinct", "item", "INT64", name="g")
    fold = UserFold([view_of(COUNT)], 0, 1)
    sent = messages([[event(START, item="i", user="u1"), event(START, item="i", user="u2")]])
    fold.apply(sent)
    fold.replan([view_of(COUNT, added)], never)
    fold.apply([message(1, [{"kind": FORGET, "time_us": START + MINUTE, "user": "u1", "received_us": 0}])])
    again = UserFold([], 0, 1)
    again.restore(fold.snapshot())
    fill(again, sent)
    shown = last_values(again, [message(2, [tick(START + 2 * MINUTE)])])
    assert shown["stats", "g", ("u2",)] == 1
    assert shown.get(("stats", "g", ("u1",)), 0) == 0


def test_a_fill_goes_on_after_a_restart() -> None:
    added = feature("count", "item", "INT64", name="g")
    fold = UserFold([view_of(COUNT)], 0, 1)
    sent = messages([[event(START, item="i")], [event(START + 1, item="i")]])
    fold.apply([sent[0]])
    fold.replan([view_of(COUNT, added)], never)
    fold.apply([sent[1]])
    again = UserFold([], 0, 1)
    again.restore(fold.snapshot())
    again.replan([view_of(COUNT, added)], never)
    assert [group.fill_below for _, group in again.unfilled()] == [1]
    fill(again, sent)
    assert last_values(again, [message(2, [tick(START + 2)])])["stats", "g", ("u1",)] == 2


def plan_of(*features: FeatureDefinition) -> Plan:
    """A plan of one view."""
    return Plan("shop", (view_of(*features),), RankingPlan("ranking@0", (), (), NOWHERE, (), ()), NOWHERE)


class Registry:
    """A registry whose answer tests set."""

    def __init__(self, answer: Plan | FreshrankError) -> None:
        self.answer = answer

    def load(self) -> Plan:
        """The answer, or the error."""
        if isinstance(self.answer, FreshrankError):
            raise self.answer
        return self.answer


class Past:
    """A log in memory."""

    def __init__(self, sent: list[Message]) -> None:
        self.sent = sent

    def below(self, topic: str, partition: int, end: int) -> Iterator[list[Message]]:
        """One message at a time."""
        yield from ([one] for one in self.sent if one.offset < end)


def pickup_of(registry: Registry, past: list[Message], fold: ViewsFold, releases: Path) -> Pickup:
    """A pick-up of one fold."""
    meters = Meters(Metrics("features", CollectorRegistry()))
    return Pickup(registry, Past(past), releases, lambda: {("interactions", 0): fold}, meters)


async def test_the_running_plan_stays_when_the_registry_holds_a_wrong_one(tmp_path: Path) -> None:
    fold = UserFold([view_of(COUNT)], 0, 1)
    registry = Registry(plan_of(COUNT))
    pickup = pickup_of(registry, [], fold, tmp_path)
    registry.answer = InvalidInput("views.py: stats:g", "unknown_function", "there is no function 'median'")
    await pickup.look()
    assert pickup.refusal == "views.py: stats:g: there is no function 'median'"
    assert pickup.plan == plan_of(COUNT)
    assert last_values(fold, messages([[event(START)]])) == {("stats", "f", ("u1",)): 1}
    registry.answer = TemporaryError("away")
    await pickup.look()
    registry.answer = plan_of(COUNT)
    await pickup.look()
    assert pickup.refusal == ""


async def test_a_new_plan_is_taken_and_filled(tmp_path: Path) -> None:
    fold = UserFold([view_of(COUNT)], 0, 1)
    sent = messages([[event(START, item="i")]])
    fold.apply(sent)
    registry = Registry(plan_of(COUNT))
    pickup = pickup_of(registry, sent, fold, tmp_path)
    registry.answer = plan_of(COUNT, feature("count", "item", "INT64", name="g"))
    await pickup.look()
    await pickup.fill()
    assert last_values(fold, [message(1, [tick(START + 1)])])["stats", "g", ("u1",)] == 1


async def test_a_superseded_definition_stops_when_its_last_release_is_gone(tmp_path: Path) -> None:
    manifest = tmp_path / "r1" / "manifest.json"
    manifest.parent.mkdir()
    spec = {"user_features": [{"id": COUNT.id, "name": "f", "view": "stats"}], "item_features": []}
    manifest.write_text(json.dumps({"spec": spec}))
    assert named_ids(tmp_path) == {COUNT.id}
    fold = UserFold([view_of(COUNT)], 0, 1)
    registry = Registry(plan_of(COUNT))
    pickup = pickup_of(registry, [], fold, tmp_path)
    registry.answer = plan_of(replace(COUNT, window_us=2 * HOUR))
    await pickup.look()
    old = f"f@{COUNT.hash8}"
    assert old in {field for _, field, _ in last_values(fold, messages([[event(START)]]))}
    manifest.unlink()
    await pickup.look()
    assert old not in {field for _, field, _ in last_values(fold, [message(1, [event(START + 1)])])}


def test_a_manifest_that_cannot_be_read_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / "manifest.json").write_text("{")
    assert named_ids(tmp_path) == set()


@pytest.mark.parametrize("views", [[], [view_of(COUNT)]], ids=["no view", "one view"])
def test_a_tick_alone_publishes_nothing(views: list[ViewPlan]) -> None:
    assert UserFold(views, 0, 1).apply([message(0, [tick(START)])]).views == []
