"""An arm that begins with what another one has learned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from services.common.errors import InvalidInput
from services.common.ids import key_of
from services.common.spec import FeatureRef
from services.trainer.app import begin
from services.trainer.checkpoint import Checkpoints, Name, Saved
from services.trainer.factory import learner_of
from services.trainer.hooks import NoHooks
from services.trainer.learner import Learner
from services.trainer.transfer import take_over
from tests.trainer.arm import arm, run, settings
from tests.trainer.strategies.shop import finished, learned, learner, loss_on, strategy, weights
from tests.trainer.world import SPEC, FileSource, Shop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The newest checkpoint of an arm that has learned the shop."""
    source = FileSource({0: Shop(seed=3, items=20).messages(200)})
    loop, clock = arm(tmp_path_factory.mktemp("source"), source, chosen=settings(admission=1))
    run(loop, clock, source)
    return loop.arm._checkpoints.path(loop.arm.name)


def saved(folder: Path) -> Saved:
    name = Name.parse(folder.name)
    assert name is not None
    return Checkpoints(folder.parent, NoHooks()).load(name)


def test_weights_and_rows_are_those_of_the_source(folder: Path) -> None:
    made, source = learner(), saved(folder)
    taken = take_over(made, source)
    assert taken.weights == taken.of_weights
    assert taken.items == 20
    for name, value in strategy(made).ranker.state_dict().items():
        torch.testing.assert_close(value, torch.from_numpy(source.files["dense"][f"ranker:{name}"]), rtol=0, atol=0)
    rows, masks = made.tables.items(["item-3"])
    packed = source.rows[-1]
    place = packed["item.keys"].tolist().index(key_of("item-3"))
    assert masks.tolist() == [1]
    np.testing.assert_array_equal(rows[0], packed["item.rows"][place])


def test_it_scores_well_from_the_first_impression(folder: Path) -> None:
    fresh, taught = learner(), learner()
    take_over(taught, saved(folder))
    shop = Shop(seed=3, items=20)
    shop.messages(200)
    examples = finished(shop, 60)
    assert loss_on(taught, examples) < loss_on(fresh, examples)


def test_shoppers_may_be_left_out(folder: Path) -> None:
    made = learner()
    assert take_over(made, saved(folder), users=False).users == 0
    assert not len(made.tables.user)


def test_with_other_features_only_what_is_not_of_features_is_taken(folder: Path) -> None:
    other = replace(SPEC, user_features=(FeatureRef(7, "other", "user_stats"), FeatureRef(8, "more", "user_stats")))
    made = learner_of(settings(admission=1), other, None)
    before = strategy(made).ranker.user_numeric.blocks[0].weight.detach().clone()
    taken = take_over(made, saved(folder))
    assert 0 < taken.weights < taken.of_weights
    assert torch.equal(strategy(made).ranker.user_numeric.blocks[0].weight, before)


def test_what_is_served_first_is_what_was_taken_over(folder: Path) -> None:
    made = learner()
    take_over(made, saved(folder))
    assert torch.equal(strategy(made)._dense.average, weights(made))


def test_the_lower_layers_stay_as_they_came_until_they_thaw(folder: Path) -> None:
    made: Learner = learner(strategy="thaw(50)")
    take_over(made, saved(folder))
    before = weights(made)
    learned(made, Shop(seed=4, items=20), 30)
    dense = strategy(made)._dense
    moved = {n.rpartition(".")[0] for n, v in dense.named(dense.flat - before).items() if v.any()}
    assert moved == {"deep", "out"}


@pytest.mark.parametrize("name", ["nowhere", "1-99"])
def test_what_is_no_checkpoint_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="transfer_from"):
        begin(settings(transfer_from=tmp_path / name), learner())
