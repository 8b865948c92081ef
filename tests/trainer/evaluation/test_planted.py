"""A shop with planted truth: what happens is what was planted, and what is measured is what is true."""

from functools import cache

import numpy as np
import pytest
from freshrank.v1.events_pb2 import Impression

from services.common import records
from services.common.errors import InvalidInput
from services.common.records import CLOSED, FLIP, INITIAL
from services.joiner.examples import Cause
from services.joiner.held import Action
from services.joiner.join import Joiner, JoinRules
from services.joiner.labels import Heads
from services.joiner.spill import Spill
from services.trainer.evaluation.deployments import compare
from services.trainer.evaluation.planted import oracle
from services.trainer.evaluation.planted.log import PlantedSource, number_of
from services.trainer.evaluation.planted.plan import CatalogueChange, FeatureShift, Plan, TasteShift, Traffic
from services.trainer.evaluation.planted.shop import START_US, Happened, happen
from services.trainer.evaluation.rehearsal import Outcome, Trial, rehearse

SMALL = Plan(seed=5, lists=300, listed=5, items=30, shoppers=12, segments=3, traffic=Traffic(delay_s=300.0))
LEARNED = Plan(
    seed=2, lists=2_200, listed=6, shoppers=20, items=40, segments=3, window_s=60, traffic=Traffic(delay_s=10.0)
)
SHIFTED_S = 1_200.0
SHIFTED = Plan(**{**vars(LEARNED), "changes": (TasteShift(SHIFTED_S, 180.0),)})
QUICK = {"model": "two_tower", "max_rows": 2_000, "retrieval_dim": 4, "warmup_impressions": 100, "admission": 1}


def rows_of(source: PlantedSource) -> list[dict[str, object]]:
    batch = source.read({0: (0, source.messages)})
    return [row for value in batch.messages[0] for row in records.decode(value).to_pylist()]


def random_scores(shop: Happened) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(1).random(shop.clicks.shape)


@cache
def outcome(learns: bool) -> tuple[Happened, Outcome]:
    source = PlantedSource(happen(SHIFTED))
    trial = Trial("tried", {**QUICK, "trigger": f"time({0.9 * SHIFTED_S})"}, learns)
    return source.happened, rehearse(trial, source, source.spec)


def known(learns: bool = True) -> oracle.Known:
    shop, found = outcome(learns)
    return oracle.known(shop, found.lists)


def test_the_order_of_the_truth_has_no_regret() -> None:
    shop = happen(SMALL)
    assert not oracle.regret(shop.clicks, shop.clicks).any()
    assert not oracle.regret(shop.clicks, shop.labelled).any(), "delays move no order"
    assert (oracle.regret(shop.clicks, random_scores(shop)) >= 0).all()


def test_regret_is_what_an_order_loses_in_expected_clicks() -> None:
    shop, scores = happen(SMALL), random_scores(happen(SMALL))
    for k in (0, 7):
        chosen = sorted(range(5), key=lambda n: -scores[k, n])[:2]
        expected = sum(sorted(shop.clicks[k])[-2:]) - sum(shop.clicks[k, chosen])
        assert oracle.regret(shop.clicks, scores, top=2)[k] == pytest.approx(expected)


def test_what_is_at_stake_is_what_a_random_order_loses() -> None:
    shop, chance = happen(SMALL), np.random.default_rng(0)
    lost = [oracle.regret(shop.clicks, chance.random(shop.clicks.shape)).mean() for _ in range(200)]
    assert np.mean(lost) == pytest.approx(oracle.at_stake(shop.clicks).mean(), rel=0.01)


def test_recovery_does_not_take_a_poorer_shop_for_a_better_order() -> None:
    stakes = np.repeat([1.0, 0.5], 100)
    found = oracle.recovery(np.arange(200.0), 0.4 * stakes, stakes, at_s=100, window_s=50)
    assert (found.before, found.jump, found.final) == pytest.approx((0.4, 0.4, 0.4))
    assert found.lost == pytest.approx(0)


def test_clicks_come_as_often_as_was_planted() -> None:
    shop = happen(Plan(seed=9, lists=20_000, traffic=Traffic(delay_s=400.0, swing=0.7, delay_swing=0.7)))
    bins = np.digitize(shop.clicks, np.quantile(shop.clicks, np.linspace(0.1, 0.9, 9)))
    for p, happened in ((shop.clicks, shop.clicked), (shop.labelled, shop.in_time)):
        for k in range(10):
            chosen = bins == k
            error = np.sqrt((p * (1 - p))[chosen].sum()) / chosen.sum()
            assert abs(happened[chosen].mean() - p[chosen].mean()) < 3.5 * error


def test_the_log_is_what_the_joiner_makes_of_the_same_traffic() -> None:
    source = PlantedSource(happen(SMALL))
    ours = [row for row in rows_of(source) if row["kind"] != CLOSED or row["time_us"] <= _last_event(source.happened)]
    theirs = _joined(source)
    names = ("kind", "time_us", "event_time_us", "impression_id", "user", "items", "labels", "weights", "impression")
    assert len(ours) == len(theirs) > 600
    for one, other in zip(ours, theirs, strict=True):
        assert {n: one[n] for n in names if n != "time_us"} == {n: other[n] for n in names if n != "time_us"}
        assert one["kind"] == CLOSED or one["time_us"] == other["time_us"]


def _last_event(shop: Happened) -> int:
    return int(max(shop.time_us[-1], (shop.time_us[:, None] + shop.delay_us)[shop.clicked].max()))


def _joined(source: PlantedSource) -> list[dict[str, object]]:
    """Lists and clicks through the joiner's own state machine."""
    shop = source.happened
    joiner = Joiner(JoinRules(Heads.parse("click=CLICK@10m")), Spill(None))
    shown = {row["impression_id"]: row["impression"] for row in rows_of(source) if row["kind"] == INITIAL}
    events = [(int(t), -1, k, 0) for k, t in enumerate(shop.time_us)]
    events += [(int(shop.time_us[k] + shop.delay_us[k, n]), 0, k, n) for k, n in np.argwhere(shop.clicked)]
    for offset, (time_us, kind, k, n) in enumerate(sorted(events)):
        cause, name, user = Cause(offset, 0, time_us, time_us), f"{k:032x}", f"shopper-{shop.shopper[k]}"
        joiner.advance(cause)
        if kind < 0:
            joiner.show(cause, shown[name], user, time_us, 0)
            continue
        item, issued = f"item-{shop.items[k, n]}", int(shop.time_us[k])
        joiner.act(cause, Action(2, time_us, time_us, user, item, name, issued, {}, offset, 0))
    return [row for value in joiner.rows.encode() for row in records.decode(value).to_pylist()]


def test_everything_comes_at_its_time_and_in_the_order_of_the_log() -> None:
    source = PlantedSource(happen(SMALL))
    rows, shop = rows_of(source), source.happened
    times = [row["time_us"] for row in rows]
    assert times == sorted(times)
    assert [row["src_offset"] for row in rows] == sorted({row["src_offset"] for row in rows})
    planted = sorted(int(shop.time_us[k] + shop.delay_us[k, n]) for k, n in np.argwhere(shop.in_time))
    assert [row["time_us"] for row in rows if row["kind"] == FLIP] == planted
    for row in rows:
        if row["kind"] == CLOSED:
            assert row["time_us"] == row["event_time_us"] + 600_000_000


def test_what_is_clicked_behind_the_window_is_never_labelled() -> None:
    source = PlantedSource(happen(SMALL))
    shop, rows = source.happened, rows_of(source)
    late = shop.clicked & (shop.delay_us >= 600_000_000)
    labels = np.array(
        [row["labels"] for row in sorted(rows, key=lambda r: r["impression_id"]) if row["kind"] == CLOSED]
    )
    assert late.any()
    assert not labels[late].any()
    share = late.sum() / shop.clicked.sum()
    assert share == pytest.approx(np.exp(-2), abs=3 * np.sqrt(0.12 / shop.clicked.sum()))


def test_flips_add_up_to_the_final_labels() -> None:
    source = PlantedSource(happen(SMALL))
    flipped, final = np.zeros((2, 300, 5), np.int64)
    for row in rows_of(source):
        k = number_of(str(row["impression_id"]))
        if row["kind"] == FLIP:
            (alone,) = Impression.FromString(row["impression"]).items
            flipped[k, alone.position] += 1
        elif row["kind"] == CLOSED:
            final[k] = row["labels"]
    assert final.sum() > 100
    assert np.array_equal(flipped, final)


def test_a_seed_gives_the_same_log_and_another_seed_another_one() -> None:
    first, second = (PlantedSource(happen(SMALL)).read({0: (0, 3)}) for _ in range(2))
    assert first == second
    assert first != PlantedSource(happen(Plan(**{**vars(SMALL), "seed": 6}))).read({0: (0, 3)})


def test_until_it_comes_a_change_changes_nothing() -> None:
    changes = (TasteShift(100.0), CatalogueChange(150.0), FeatureShift(200.0))
    shop, plain = happen(Plan(**{**vars(SMALL), "changes": changes})), happen(SMALL)
    before = shop.time_us < START_US + 100_000_000
    for name in ("time_us", "shopper", "items", "clicks", "clicked", "delay_us", "price_factor"):
        assert np.array_equal(getattr(shop, name)[before], getattr(plain, name)[before])
    assert not np.allclose(shop.clicks[~before], plain.clicks[~before])


def test_a_catalogue_change_brings_so_many_new_items() -> None:
    shop = happen(Plan(**{**vars(SMALL), "changes": (CatalogueChange(100.0, 0.4),)}))
    behind = shop.time_us >= START_US + 100_000_000
    offered, gone = set(shop.items[behind].ravel()), set(range(30)) - set(shop.items[behind].ravel())
    assert len(offered) == 30
    assert len([item for item in offered if item >= 30]) == len(gone) == 12
    assert shop.items[~behind].max() < 30


def test_turned_tastes_match_by_the_cosine_of_the_angle() -> None:
    plain = Plan(**{**vars(SMALL), "appeal": 0.0, "price": 0.0, "bias": 0.0})
    shop = happen(Plan(**{**vars(plain), "changes": (TasteShift(100.0, 180.0),)}))
    behind = shop.time_us >= START_US + 100_000_000
    assert np.allclose(shop.clicks[behind], 1 - happen(plain).clicks[behind]), "who liked it, dislikes it"
    few = happen(Plan(**{**vars(plain), "changes": (TasteShift(100.0, 180.0, share=0.0),)}))
    assert np.array_equal(few.clicks, happen(plain).clicks)


def test_a_feature_shift_moves_what_is_served_and_not_what_is_true() -> None:
    shop = happen(Plan(**{**vars(SMALL), "changes": (FeatureShift(100.0, 7.0),)}))
    assert np.array_equal(shop.clicks, happen(SMALL).clicks)
    assert set(shop.price_factor) == {1.0, 7.0}


def test_traffic_moves_in_waves() -> None:
    traffic = Traffic(lists_per_s=2.0, delay_s=50.0, swing=0.5, delay_swing=0.5, period_s=400.0)
    shop = happen(Plan(seed=1, lists=40_000, traffic=traffic))
    seconds = (shop.time_us - START_US) / 1e6
    assert seconds[-1] == pytest.approx(20_000, rel=0.05)
    assert np.allclose(np.log(traffic.mean_delay(seconds) / 50).max(), 0.5, atol=0.001)
    slow = np.cos(2 * np.pi * seconds / 400) > 0.99
    assert shop.delay_us[slow].mean() / 1e6 == pytest.approx(50 * np.exp(0.5), rel=0.03)


def test_excess_log_loss_is_the_expected_loss_less_that_of_the_truth() -> None:
    p, q = np.array([[0.2, 0.7]]), np.array([[0.3, 0.5]])

    def expected(scores: np.ndarray) -> float:  # type: ignore[type-arg]
        return float(-(p * np.log(scores) + (1 - p) * np.log(1 - scores)).mean())

    assert oracle.excess_log_loss(p, q)[0] == pytest.approx(expected(q) - expected(p))
    assert oracle.calibration(p, q) == pytest.approx(0.8 / 0.9)


def test_recovery_is_the_first_window_that_is_back_at_the_level_before() -> None:
    seconds = np.arange(400.0)
    regrets = np.select([seconds < 200, seconds < 290], [1.0, 3.0], 1.1)
    ones = np.ones(400)
    found = oracle.recovery(seconds, regrets, ones, at_s=200, window_s=50, within=0.2)
    assert (found.before, found.jump, found.final) == (1.0, 3.0, pytest.approx(1.1))
    # Of 50 lists at most 2 may still be of the bad ones: (2 * 3 + 48 * 1.1) / 50 <= 1.2 < (3 * 3 + 47 * 1.1) / 50.
    assert found.seconds == 290 + 48 - 200
    assert found.lost == pytest.approx(90 * 2 + 110 * 0.1)
    assert oracle.recovery(seconds, ones, ones, 200, 50).seconds == 0
    assert oracle.recovery(seconds, regrets, ones, 200, 50, within=0.05).seconds is None
    with pytest.raises(ValueError, match="holds no list"):
        oracle.recovery(seconds, regrets, ones, at_s=500, window_s=50)


def test_what_learns_beats_a_random_order() -> None:
    settled = known().since(800, SHIFTED_S)
    chance = np.random.default_rng(0).random(settled.clicks.shape)
    assert settled.regret().mean() < 0.6 * oracle.regret(settled.clicks, chance).mean()


def test_a_shift_costs_at_once_and_what_learns_recovers_but_what_is_frozen_does_not() -> None:
    online, frozen = (
        oracle.recovery(way.seconds, way.regret(), way.at_stake(), SHIFTED_S, 200, within=0.5)
        for way in (known(learns=True), known(learns=False))
    )
    assert online.jump > 2 * online.before
    assert frozen.jump > 2 * frozen.before
    assert online.final < 0.6 * online.jump
    assert frozen.final > 0.9 * frozen.jump
    assert frozen.seconds is None
    assert frozen.lost > 1.2 * online.lost


def test_one_pass_judges_a_trigger_as_a_pass_of_its_own() -> None:
    source, seldom = PlantedSource(happen(SMALL)), "volume(150)"
    found = compare(Trial("tried", QUICK), {"seldom": seldom, "often": "time(30)"}, source)
    alone = rehearse(Trial("tried", {**QUICK, "trigger": seldom}), source, source.spec, lags=(0.0,))
    seldom_served = found.deployments["seldom"]
    assert len(seldom_served.releases) == alone.releases < len(found.deployments["often"].releases)
    assert seldom_served.releases[0].reason == seldom
    assert len(seldom_served.served.judge.lists) == len(alone.late[0.0]) > 50
    for one, other in zip(seldom_served.served.judge.lists, alone.late[0.0], strict=True):
        assert np.array_equal(one.scores, other.scores)


def test_what_releases_change_is_not_judged_in_one_pass() -> None:
    with pytest.raises(InvalidInput, match="strategy"):
        compare(Trial("tried", {"strategy": "fusion(0.5)"}), {}, PlantedSource(happen(SMALL)))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"lists": 0}, "plan"),
        ({"items": 4}, "plan"),
        ({"window_s": 0.0}, "window_s"),
        ({"traffic": Traffic(delay_s=0.0)}, "traffic"),
        ({"changes": (TasteShift(2.0), TasteShift(1.0))}, "changes"),
        ({"changes": (CatalogueChange(1.0, 1.5),)}, "share"),
        ({"changes": (FeatureShift(1.0, 0.0),)}, "factor"),
    ],
)
def test_a_shop_that_cannot_be_is_refused(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        Plan(**{**vars(SMALL), **wrong})
    assert raised.value.field == field
