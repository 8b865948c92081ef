"""The period protocol and the ways of updating, on a small shop whose next item is known."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from services.trainer.sequence import periods
from services.trainer.sequence.catalogue import WAYS
from services.trainer.sequence.learner import Learner, Settings
from services.trainer.sequence.metrics import Scores
from services.trainer.sequence.model import Sizes
from services.trainer.sequence.packed import NONE, pack
from services.trainer.sequence.sessions import Sessions, joined
from services.trainer.sequence.ways import DROPOUT, BaseDropout, FineTune, FullRetrain, LastPeriodOnly, Replay, Update

SMALL = Settings(
    sizes=Sizes(dim=16, blocks=1, heads=1, length=8),
    rate=3e-3,
    row_rate=2e-2,
    rows=8,
    candidates=0,
    half=False,
    patience=2,
    epochs=8,
)
ITEMS = 60


def shop(period: int, shift: int = 1, n: int = 400) -> Sessions:
    """Sessions in which item i is followed by i + shift; the ids are new in every period."""
    random = np.random.default_rng(period)
    starts = random.integers(0, ITEMS, n)
    items = (starts[:, None] + shift * np.arange(4)) % ITEMS + 1000
    return Sessions(np.arange(n) + period * n, items.reshape(-1), np.arange(0, 4 * n + 1, 4))


def quiet(epoch: int, loss: float, scores: Scores) -> None:
    """Nothing is printed."""


def run(way: Update, given: list[Sessions], settings: Settings = SMALL) -> Learner:
    learner = Learner(settings, seed=1)
    for period, newest in enumerate(given):
        periods.update(learner, way, newest, period, 1, quiet)
    return learner


def test_a_rule_of_succession_is_learned_and_every_prefix_is_asked() -> None:
    learner = run(FineTune(), [shop(0)])
    found = periods.ask(learner, shop(1))
    assert found.mrr > 0.9
    assert found.n == 3 * 400


@pytest.mark.parametrize("candidates", [0, 30])
def test_both_kinds_of_softmax_learn_the_rule(candidates: int) -> None:
    settings = Settings(**{**vars(SMALL), "candidates": candidates})
    assert periods.ask(run(FineTune(), [shop(0)], settings), shop(1)).mrr > 0.9


def test_items_never_seen_are_dropped_from_the_test() -> None:
    learner = run(FineTune(), [shop(0)])
    known = shop(1, n=20)
    strange = Sessions(known.ids, np.where(np.arange(80) % 4 == 2, 5_000_000, known.items), known.starts)
    assert periods.ask(learner, strange).n == 2 * 20


def test_the_test_ranks_among_all_items_so_far_and_says_the_exact_rank() -> None:
    learner = run(FineTune(), [shop(0), shop(1)])
    asked = shop(2, n=5)
    slots, table = learner.slots(asked), learner.model.items(learner.rows.values)
    learner.model.eval()
    reciprocal = []
    for part in np.split(slots.items, slots.starts[1:-1]):
        hidden = learner.model(table[torch.from_numpy(part[:-1])][None], torch.ones(1, 3, dtype=torch.int64))[0]
        scores = (hidden @ table.T).detach().numpy()
        ranks = [1 + int((row > row[true]).sum()) for row, true in zip(scores, part[1:], strict=True)]
        reciprocal += [1 / rank if rank <= 20 else 0.0 for rank in ranks]
    assert periods.ask(learner, asked).mrr == pytest.approx(np.mean(reciprocal), abs=1e-6)


def test_a_model_without_training_guesses() -> None:
    learner = Learner(SMALL, seed=1)
    learner.rows.add(shop(0).items, seed=1)
    assert periods.ask(learner, shop(1)).recall < 0.6  # 20 of 60 by chance


def test_training_ends_with_patience_and_keeps_the_best_weights() -> None:
    seen: list[float] = []
    learner, newest = Learner(SMALL, seed=1), shop(0)
    found = periods.update(
        learner, Unclosed(), newest, 0, 1, lambda epoch, loss, scores: seen.append(scores.recall + scores.mrr)
    )
    assert found.best == 1 + int(np.argmax(seen))
    assert found.epochs == len(seen) == min(SMALL.epochs, found.best + SMALL.patience)
    held_out = learner.scores(learner.slots(newest.held_out(periods.HELD_OUT)[1]))
    assert held_out.recall + held_out.mrr == max(seen)


class Unclosed(FineTune):
    """Never learns what was held out."""

    closes = False


def test_held_out_sessions_do_not_take_part_in_the_epochs() -> None:
    newest = shop(0)
    found = periods.update(Learner(SMALL, seed=1), Unclosed(), newest, 0, 1, quiet)
    assert found.sessions == len(newest.held_out(periods.HELD_OUT)[0])
    assert found.samples == found.epochs * found.sessions * 3


def test_items_of_held_out_sessions_alone_learn_them_at_last_and_nothing_else_moves() -> None:
    training, asked = shop(0).held_out(periods.HELD_OUT)
    asked = Sessions(asked.ids, asked.items + 500, asked.starts)
    newest, found = joined([training, asked]), {}
    for way in (Unclosed(), FineTune()):
        learner = Learner(SMALL, seed=1)
        fitted = periods.update(learner, way, newest, 0, 1, quiet)
        found[way.closes] = learner.state(), learner.scores(learner.slots(asked)).mrr, fitted
    (before, unlearned, short), (after, learned, whole) = found[False], found[True]
    shown = torch.from_numpy(np.isin(learner.rows.items, training.items))
    assert learned > unlearned
    assert torch.equal(after["rows.values"][shown], before["rows.values"][shown])
    assert all(torch.equal(after[name], value) for name, value in before.items() if name.startswith("model."))
    assert whole.samples == short.samples + whole.best * len(asked) * 3


def test_fine_tuning_forgets_and_replay_remembers() -> None:
    # Each half of the shop is looked at in one period only.
    halves = [shop(0), shop(1)]
    low, high = (half.known((half.items < 1030) == first) for half, first in zip(halves, (True, False), strict=True))
    asked = low
    tuned, replayed = (periods.ask(run(way, [low, high]), asked).mrr for way in (FineTune(), Replay(400)))
    assert replayed > tuned


def test_the_frozen_model_ranks_new_items_but_never_moves() -> None:
    way = WAYS["frozen"]()
    learner = run(way, [shop(0)])
    before = learner.state()
    fitted = periods.update(learner, way, shop(1, shift=70), 1, 1, quiet)
    after = learner.state()
    assert fitted.steps == 0
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_last_period_only_owes_nothing_to_earlier_periods() -> None:
    past = [shop(0, shift=shift, n=60) for shift in (1, 7)]
    order = np.unique(past[0].items)
    a, b = (Learner(SMALL, seed=seed) for seed in (1, 2))
    for learner, before in zip((a, b), past, strict=True):
        learner.rows.add(order, seed=3)
        for period, newest in enumerate((before, shop(1, n=60))):
            periods.update(learner, LastPeriodOnly(), newest, period, 1, quiet)
    assert all(torch.equal(b.state()[name], value) for name, value in a.state().items())


def test_the_full_retrain_trains_on_everything_so_far() -> None:
    way, learner = FullRetrain(), Learner(SMALL, seed=1)
    given = [shop(period, n=60) for period in range(3)]
    sizes = [periods.update(learner, way, newest, t, 1, quiet).sessions for t, newest in enumerate(given)]
    newest = len(given[-1].held_out(periods.HELD_OUT)[0])
    assert sizes[-1] == sum(len(older) for older in given[:-1]) + newest


def test_a_period_passed_by_is_remembered_but_not_learned() -> None:
    way, learner = FullRetrain(), Learner(SMALL, seed=1)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    periods.pass_by(learner, way, shop(0), 0, 1)
    assert all(torch.equal(learner.model.state_dict()[name], value) for name, value in before.items())
    assert len(learner.rows) == ITEMS
    assert len(way.kept) == len(shop(0))


def test_a_reservoir_keeps_every_past_session_with_the_same_chance() -> None:
    learner, kept = Learner(SMALL, seed=1), np.zeros(40)
    for trial in range(600):
        way = Replay(10)
        for period in range(4):
            way.remember(learner, shop(period, n=10), np.random.default_rng([trial, period]))
        kept += np.bincount(way.kept.ids, minlength=40)
    assert len(way.kept) == 10
    assert kept / 600 == pytest.approx(np.full(40, 0.25), abs=4.5 * np.sqrt(0.25 * 0.75 / 600))


def test_a_small_past_is_kept_whole() -> None:
    way = Replay(1000)
    for period in range(2):
        way.remember(Learner(SMALL, seed=1), shop(period, n=10), np.random.default_rng(period))
    assert way.kept.ids.tolist() == joined([shop(0, n=10), shop(1, n=10)]).ids.tolist()


@pytest.mark.parametrize("name", WAYS)
def test_a_restart_goes_on_bit_for_bit(name: str) -> None:
    def on(way: Update, learner: Learner, first: int, last: int) -> Mapping[str, torch.Tensor]:
        for period in range(first, last):
            periods.update(learner, way, shop(period, n=30), period, 1, quiet)
        return learner.state()

    way, learner = WAYS[name](), Learner(SMALL, seed=1)
    on(way, learner, 0, 2)
    again, restored = WAYS[name](), Learner(SMALL, seed=2)
    again.load(way.state())
    restored.load(learner.state())
    wanted = on(way, learner, 2, 3)
    found = on(again, restored, 2, 3)
    assert all(torch.equal(found[part], wanted[part]) for part in wanted)


def test_a_term_of_a_way_takes_part_in_the_step() -> None:
    class Still(FineTune):
        """Holds every row to where it is, with a force that no loss moves."""

        def term(self, learner: Learner, seen: object) -> torch.Tensor:
            dense = sum((p**2).sum() for p in learner.model.parameters())
            return 1e6 * (seen.rows**2).sum() + 1e6 * dense  # type: ignore[attr-defined]

    plain, still = (run(way, [shop(0)]).rows.values.norm() for way in (FineTune(), Still()))
    assert still < plain / 2


def test_padding_asks_nothing() -> None:
    packed = pack(shop(0, n=1), 8)
    assert int((packed.targets != NONE).sum()) == 3


def test_dropout_of_the_base_ends_with_it_and_a_restart_remembers() -> None:
    way, sessions = BaseDropout(), joined([])
    assert way.dropout == DROPOUT
    way.remember(Learner(Settings(), 1), sessions, np.random.default_rng(0))
    again = BaseDropout()
    again.load(way.state())
    assert way.dropout == again.dropout == 0.0
