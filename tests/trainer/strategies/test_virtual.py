"""Virtual clicks: whom they move, how much they weigh, and that nobody counts them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from services.trainer.archive_writer import Archive
from services.trainer.learner import Learner
from services.trainer.strategies.base import Update
from services.trainer.strategies.virtual import VirtualClicks
from tests.trainer.arm import arm, run, settings
from tests.trainer.strategies.shop import learned, learner, part, seen, step_of, weights
from tests.trainer.world import FileSource, Shop

LINE = "virtual_clicks(10, 2)"


def virtual(made: Learner) -> VirtualClicks:
    found = part(made)
    assert isinstance(found, VirtualClicks)
    return found


def test_the_row_of_a_rare_item_moves_and_nothing_else() -> None:
    """Two learners with equal weights learn one step; two of its items are rare."""
    shop, plain, moved = Shop(seed=4, items=9), learner(), learner(strategy=LINE)
    learned(plain, shop, 40)
    moved.restore(*plain.snapshot(), [plain.pack_rows(lambda table: np.arange(table.next))])
    step = step_of(shop.messages(1))
    sketch = virtual(moved)._shown._sketch
    sketch.counts[:] = 255
    for counts, places in zip(sketch.counts, sketch._places(moved.encode(step.initial).item_keys[:2]), strict=True):
        counts[places] = 1
    plain.encode(step.initial)
    for made in (moved, plain):
        made.strategy.learn(Update([made.encode(step.initial)], 999, made.encode))
    ours, theirs = moved.tables.item, plain.tables.item
    differing = np.flatnonzero((ours.rows != theirs.rows).any(1))
    assert set(ours.ids.get(differing)) == {item.item_id for item in step.initial[0].impression.items[:2]}
    assert np.array_equal(moved.tables.user.rows, plain.tables.user.rows)
    assert torch.equal(weights(moved), weights(plain))


def test_the_gradient_is_that_of_a_click_with_the_weight() -> None:
    made = learner(strategy=LINE)
    learned(made, Shop(seed=4, items=20), 3)
    group = made.encode(step_of(Shop(seed=4, items=20).messages(1)).initial)
    given = virtual(made).weights(group)
    assert set(np.unique(given)) == {np.float32(0.2)}
    through = seen(made, group)
    term = virtual(made).term(through)
    assert term is not None
    assert float(term.detach()) == 0
    row = through.inputs["row"]
    (found,) = torch.autograd.grad(term, [row])
    clicks = torch.nn.functional.softplus(-through.logits[:, :, 0]) * torch.from_numpy(given)
    (expected,) = torch.autograd.grad(clicks.sum(), [row])
    torch.testing.assert_close(found, expected)


def test_an_item_gets_so_many_clicks_at_most_however_often_it_comes() -> None:
    made, shop = learner(strategy=LINE, admission=1), Shop(items=16, listed=8)
    total = np.zeros(16)
    for number in range(60):
        step = step_of(shop.messages(1))
        group = made.encode(step.initial)
        virtual(made).more(Update([group], number, made.encode))
        for place, item in enumerate(step.initial[0].impression.items):
            total[int(item.item_id.removeprefix("item-"))] += virtual(made).weights(group)[0, place]
    np.testing.assert_allclose(total, 2.0, rtol=1e-5)


def test_nobody_counts_them(tmp_path: Path) -> None:
    """Figures, what was learned and the archive are of the same impressions and clicks as without them."""
    found = []
    for name, text in (("with", LINE), ("without", "")):
        source = FileSource({0: Shop(seed=3, items=20).messages(80)})
        archive = Archive(tmp_path / name / "examples")
        loop, clock = arm(tmp_path / name, source, chosen=settings(admission=1, strategy=text), archive=archive)
        run(loop, clock, source)
        made = loop.arm.learner
        values = [
            value
            for path in sorted((tmp_path / name / "examples" / "0").glob("*.parquet"))
            for value in pq.read_table(path)["value"].to_pylist()
        ]
        clicks = [judged.clicks.tolist() for judged in made.progress._window]
        counted = [float(v) for v in made.tables.item.sketch.counts.sum(1)]
        found.append((clicks, made.learned, made.progress.metrics()["impressions"], values, counted))
        if text:
            assert virtual(made).counters["given"] > 0
    assert found[0] == found[1]


@pytest.mark.parametrize("bad", ["virtual_clicks(0)", "virtual_clicks(300)", "virtual_clicks(10, 0)"])
def test_what_has_no_bound_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="virtual_clicks needs a number"):
        settings(strategy=bad)
