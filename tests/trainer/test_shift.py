"""What has moved: the stability index, the trigger that watches inputs and labels, and releases that wait."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from services.trainer.distributions import (
    CANDIDATES,
    LABEL,
    Comparison,
    Reference,
    Sample,
    Window,
    drawn,
    stability_index,
)
from services.trainer.expression import parse
from services.trainer.shift import ShiftTrigger
from services.trainer.slices import LEAST, Hold, HoldBounds
from services.trainer.triggers import TimeTrigger
from tests.trainer.arm import Recorder, arm
from tests.trainer.streams import STEP, Stream
from tests.trainer.world import FileSource, Shop

SECOND = 1_000_000


def feed(watcher: ShiftTrigger | Hold | Comparison, stream: Stream, impressions: int) -> None:
    for _ in range(impressions // STEP):
        watcher.watch(stream.step())


def taken(trigger: ShiftTrigger, stream: Stream, most: int) -> tuple[int, str] | None:
    """Impressions until it is due, and what it says."""
    for k in range(most // STEP):
        trigger.watch(stream.step())
        if reason := trigger.due(0, 0):
            return (k + 1) * STEP, reason
    return None


def column(values: list[float]) -> Sample:
    user = np.array(values, np.float32)[:, None]
    return Sample(("x",), user, np.zeros((len(values), 0), np.float32))


def index(older: list[float], newer: list[float]) -> float:
    reference, sample = Reference(column(older)), column(newer)
    return reference.moved(reference.count(sample), 0, len(sample)).index


def test_the_index_is_that_of_a_hand_computed_case() -> None:
    """Half a count is added to 60, 30, 10 and to 30, 60, 10; the empty bin does not exist."""
    e, a = [60.5 / 101.5, 30.5 / 101.5, 10.5 / 101.5], [30.5 / 101.5, 60.5 / 101.5, 10.5 / 101.5]
    by_hand = sum((y - x) * math.log(y / x) for x, y in zip(e, a, strict=True))
    assert by_hand == pytest.approx(2 * (30 / 101.5) * math.log(60.5 / 30.5))
    assert stability_index(np.array([60, 30, 10, 0]), np.array([30, 60, 10, 0])) == pytest.approx(by_hand)


def test_the_index_is_symmetric_and_none_of_equal_samples() -> None:
    one, other = np.array([[5, 0, 9], [1, 2, 3]]), np.array([[2, 7, 9], [1, 2, 3]])
    np.testing.assert_allclose(stability_index(one, other), stability_index(other, one))
    assert stability_index(one, other)[1] == 0 < stability_index(one, other)[0]


def test_values_fall_into_tenths_of_the_older_sample() -> None:
    older = [float(k) for k in range(100)]
    reference = Reference(column(older))
    assert reference.count(column(older))[0].tolist() == [0, *[10] * 10, 0, 0]
    assert reference.count(column([-1.0, 0.0, 9.5, 10.0, 99.0, 99.5, math.nan]))[0].tolist() == [
        1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1,
    ]  # fmt: skip


@pytest.mark.parametrize("newer", [[5.0] * 100, [-5.0] * 100, [math.nan] * 100, [0.0] * 50 + [1e-3] * 50])
def test_a_feature_that_never_varied_is_seen_to_change(newer: list[float]) -> None:
    assert index([0.0] * 100, [0.0] * 100) == 0
    assert index([0.0] * 100, newer) > 1


def test_chance_alone_gives_what_chi_squared_says() -> None:
    """Twelve bins and no missing ones, nearly: ten tenths and what lies beyond."""
    chance = np.random.default_rng(0)
    found = [index(chance.normal(size=500).tolist(), chance.normal(size=500).tolist()) for _ in range(200)]
    assert np.mean(found) == pytest.approx(9 * (1 / 500 + 1 / 500), rel=0.15)


def test_a_window_holds_the_newest_impressions() -> None:
    window, samples = Window(50), [column([float(k)] * 20) for k in range(5)]
    gone = [left for sample in samples for left in window.add(sample)]
    assert gone == samples[:2]
    assert len(window) == 60
    assert window.joined().user[:, 0].tolist() == [2.0] * 20 + [3.0] * 20 + [4.0] * 20


def test_counts_that_come_and_go_are_those_of_the_windows() -> None:
    comparison, stream, older, newer = Comparison(500, 500), Stream(1), Window(500), Window(500)
    for window, steps in ((older, 25), (newer, 60)):
        for sample in (stream.step() for _ in range(steps)):
            window.add(sample)
            comparison.watch(sample)
    reference, last = Reference(older.joined()), newer.joined()
    assert comparison.moved() == reference.moved(reference.count(last), len(last.clicked), len(last))


def test_candidates_are_drawn_from_those_learned_from() -> None:
    learned = np.random.default_rng(3).random((50, 12)) < 0.4
    number, place = drawn(learned, 1)
    assert learned[number, place].all()
    assert np.bincount(number, minlength=50).tolist() == np.minimum(learned.sum(1), 4).tolist()
    assert len(set(zip(number.tolist(), place.tolist(), strict=True))) == len(number)


def test_a_doubled_price_is_found_within_half_a_window_and_named() -> None:
    for seed in range(5):
        trigger, stream = ShiftTrigger(0.2, 1_000), Stream(seed)
        assert taken(trigger, stream, 4_000) is None
        stream.price = 2.0
        found = taken(trigger, stream, 1_000)
        assert found is not None
        assert found[0] <= 700
        assert found[1].startswith("shift(0.2, 1000): psi of price 0.2")


def test_labels_that_shift_alone_are_found() -> None:
    trigger, stream = ShiftTrigger(0.2, 1_000), Stream(1)
    assert taken(trigger, stream, 4_000) is None
    stream.click = 0.6
    found = taken(trigger, stream, 1_500)
    assert found is not None
    assert f"psi of {LABEL} 0.2" in found[1]


def test_a_feature_that_goes_missing_is_found() -> None:
    trigger, stream = ShiftTrigger(0.2, 1_000), Stream(1)
    feed(trigger, stream, 3_000)
    stream.missing = 0.5
    found = taken(trigger, stream, 1_000)
    assert found is not None
    assert "psi of ctr" in found[1]


def test_without_a_shift_none_is_told_in_fifty_streams() -> None:
    """Half a million impressions, six days at one a second: with no alarm, fewer than one in two days (95 %)."""
    for seed in range(50):
        assert taken(ShiftTrigger(0.2, 1_000), Stream(seed), 10_000) is None


def test_behind_a_release_the_new_ways_are_the_measure() -> None:
    trigger, stream = ShiftTrigger(0.2, 1_000), Stream(2)
    feed(trigger, stream, 3_000)
    stream.price = 2.0
    feed(trigger, stream, 1_000)
    assert trigger.due(0, 0)
    trigger.fired(0, 0)
    assert taken(trigger, stream, 5_000) is None


def test_another_list_of_features_begins_anew() -> None:
    trigger, stream = ShiftTrigger(0.2, 1_000), Stream(2)
    feed(trigger, stream, 3_000)
    for _ in range(200):
        trigger.watch(column([7.0] * STEP))
    assert not trigger.due(0, 0)


def test_a_line_describes_it_among_others() -> None:
    trigger, stream = parse("any(time(3600), shift(0.2, 1000))"), Stream(3)
    for price in (1.0, 3.0):
        stream.price = price
        for _ in range(150):
            trigger.watch(stream.step())
    assert trigger.due(0, 0).startswith("shift(0.2, 1000): psi of price")
    for text in ("shift(0)", "shift(0.2, 10)", "shift()"):
        with pytest.raises(ValueError, match="shift"):
            parse(text)


def holding(psi: float = 0.2, seconds: float = 60.0) -> tuple[Hold, Stream]:
    """A hold behind a release, with 1,000 usual impressions before it and 500 at another price since."""
    hold, stream = Hold(HoldBounds(psi, seconds)), Stream(4)
    feed(hold, stream, 1_000)
    hold.released()
    stream.price = 2.0
    feed(hold, stream, 500)
    return hold, stream


def test_a_slice_unlike_the_one_before_holds_the_release_and_says_why() -> None:
    hold, _ = holding()
    assert hold.passed("time(30)", 100 * SECOND) == ""
    assert hold.why.startswith("psi of price 0.")


def test_it_is_released_when_the_time_is_over() -> None:
    hold, _ = holding(seconds=40)
    assert hold.passed("time(30)", 100 * SECOND) == ""
    assert hold.passed("time(30)", 140 * SECOND - 1) == ""
    said = hold.passed("time(30)", 140 * SECOND)
    assert said == f"time(30); held 40 s: {hold.why}"
    hold.released()
    assert hold.why == ""


def test_it_goes_sooner_when_the_slice_becomes_like_the_one_before() -> None:
    hold, stream = holding()
    assert hold.passed("time(30)", 0) == ""
    stream.price = 1.0
    feed(hold, stream, 1_500)
    assert hold.passed("time(30)", 20 * SECOND).startswith("time(30); held 20 s: psi of price 0.")


def test_usual_slices_go_at_once_however_small_they_are() -> None:
    hold, stream = Hold(HoldBounds(0.2, 60)), Stream(5)
    for _ in range(200):
        feed(hold, stream, LEAST)
        assert hold.passed("time(30)", 0) == "time(30)"
        hold.released()


def test_what_is_no_longer_due_is_not_held() -> None:
    hold, _ = holding(seconds=40)
    assert hold.passed("performance(0.1, 50)", 0) == ""
    assert hold.passed("", 10 * SECOND) == ""
    assert hold.why == ""
    assert hold.passed("performance(0.1, 50)", 50 * SECOND) == "", "a new wait"


def test_too_few_impressions_hold_nothing_and_no_bound_holds_nothing() -> None:
    hold, stream = Hold(HoldBounds(0.2, 60)), Stream(4)
    feed(hold, stream, 1_000)
    hold.released()
    stream.price = 5.0
    feed(hold, stream, LEAST - STEP)
    assert hold.passed("time(30)", 0) == "time(30)"
    assert holding(psi=0.0)[0].passed("time(30)", 0) == "time(30)"


def test_the_loop_holds_a_due_release_and_the_manifest_says_so(tmp_path: Path) -> None:
    shop, recorder = Shop(items=20), Recorder()
    messages = shop.messages(360)
    shop.price = 10.0
    source = FileSource({0: messages + shop.messages(360)}, sizes=(40,))
    hold = Hold(HoldBounds(0.2, 30))
    loop, clock = arm(tmp_path, source, trigger=TimeTrigger(600), observer=recorder, hold=hold)
    for _ in range(9):
        loop.turn()
    loop.release()
    while not source.done:
        loop.turn()
    for seconds, releases in ((600, 1), (15, 1), (15, 2)):
        clock.advance_to(clock.now_us() + seconds * SECOND)
        loop.turn()
        assert len(recorder.releases) == releases
    loop.arm.close()
    folder = tmp_path / "arms/main/exports" / recorder.releases[-1]
    said = json.loads((folder / "manifest.json").read_text())["trigger"]
    assert re.fullmatch(r"time\(600\); held 30 s: psi of price \d\.\d\d", said)
    assert recorder.holds == [said.split(": ")[1]]


def test_the_learner_draws_what_it_learned_from(tmp_path: Path) -> None:
    source = FileSource({0: Shop(items=20).messages(60)}, sizes=(20,))
    loop, _ = arm(tmp_path, source, trigger=TimeTrigger(600))
    samples = [
        sample for _ in range(3) for sample in (loop.arm.learn(source.poll(0.0)), loop.arm.learner.take_samples())[1]
    ]  # type: ignore[arg-type]
    assert sum(map(len, samples)) == 60
    assert sum(len(sample.item) for sample in samples) == 60 * CANDIDATES
    assert {sample.names for sample in samples} == {("clicks_1d", "views_1d", "ctr_1d", "price", "rank")}
    assert 10 < len(frozenset().union(*(sample.clicked for sample in samples))) <= 60
    assert not loop.arm.learner.take_samples()
    loop.arm.close()
