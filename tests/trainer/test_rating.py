"""A rating as heads of the ranker: what is expected of it, what it is learned of, and that it is learned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from freshrank.v1.events_pb2 import Impression
from pydantic import ValidationError
from torch.nn import functional as F

from services.common.errors import InvalidInput
from services.common.records import CLOSED, FLIP
from services.joiner.labels import Heads
from services.trainer.evaluation.rehearsal import Trial
from services.trainer.examples import Batch
from services.trainer.factory import learner_of
from services.trainer.learner import Learner, finally_labelled
from services.trainer.scale import Scale
from services.trainer.settings import TrainerSettings
from services.trainer.strategies.losses import CrossEntropy, GroupLoss
from tests.trainer.arm import digest, settings
from tests.trainer.strategies.shop import step_of
from tests.trainer.world import SPEC, Shop, message

HEADS = ("click", "rated", "two", "three", "four", "five")
RATING = {"rated": 1.0, "two": 1.0, "three": 1.0, "four": 1.0, "five": 1.0}
STARS = Scale((1, 2, 3, 4, 5), (1.0, 1.0, 1.0, 1.0, 1.0))


class Raters:
    """A shop whose shoppers rate what they click; what it is worth decides how many stars, but for one up or down."""

    def __init__(self, seed: int = 1) -> None:
        self.shop = Shop(seed=seed, items=20)
        self.worth = np.random.default_rng(3).uniform(1, 5, 20)
        self.given: list[float] = []

    def messages(self, impressions: int) -> list[bytes]:
        """As the joiner writes them: a rating fires every head up to it at once."""
        return [message([self._rated(row) for row in self.shop.rows(self.shop.made)]) for _ in range(impressions)]

    def _rated(self, row: dict[str, object]) -> dict[str, object]:
        if row["kind"] != FLIP:
            return row
        item = Impression.FromString(row["impression"]).items[0].item_id  # type: ignore[arg-type]
        stars = self.worth[int(item.removeprefix("item-"))] + self.shop.chance.integers(-1, 2)
        self.given.append(float(np.clip(np.rint(stars), 1, 5)))
        return {**row, "labels": [(1 << (1 + int(self.given[-1]))) - 1]}


def rater(**changes: object) -> Learner:
    """A small learner of clicks and stars."""
    torch.set_num_threads(1)
    chosen = {"admission": 1, "loss_weights": dict.fromkeys(HEADS, 1.0), "rating": RATING, **changes}
    return learner_of(settings(**chosen), replace(SPEC, heads=HEADS), None)


def learned(made: Learner, shop: Raters, impressions: int) -> list[tuple[float, float]]:
    """Ratings as they were expected, and given."""
    out = []
    for _ in range(impressions // 5):
        start = made.positions.get(0, 0)
        made.apply(Batch({0: (start, start + 5)}, {0: shop.messages(5)}))
        out += made.progress.take_ratings()
    return out


def test_a_head_under_another_is_learned_of_what_the_other_fired_for_alone() -> None:
    flips = rater().encode(step_of(Raters().messages(30)).flips)
    z = torch.linspace(-3, 3, flips.positives.size).reshape(flips.positives.shape)
    fired = torch.from_numpy(flips.positives)
    stars = F.binary_cross_entropy_with_logits(z, (fired > 0).float(), reduction="none") * fired[:, :, 1:2]
    expected = stars[:, :, 2:].sum() - (z * fired)[:, :, :2].sum()
    loss = GroupLoss(CrossEntropy(), torch.ones(6), "flips", STARS.under(6))
    torch.testing.assert_close(loss(z, flips), expected)


@pytest.mark.parametrize("labels", ["flips", "waiting", "fake_negatives", "calibrated"])
def test_what_appears_says_nothing_about_its_rating(labels: str) -> None:
    shown = rater().encode(step_of(Raters().messages(5)).initial)
    z = torch.zeros((*shown.negatives.shape, 6), requires_grad=True)
    GroupLoss(CrossEntropy(), torch.ones(6), labels, STARS.under(6))(z, shown).backward()  # type: ignore[arg-type]
    assert z.grad is not None
    assert z.grad[:, :, :2].any()
    assert not z.grad[:, :, 2:].any()


def test_a_second_and_higher_rating_takes_the_lower_one_back() -> None:
    """Two stars, then four: the flips sum to what four stars at once are."""
    flips = rater().encode(step_of(Raters().messages(1)).flips[:1])
    loss = GroupLoss(CrossEntropy(), torch.ones(6), "flips", STARS.under(6))
    z = torch.linspace(-2, 2, flips.positives.size).reshape(flips.positives.shape)
    totals = []
    for bits in ([0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 1, 0]):
        flips.positives[:] = 0
        flips.positives[0, 0] = bits
        totals.append(loss(z, flips))
    torch.testing.assert_close(totals[0] + totals[1], totals[2])


def test_without_a_rating_heads_are_learned_as_ever() -> None:
    group = rater().encode(step_of(Raters().messages(10)).flips)
    z = torch.linspace(-3, 3, group.positives.size).reshape(group.positives.shape)
    plain = GroupLoss(CrossEntropy(), torch.ones(6))
    alone = GroupLoss(CrossEntropy(), torch.ones(6), "flips", tuple(range(6)))
    torch.testing.assert_close(plain(z, group), alone(z, group))


def test_ratings_are_expected_before_they_are_learned_and_better_than_their_mean() -> None:
    made, shop = rater(), Raters()
    expected, given = np.array(learned(made, shop, 1_000)).T
    assert given.tolist() == shop.given
    late = slice(len(given) // 2, None)
    rmse = np.sqrt(((expected - given)[late] ** 2).mean())
    assert rmse < 0.85 * given[late].std()
    figures = made.progress.metrics()
    assert figures["ratings"] == len(given)
    assert figures["rating_rmse"] == pytest.approx(np.sqrt(((expected - given) ** 2).mean()))
    assert figures["auc"] > 0.65, "clicks are learned beside it"


def test_ratings_that_were_judged_survive_a_restart() -> None:
    made, shop = rater(), Raters()
    learned(made, shop, 60)
    other, later = rater(), Raters(2)
    meta, files = made.snapshot()
    other.restore(meta, files, [made.pack_rows(lambda table: np.arange(table.next))])
    messages = later.messages(20)
    for one in (made, other):
        one.apply(Batch({0: (60, 80)}, {0: messages}))
    assert other.progress.metrics() == made.progress.metrics()
    assert digest(other) == digest(made)


def test_the_joiner_fires_every_head_up_to_a_rating() -> None:
    steps = "; ".join(f"{name}=RATE:rating>={k}@1d" for k, name in enumerate(HEADS[2:], 2))
    heads = Heads.parse(f"click=CLICK@10m; rated=RATE@1d; {steps}")
    assert tuple(head.name for head in heads.heads) == HEADS
    assert heads.fired(5, {"rating": 4.0}) == 0b011110
    assert heads.fired(5, {"rating": 1.0}) == 0b000010


def test_a_rating_of_unknown_heads_is_refused() -> None:
    with pytest.raises(ValidationError, match="six, which loss_weights does not"):
        settings(loss_weights=dict.fromkeys(HEADS, 1.0), rating={"rated": 1, "six": 1})
    with pytest.raises(ValidationError, match="worth something"):
        settings(loss_weights=dict.fromkeys(HEADS, 1.0), rating={"rated": 1, "two": 0})
    with pytest.raises(InvalidInput, match="five is none of click") as caught:
        Scale.of(RATING, SPEC.heads)
    assert caught.value.field == "rating"


def test_it_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FRESHRANK_TRAINER_RATING", '{"rated": 1, "two": 1}')
    monkeypatch.setenv("FRESHRANK_TRAINER_LOSS_WEIGHTS", '{"click": 1, "rated": 1, "two": 1}')
    assert TrainerSettings(store=tmp_path).rating == {"rated": 1.0, "two": 1.0}
    assert Trial("stars").settings().rating == {"rated": 1.0, "two": 1.0}


def test_final_labels_learn_a_rating_too() -> None:
    """`labels = waiting` learns lists when they are closed; those that were rated by then tell their stars."""
    made = rater(labels="waiting")
    step = step_of(Raters().messages(20))
    told = [replace(one, labels=np.full(len(one.items), 0b000111, np.uint8)) for one in step.closed]
    closed = [finally_labelled(one) for one in told]
    assert all(one.kind == CLOSED for one in closed)
    group = made.encode(closed)
    z = torch.zeros(group.positives.shape, requires_grad=True)
    GroupLoss(CrossEntropy(), torch.ones(6), "waiting", STARS.under(6))(z, group).backward()
    shown = torch.from_numpy(group.positives[:, :, 1] > 0)
    assert z.grad is not None
    assert (z.grad[shown][:, 2] < 0).all()
    assert (z.grad[shown][:, 3] > 0).all()
