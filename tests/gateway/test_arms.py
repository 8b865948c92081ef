"""Arms side by side: each shopper is answered by the arm that chance gave: its release, its rows, its vectors."""

import json
from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.events_pb2 import Context
from freshrank.v1.models_pb2 import ArmShare, ArmSplit, ItemRow, PromoteArmRequest, Route, StartTrialRequest

from services.common.arms import SPLIT_KEY, Share, Split
from services.common.errors import InvalidInput, NotFound
from services.gateway import catalogue, ladder, retrieve
from services.gateway.calls import Caller, RankCall, RecommendCall
from services.gateway.candidates import Wanted
from services.gateway.catalogue import Tower
from services.gateway.impressions import to_message
from services.gateway.kafka import with_record
from services.gateway.operate import Operations
from services.gateway.releases import Routes, worlds_of
from tests.gateway.shop import NOW, Shop, budget, release

HALF = Split("main", "t1", (Share("gentle", 0.5),), 60_000_000)
USERS = [f"user{n}" for n in range(40)]


def routes(split: Split = HALF, gentle: str = "r2-gentle") -> Routes:
    """Two arms, each with a release and row slots of its own."""
    return Routes(
        {
            "main": Route(champion="r1", slot="a", epoch=1, arm="main"),
            "gentle": Route(champion=gentle, slot="c", epoch=4, arm="gentle"),
        },
        split,
    )


def shop_of(folder: Path, found: Routes) -> Shop:
    shop = Shop(folder)
    rows = [(f"r|c|i{n}".encode(), ItemRow(row=[-n, 0, 0, 7], epoch=4, seq=3).SerializeToString()) for n in range(30)]
    shop.writer.apply(rows)
    releases = {name: release(name, shop.plan) for name in found.releases}
    shop.state.worlds = worlds_of(shop.plan, found, releases)
    champions = [w.champion for w in shop.state.worlds.arms.values() if w.champion]
    towers = [Tower(s.release.name, s.release.matrices, s.rows) for s in champions]
    shop.table.refresh()
    shop.state.picture = catalogue.paint(shop.table, shop.state.picture, towers, retrieve.popularity(shop.plan))
    return shop


def ranked(user: str, now_us: int = NOW) -> RankCall:
    return RankCall(Caller(user, "visit", Context()), "rank", Wanted.of(["i1", "i20", "i5"]), now_us)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return shop_of(tmp_path, routes())


async def test_each_shopper_is_answered_by_the_arm_chance_gave_with_its_rows(shop: Shop) -> None:
    for user in USERS:
        arm = HALF.arm_of(user, NOW)
        answer = await shop.ranker.rank(ranked(user), budget())
        message = to_message(shop.served[-1])
        assert (answer.arm, answer.release) == (arm, {"main": "r1", "gentle": "r2-gentle"}[arm])
        assert (message.arm, message.slot, message.epoch) == (arm, *{"main": ("a", 1), "gentle": ("c", 4)}[arm])
        assert shop.scorer.calls[-1][1]["row"][0, 0, 3] == (7 if arm == "gentle" else 0)
        assert shop.store.asked[-1].row_slot.name == message.slot
    assert {HALF.arm_of(user, NOW) for user in USERS} == {"main", "gentle"}


async def test_a_shopper_stays_for_the_sticky_time_and_chance_is_asked_again_after_it(shop: Shop) -> None:
    start = NOW // HALF.sticky_us * HALF.sticky_us
    first = [(await shop.ranker.rank(ranked(user, start), budget())).arm for user in USERS]
    last = [(await shop.ranker.rank(ranked(user, start + HALF.sticky_us - 1), budget())).arm for user in USERS]
    later = [(await shop.ranker.rank(ranked(user, start + HALF.sticky_us), budget())).arm for user in USERS]
    assert first == last != later


async def test_recommendations_are_retrieved_by_the_arms_own_vectors(shop: Shop) -> None:
    picture = shop.state.picture
    assert picture is not None
    assert set(picture.vectors) == {"r1", "r2-gentle"}
    assert not np.allclose(picture.vectors["r1"].values, picture.vectors["r2-gentle"].values)
    call = RecommendCall(Caller("ann", "visit", Context()), "home", 5, NOW)
    arm = HALF.arm_of("ann", NOW)
    assert (await shop.ranker.recommend(call, budget())).arm == arm


async def test_a_challenger_that_does_not_answer_falls_back_to_the_incumbent_and_says_so(shop: Shop) -> None:
    shop.scorer.failing = {"r2-gentle"}
    user = next(user for user in USERS if HALF.arm_of(user, NOW) == "gentle")
    answer = await shop.ranker.rank(ranked(user), budget())
    assert (answer.release, answer.arm, answer.rung) == ("r1", "gentle", ladder.LAST_RELEASE)


async def test_an_arm_that_serves_nothing_leaves_its_shoppers_to_the_incumbent(tmp_path: Path) -> None:
    shop = shop_of(tmp_path, routes(gentle=""))
    assert {(await shop.ranker.rank(ranked(user), budget())).arm for user in USERS} == {"main"}


async def test_another_incumbent_answers_everybody(tmp_path: Path) -> None:
    shop = shop_of(tmp_path, routes(Split("gentle")))
    assert {(await shop.ranker.rank(ranked(user), budget())).release for user in USERS} == {"r2-gentle"}


def test_records_of_the_topic_are_put_together_by_key() -> None:
    found = Routes()
    split = ArmSplit(
        incumbent="main", trial="t1", challengers=[ArmShare(arm="gentle", share=0.5)], sticky_us=60_000_000
    )
    for key, value in (
        (b"route", Route(champion="r1").SerializeToString()),
        (b"route-gentle", Route(champion="r2-gentle", arm="gentle").SerializeToString()),
        (SPLIT_KEY, split.SerializeToString()),
        (b"route", Route(champion="r3", arm="main").SerializeToString()),
    ):
        found = with_record(found, key, value)
    assert ({arm: route.champion for arm, route in found.arms.items()}, found.split) == (
        {"main": "r3", "gentle": "r2-gentle"},
        HALF,
    )


def test_a_record_of_an_earlier_term_changes_nothing() -> None:
    found = Routes()
    for key, message in (
        (b"route", Route(champion="r2", arm="main", term=7)),
        (b"route", Route(champion="r9", arm="main", term=6)),
        (b"route-gentle", Route(champion="r2-gentle", arm="gentle", term=3)),
        (SPLIT_KEY, ArmSplit(incumbent="gentle", term=7)),
        (SPLIT_KEY, ArmSplit(incumbent="main", term=6)),
    ):
        found = with_record(found, key, message.SerializeToString())
    assert {arm: route.champion for arm, route in found.arms.items()} == {"main": "r2", "gentle": "r2-gentle"}
    assert found.split.incumbent == "gentle"
    found = with_record(found, b"route", Route(champion="r3", arm="main", term=8).SerializeToString())
    assert found.arms["main"].champion == "r3"


@pytest.fixture
def operations(shop: Shop, tmp_path: Path) -> Operations:
    return Operations(tmp_path, shop.sends, shop.intake, lambda: shop.state.worlds, lambda: "c1")


def test_the_arms_are_told_with_the_trial_as_the_publisher_wrote_it_down(
    operations: Operations, tmp_path: Path
) -> None:
    assert (operations.arms().incumbent, list(operations.arms().arms)) == ("main", ["gentle", "main"])
    standing = {"arm": "gentle", "share": 0.5, "state": "running", "reason": "", "figures": {"lift": 0.01}}
    data = {"terms": {"trial": "t1", "started_us": 5}, "ended_us": 0, "standings": [standing]}
    folder = tmp_path / "snapshots" / "publisher"
    folder.mkdir(parents=True)
    (folder / "arms.json").write_text(json.dumps(data))
    found = operations.arms()
    assert (found.trial, found.started_us, found.challengers[0].figures["lift"]) == ("t1", 5, 0.01)


@pytest.mark.parametrize(("challengers", "error"), [([], InvalidInput), (["nobody"], NotFound), ([""], InvalidInput)])
async def test_a_trial_of_nobody_is_refused_without_a_command(
    operations: Operations, shop: Shop, challengers: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await operations.start_trial(StartTrialRequest(challengers=challengers), 0.1)
    assert not shop.sends.commands


@pytest.mark.parametrize(("arm", "error"), [("", InvalidInput), ("nobody", NotFound)])
async def test_nobody_is_promoted_without_a_command(
    operations: Operations, shop: Shop, arm: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await operations.promote_arm(PromoteArmRequest(arm=arm), 0.1)
    assert not shop.sends.commands
