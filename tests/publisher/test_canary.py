"""The watch: takes back what is worse, leaves alone what is equal, and never acts on what it does not know."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from services.publisher import scores
from services.publisher.canary import Paired, Sequence, Watch, WatchBounds
from services.publisher.pod import ServedStats

ITEMS = 10


def truth(rng: np.random.Generator, impressions: int) -> NDArray[np.float64]:
    """Logits of the true click probabilities."""
    return rng.normal(size=(impressions, ITEMS)) - 2.0


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-x)))


def shown(
    seed: int, impressions: int, noise: tuple[float, float], bias: tuple[float, float] = (0.0, 0.0)
) -> Iterator[list[Paired]]:
    """Batches of labelled impressions as two models see them; `noise`: how far their logits are from the truth."""
    rng = np.random.default_rng(seed)
    logits = truth(rng, impressions)
    clicks = (rng.random(logits.shape) < sigmoid(logits)).astype(float)
    models = [sigmoid(logits + b + n * rng.normal(size=logits.shape)) for n, b in zip(noise, bias, strict=True)]
    losses = [scores.log_losses(clicks, m).sum(axis=1) for m in models]
    sums = [m.sum(axis=1) for m in models]
    columns = (losses[0], losses[1], sums[0], sums[1], clicks.sum(axis=1))
    rows = [Paired((a, b), (p, q), y, ITEMS) for a, b, p, q, y in zip(*(c.tolist() for c in columns), strict=True)]
    for start in range(0, impressions, 250):
        yield rows[start : start + 250]


def looked(watch: Watch, batches: Iterator[list[Paired]]) -> int | None:
    """Impressions after which the watch breaks, looking after each batch; None when it never does."""
    seen = 0
    for batch in batches:
        watch.paired(batch)
        seen += len(batch)
        if not watch.verdict().passed:
            return seen
    return None


def a_watch(**bounds: float) -> Watch:
    return Watch("new", "old", replace(WatchBounds(), **bounds))  # type: ignore[arg-type]


def test_at_most_one_in_twenty_equal_champions_is_taken_back() -> None:
    stopped = [looked(a_watch(), shown(seed, 4_000, (0.1, 0.1))) for seed in range(50)]
    assert sum(at is not None for at in stopped) <= 2


def test_one_that_loses_two_thousandths_of_auc_is_taken_back() -> None:
    rng = np.random.default_rng(0)
    logits = truth(rng, 20_000)
    clicks = rng.random(logits.shape) < sigmoid(logits)
    noise = 0.15
    lost = scores.auc(clicks.ravel(), logits.ravel()) - scores.auc(
        clicks.ravel(), (logits + noise * rng.normal(size=logits.shape)).ravel()
    )
    assert 0.001 < lost < 0.003
    at = looked(a_watch(), shown(1, 40_000, (noise, 0.0)))
    assert at is not None
    assert at < 40_000


def test_a_better_champion_stays() -> None:
    assert looked(a_watch(), shown(1, 10_000, (0.0, 0.3))) is None


def test_a_champion_that_promises_twice_the_clicks_is_taken_back() -> None:
    watch = a_watch(log_loss=1.0)
    at = looked(watch, shown(2, 5_000, (0.0, 0.0), (0.75, 0.0)))
    assert at is not None
    assert [check.name for check in watch.verdict().failed] == ["calibration"]


def test_when_clicks_fall_for_both_the_champion_is_not_to_blame() -> None:
    assert looked(a_watch(), shown(2, 5_000, (0.0, 0.0), (0.75, 0.75))) is None


def test_nothing_known_is_no_breach_and_no_proof() -> None:
    watch = a_watch()
    assert watch.verdict().passed
    assert [check.name for check in watch.verdict().checks] == ["heals"]
    watch.paired(next(shown(0, 50, (5.0, 0.0))))
    assert "log_loss" not in [check.name for check in watch.verdict().checks]


def test_a_champion_whose_answers_degrade_is_taken_back() -> None:
    watch, rng = a_watch(), np.random.default_rng(0)
    for number in range(600):
        watch.served(True, bool(rng.random() < 0.6))
        if number % 10 == 0:
            watch.served(False, False)
    assert [check.name for check in watch.verdict().failed] == ["degraded"]


def test_when_both_degrade_it_is_not_the_release() -> None:
    watch, rng = a_watch(), np.random.default_rng(0)
    for number in range(3_000):
        watch.served(number % 10 != 0, bool(rng.random() < 0.6))
    assert watch.verdict().passed


@pytest.mark.parametrize(
    ("champion", "previous", "healthy", "breach"),
    [
        pytest.param(ServedStats(90, 10, 0.2), ServedStats(100, 0, 0.2), True, ["failed"], id="fails"),
        pytest.param(ServedStats(90, 10, 0.2), ServedStats(90, 10, 0.2), True, [], id="both fail"),
        pytest.param(ServedStats(90, 10, 0.2), ServedStats(100, 0, 0.2), False, [], id="its process is down"),
        pytest.param(ServedStats(100, 0, 2.0), ServedStats(100, 0, 0.2), True, ["latency_ms"], id="slow"),
        pytest.param(ServedStats(100, 0, 0.6), ServedStats(100, 0, 0.2), True, [], id="slower, but fast"),
        pytest.param(ServedStats(5, 5, 9.0), ServedStats(100, 0, 0.2), True, [], id="hardly asked"),
    ],
)
def test_what_triton_counts(champion: ServedStats, previous: ServedStats, healthy: bool, breach: list[str]) -> None:
    watch = a_watch()
    watch.inferences(champion, previous, healthy)
    assert [check.name for check in watch.verdict().failed] == breach


def test_a_release_whose_process_keeps_dying_is_taken_back() -> None:
    watch = a_watch()
    for _ in range(3):
        assert watch.verdict().passed
        watch.healed()
    assert [check.name for check in watch.verdict().failed] == ["heals"]


def test_the_bound_holds_at_all_times_at_once() -> None:
    """Of 400 means that are 0, watched at each of 2,000 steps, at most the stated share is ever said to be above."""
    rng, crossed = np.random.default_rng(3), 0
    values = rng.exponential(size=(400, 2_000)) - 1
    for row in values:
        sequence = Sequence()
        for start in range(0, 2_000, 50):
            sequence.add(row[start : start + 50])
            if sequence.count >= 100 and sequence.lower(0.05, 500) > 0:
                crossed += 1
                break
    assert crossed <= 0.05 * 400


def test_means_and_variances_do_not_depend_on_how_values_come() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    one, other = Sequence(), Sequence()
    one.add(values)
    for part in np.split(values, 40):
        other.add(part)
    assert (other.mean, other.variance) == (pytest.approx(one.mean), pytest.approx(one.variance))
    assert one.variance == pytest.approx(values.var())
