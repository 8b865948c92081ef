"""Estimates of what was not shown: right on logs whose truth is known, silent where there is no chance in them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.common.encode import NoRows
from services.publisher import manifest as manifests
from services.publisher import shelf
from services.publisher.checks import Verdict, holds, verdict
from services.publisher.examine import Situation, examine
from services.publisher.explored import Compared, compare, handful, whole_list
from services.publisher.gate import GateBounds
from services.publisher.offpolicy import Bounds, Estimate, Figure, Slots, TooFew, difference, estimate
from services.publisher.onnx_file import FileBounds
from services.publisher.replay import Closed, Replay
from tests.publisher.chance import CONSTANT, FIRST, Known, Page
from tests.publisher.exports import SPEC, Net, export, figures, impressions
from tests.publisher.shop import open_shop

ANY = Bounds(impressions=2, effective=0)
SEEDS = range(400)
KNOWN = Known()
GOOD, BAD = KNOWN.click + np.random.default_rng(5).normal(0, 0.05, KNOWN.click.shape), 1 - KNOWN.click


def found(slots: Slots, bounds: Bounds = ANY) -> Estimate:
    out = estimate(slots, bounds)
    assert isinstance(out, Estimate)
    return out


@pytest.fixture(scope="module")
def good() -> list[Estimate]:
    return [found(KNOWN.log(seed, GOOD)) for seed in SEEDS]


@pytest.fixture(scope="module")
def bad() -> list[Estimate]:
    return [found(KNOWN.log(seed, BAD)) for seed in SEEDS]


def is_near(values: list[float], truth: float) -> bool:
    """The mean over seeds is within three standard errors of the truth."""
    return abs(np.mean(values) - truth) < 3 * np.std(values, ddof=1) / np.sqrt(len(values))


def test_the_inverse_weights_are_unbiased(good: list[Estimate]) -> None:
    assert is_near([one.ips.mean for one in good], KNOWN.truth)


def test_the_doubly_robust_one_is_unbiased_whatever_the_guess(good: list[Estimate], bad: list[Estimate]) -> None:
    for estimates in (good, bad):
        assert is_near([one.dr.mean for one in estimates], KNOWN.truth)


def test_a_good_guess_makes_it_calmer_and_a_bad_one_wilder(good: list[Estimate], bad: list[Estimate]) -> None:
    ips, dr, worse = (np.var([one.mean for one in which]) for which in (
        [e.ips for e in good], [e.dr for e in good], [e.dr for e in bad]
    ))  # fmt: skip
    assert dr < 0.8 * ips
    assert worse > ips


def test_the_normalised_one_comes_to_the_truth(good: list[Estimate]) -> None:
    large = Known(places=100_000)
    figure = found(large.log(1, large.click)).snips
    assert abs(figure.mean - large.truth) < 3 * figure.error < 0.03
    assert np.var([one.snips.mean for one in good]) < np.var([one.ips.mean for one in good])


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_intervals_hold_the_truth_as_often_as_they_say(good: list[Estimate], name: str) -> None:
    intervals = [getattr(one, name).interval for one in good]
    covered = np.mean([low <= KNOWN.truth <= high for low, high in intervals])
    # The places are the same in every log and their spread counts as chance: never fewer than 95 of 100 but for noise.
    assert 0.91 < covered <= 1


def test_the_formulas_are_those_of_the_papers_on_a_log_of_three() -> None:
    arrays = [
        np.array(values, float) for values in ([1, 0, 1], [0.5, 0.25, 0.2], [1, 1, 0], [0.4, 0.1, 0.3], [0.4, 0.1, 0.6])
    ]
    one = found(Slots(np.arange(3), *arrays))
    assert one.ips.mean == pytest.approx((1 / 0.5) / 3)
    assert one.snips.mean == pytest.approx((1 / 0.5) / (1 / 0.5 + 1 / 0.25))
    assert one.dr.mean == pytest.approx(((0.4 + 2 * 0.6) + (0.1 - 4 * 0.1) + 0.6) / 3)
    assert one.ips.error == pytest.approx(np.std([2, 0, 0], ddof=1) / np.sqrt(3))
    assert one.effective == pytest.approx((2 + 4) ** 2 / (2**2 + 4**2))


def test_clipping_takes_no_more_than_it_says() -> None:
    """Known bias: what weights are cut by, times the clicks there."""
    clipped = [found(KNOWN.log(seed, GOOD), replace(ANY, clip=4.0)) for seed in SEEDS]
    each = np.arange(KNOWN.places)
    p, click = (which[each, KNOWN.wanted] for which in (KNOWN.shown, KNOWN.click))
    cut = np.maximum(0, 1 - 4 * p)
    assert is_near([one.ips.mean for one in clipped], KNOWN.truth - float((cut * click).mean()))
    assert is_near([one.clipped for one in clipped], float(cut.mean()))


@pytest.mark.parametrize("propensity", [0.0, 1.0])
def test_logs_without_chance_give_too_few(propensity: float) -> None:
    slots = replace(KNOWN.log(0, GOOD), propensity=np.full(KNOWN.places, propensity))
    assert estimate(slots, ANY) == TooFew(0)
    assert TooFew(0).record() == {"offpolicy_n": 0.0, "offpolicy": "too few"}


def test_few_impressions_or_little_weight_give_too_few() -> None:
    slots = KNOWN.log(0, GOOD)
    assert estimate(slots, Bounds(impressions=401)) == TooFew(400)
    assert estimate(slots, Bounds(effective=400)) == TooFew(400)
    assert estimate(replace(slots, target=np.zeros(400)), Bounds()) == TooFew(400)


def test_the_difference_of_a_ranking_from_itself_is_none() -> None:
    slots = KNOWN.log(0, GOOD)
    assert difference(slots, slots, ANY) == Figure(0.0, 0.0)
    assert difference(slots, slots, Bounds(impressions=401)) is None


def test_what_is_given_to_chance_on_a_page_is_valued_rightly() -> None:
    """The truth is exact: how likely each candidate is the best, by the model, of m uniform ones."""
    page = Page()
    logged = [page.recommended(seed) for seed in range(8_000)]
    handfuls = [len(choice.items) for c in logged if (choice := handful(c)) is not None]
    truth = float(np.mean([page.best_of(m) for m in handfuls]))
    everything = compare(logged, FIRST, CONSTANT, NoRows(SPEC.row_dim), most=8_000)["recommend"]
    one = everything.candidate
    assert isinstance(one, Estimate)
    for figure in (one.ips, one.snips, one.dr):
        assert abs(figure.mean - truth) < 3 * figure.error < 0.25 * truth
    assert everything.gap is not None
    assert everything.gap.mean > 2 * everything.gap.error, "who knows the clicks does better than who does not"


def test_what_is_drawn_by_weight_is_valued_rightly() -> None:
    """Candidates that are drawn more often count the less for it."""
    page = Page(weighted=True)
    logged = [page.recommended(seed) for seed in range(8_000)]
    handfuls = [len(choice.items) for c in logged if (choice := handful(c)) is not None]
    of_size = {m: page.best_of_drawn(m) for m in set(handfuls)}
    truth = float(np.mean([of_size[m] for m in handfuls]))
    one = compare(logged, FIRST, CONSTANT, NoRows(SPEC.row_dim), most=8_000)["recommend"].candidate
    assert isinstance(one, Estimate)
    for figure in (one.ips, one.snips, one.dr):
        assert abs(figure.mean - truth) < 3 * figure.error < 0.3 * truth


def test_the_order_of_a_shuffled_list_is_valued_rightly() -> None:
    page = Page(share=0.6)
    logged = [page.shuffled(seed) for seed in range(2_000)]
    order = np.argsort(-page.model[: page.size])
    truth = float((page.click[order] * page.seen).sum())
    one = compare(logged, FIRST, None, NoRows(SPEC.row_dim))["rank"].candidate
    assert isinstance(one, Estimate)
    for figure in (one.ips, one.snips, one.dr):
        assert abs(figure.mean - truth) < 3 * figure.error < 0.3 * truth


def test_what_could_not_be_drawn_is_no_rival() -> None:
    page = Page(share=0.5)
    choices = [choice for seed in range(300) if (choice := handful(page.recommended(seed))) is not None]
    own = {f"item-{k}" for k in page.order[: page.size].tolist()}
    assert len(choices) > 100
    assert not own & {c.closed.impression.items[k].item_id for c in choices for k in c.items}


def test_a_page_without_chance_is_no_choice() -> None:
    plain, listed = Page(share=0.0).recommended(1), Page(share=0.0).shuffled(1)
    assert handful(plain) is whole_list(plain) is handful(listed) is whole_list(listed) is None
    nothing = compare([plain, listed], FIRST, FIRST, NoRows(SPEC.row_dim))
    assert nothing["recommend"].record() == {side: TooFew(0).record() for side in ("candidate", "champion")}


def test_equal_scores_are_not_ordered_by_where_they_were_shown() -> None:
    """A model that cannot tell items apart earns what a uniform draw earns, not what the page earned."""
    page = Page()
    one = compare([page.recommended(seed) for seed in range(4_000)], CONSTANT, None, NoRows(SPEC.row_dim))
    estimated = one["recommend"].candidate
    assert isinstance(estimated, Estimate)
    assert estimated.ips.mean < page.click[page.order[: page.size]].mean()


def test_only_a_candidate_that_is_surely_worse_fails_the_check() -> None:
    for mean, passed in ((-0.03, False), (-0.01, True), (0.02, True)):
        check = Compared(TooFew(0), TooFew(0), Figure(mean, 0.01)).check("recommend")
        assert check is not None
        assert check.passed is passed
    assert Compared(TooFew(0), None, None).check("recommend") is None


def with_chance(closed: Closed) -> Closed:
    """Three of ten shown, the second drawn from those left over: candidates of these impressions are all alike."""
    impression = type(closed.impression)()
    impression.CopyFrom(closed.impression)
    impression.closed_loop = True
    for k, item in enumerate(impression.items):
        item.shown, item.explored, item.score = k < 3, k == 1, 0.9 if k in (0, 2) else 0.1
        item.propensity = 0.003 if k == 1 else 0.97 if k < 3 else 0
    return Closed(impression, (0, 1, 2), closed.labels[:3])


def judged(folder: Path, offpolicy: bool) -> Verdict:
    seen = impressions(1_500, 31)
    champion = shelf.opened(export(folder / "champion", Net(), {}, second=59))
    replay = Replay(2_000)
    for closed in seen:
        replay.add(with_chance(closed))
    parent = champion.manifest.release
    candidate = export(folder, Net(), figures(Net(), Net(), seen[:400]), parent=parent)
    now = Situation(champion, replay.snapshot(), NoRows(SPEC.row_dim), 10**6, 1_000_000, False, frozenset([parent]))
    return examine(manifests.read(candidate), 1, candidate, now, GateBounds(offpolicy=offpolicy), FileBounds())


def test_a_verdict_has_the_figures_and_the_setting_makes_them_a_check(tmp_path: Path) -> None:
    plain, gated = judged(tmp_path / "plain", False), judged(tmp_path / "gated", True)
    assert plain.passed, plain.reason
    sides = plain.figures["offpolicy"]["recommend"]
    assert sides["candidate"] == sides["champion"]
    assert {"ips", "snips", "dr", "dr_error"} < set(sides["candidate"])
    assert sides["candidate"]["offpolicy_n"] == 1_500
    assert plain.figures["offpolicy"]["rank"]["candidate"] == TooFew(0).record()
    assert {c.name for c in gated.checks} - {c.name for c in plain.checks} == {"offpolicy_recommend"}
    assert gated.passed


@pytest.mark.parametrize(("held", "decision"), [(True, "promoted"), (False, "refused")])
def test_the_audit_of_a_decision_has_them(tmp_path: Path, held: bool, decision: str) -> None:
    shop = open_shop(tmp_path)
    shop.world.verdict = lambda manifest: verdict([holds("asked", held)], {"offpolicy": {"rank": {"offpolicy_n": 3.0}}})
    shop.offer(1)
    shop.releases.step(1)
    (entry,) = [entry for entry in shop.audit.entries() if entry["decision"] == decision]
    assert entry["offpolicy"] == {"rank": {"offpolicy_n": 3.0}}
