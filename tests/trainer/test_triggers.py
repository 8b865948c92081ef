"""When releases are made: each trigger alone, several as one, and the line of text that describes them."""

import numpy as np
import pytest

from services.trainer.drift import DETECTORS, DriftTrigger
from services.trainer.expression import parse
from services.trainer.settings import TrainerSettings
from services.trainer.triggers import AtLeast, CostTrigger, PerformanceTrigger, TimeTrigger, Trigger, VolumeTrigger

SECOND = 1_000_000


def losses(seed: int, count: int, mean: float = 0.15) -> list[float]:
    """Log-losses as of impressions: most are small, some large."""
    return [float(x) for x in np.random.default_rng(seed).gamma(1.5, mean / 1.5, count)]


def values_until(trigger: Trigger, stream: list[float]) -> int | None:
    """How many values it takes until the trigger is due."""
    for k, value in enumerate(stream):
        trigger.see([value])
        if trigger.due(0, k):
            return k + 1
    return None


def test_any_of_several_is_whichever_comes_first() -> None:
    trigger = AtLeast(1, [TimeTrigger(10), VolumeTrigger(100)])
    assert not trigger.due(0, 0)
    assert not trigger.due(20 * SECOND, 0), "nothing was learned"
    assert trigger.due(20 * SECOND, 1) == "time(10)"
    trigger.fired(20 * SECOND, 1)
    assert not trigger.due(21 * SECOND, 100)
    assert trigger.due(21 * SECOND, 101) == "volume(100)"
    assert trigger.due(40 * SECOND, 101) == "time(10) and volume(100)"


@pytest.mark.parametrize(("several", "needed"), [("any", 1), ("majority", 2), ("all", 3)])
def test_several_are_due_when_enough_of_them_are(several: str, needed: int) -> None:
    trigger = parse(f"{several}(volume(10), volume(20), volume(30))")
    trigger.due(0, 0)
    assert [bool(trigger.due(0, learned)) for learned in (5, 10, 20, 30)] == [k >= needed for k in range(4)]


def test_a_majority_of_two_is_both() -> None:
    trigger = parse("majority(volume(10), volume(20))")
    trigger.due(0, 0)
    assert not trigger.due(0, 10)
    assert trigger.due(0, 20)


def test_a_dear_update_waits_for_more_examples() -> None:
    trigger = CostTrigger(0.5)
    trigger.due(0, 0)
    for cost, fewest in ((2.0, 4_000), (0.1, 200)):
        trigger.fired(0, 0, cost)
        assert not trigger.due(0, fewest - 1)
        assert trigger.due(0, fewest)


def test_performance_is_compared_with_the_best_since_the_release() -> None:
    trigger = PerformanceTrigger(0.2, window=100)
    assert values_until(trigger, [0.1] * 500 + [0.125] * 75) is None, "the window is worse by less than a fifth"
    assert values_until(trigger, [0.125] * 100) in (5, 6)
    trigger.fired(0, 0)
    assert values_until(trigger, [0.125] * 300) is None, "what is usual now is the new measure"


@pytest.mark.parametrize("detector", list(DETECTORS))
def test_a_drift_is_told_within_hundreds_of_impressions(detector: str) -> None:
    for seed in range(5):
        trigger = DriftTrigger(detector)
        assert values_until(trigger, losses(seed, 3_000)) is None
        taken = values_until(trigger, losses(seed + 100, 2_000, 0.15 * 1.6))
        assert taken is not None
        assert taken < 600
        trigger.fired(0, 0)
        assert not trigger.due(0, 0)


@pytest.mark.parametrize("detector", list(DETECTORS))
def test_without_a_drift_none_is_told(detector: str) -> None:
    """A hundred thousand impressions are a day of a shop of one answer a second."""
    assert values_until(DriftTrigger(detector), losses(7, 100_000)) is None


@pytest.mark.parametrize("detector", list(DETECTORS))
def test_losses_that_fall_are_no_drift(detector: str) -> None:
    trigger = DriftTrigger(detector)
    assert values_until(trigger, losses(1, 3_000) + losses(2, 3_000, 0.05)) is None


def test_a_line_of_text_describes_a_trigger() -> None:
    trigger = parse(" any(time(30), all(volume(1000), performance(0.1, 50)), cost(1.5)) ")
    trigger.due(0, 0)
    trigger.fired(0, 0, 60.0)
    assert not trigger.due(29 * SECOND, 10)
    assert trigger.due(30 * SECOND, 10) == "time(30)"
    trigger.see([0.1] * 50 + [0.2] * 50)
    assert trigger.due(SECOND, 1000) == "volume(1000) and performance(0.1, 50)"
    assert parse("batch()").due(0, 0) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time(30", "cannot be read"),
        ("1 + 1", "is no call, such as"),
        ("soon()", "soon is none of any"),
        ("__import__('os')", "__import__ is none of any"),
        ("any.all(time(3))", "is no call"),
        ("any()", "needs a trigger at least"),
        ("any(30)", "30 is no call, such as"),
        ("time()", "time takes 1 to 1 values, not 0"),
        ("time(seconds=30)", "is no call"),
        ("time(0)", "from 0.1 to 3.1536e+07 as seconds, not 0"),
        ("time(True)", "not True"),
        ("time('30')", "not '30'"),
        ("volume(1e400)", "volume needs a number"),
        ("drift(kswin)", "one of adwin, page_hinkley, not kswin"),
        ("performance(0.1, 5)", "from 10 to 1e+06 as impressions, not 5"),
        ("(" * 500, "cannot be read"),
    ],
)
def test_other_text_is_refused_with_a_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="trigger\\n.*") as caught:
        TrainerSettings(trigger=text)
    assert said in str(caught.value)


def test_more_clicks_alone_are_no_drift() -> None:
    """A click rate that doubles raises losses; while the scores are right, nothing lies above what they expect."""
    chance = np.random.default_rng(4)
    by_surplus, by_loss = DriftTrigger("adwin"), DriftTrigger("adwin")
    for rate in (0.03, 0.12):
        p = np.full((4_000, 10), rate)
        clicks = chance.random(p.shape) < p
        told = -np.where(clicks, np.log(p), np.log1p(-p)).mean(axis=1)
        expected = -(p * np.log(p) + (1 - p) * np.log1p(-p)).mean(axis=1)
        by_loss.see(told.tolist())
        by_surplus.see(told.tolist(), (told - expected).tolist())
    assert by_loss.due(0, 1) == "drift(adwin)"
    assert by_surplus.due(0, 1) == ""
