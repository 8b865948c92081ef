"""Every ranking model: what its scores depend on, that it can be exported, that it learns, and that it goes on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch

from services.common.errors import InvalidInput
from services.common.spec import OUTPUT, ModelSpec
from services.publisher import manifest as publisher_manifest
from services.publisher import onnx_file
from services.publisher.checks import verdict
from services.trainer.champion import Champion, session
from services.trainer.checkpoint import digest_of
from services.trainer.export import MOST_IR, OPSET, TOLERANCE, onnx_bytes
from services.trainer.factory import learner_of
from services.trainer.models.base import RankingModel, Sizes
from services.trainer.models.registry import MODELS
from services.trainer.settings import TrainerSettings
from tests.trainer.arm import Recorder, arm, digest, run, settings
from tests.trainer.test_model import NEW_ITEM, NEW_USER, inputs, scores, tensors, wider
from tests.trainer.test_online import batch
from tests.trainer.world import SPEC, FileSource, Shop, message

every_model = pytest.mark.parametrize("name", list(MODELS))


def fresh(name: str, spec: ModelSpec = SPEC) -> RankingModel:
    torch.manual_seed(1)
    return MODELS[name](spec, Sizes(hidden=(16, 8)))


def learned(name: str) -> RankingModel:
    """With weights as after some learning: nothing is zero."""
    made = fresh(name)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    made.observe(tensors(inputs(SPEC, 30, 9)))
    return made


def test_the_setting_offers_every_model_and_no_other() -> None:
    field = TrainerSettings.model_fields["model"]
    assert get_args(field.annotation) == tuple(MODELS)
    assert all(name in str(field.description) for name in MODELS)


@every_model
def test_the_file_scores_as_the_model_and_is_of_versions_that_production_reads(name: str) -> None:
    model = learned(name)
    data = onnx_bytes(model, SPEC)
    graph = onnx.load_from_string(data)
    assert (graph.ir_version <= MOST_IR, [o.version for o in graph.opset_import]) == (True, [OPSET])
    runtime = session(data)
    assert {value.name for value in runtime.get_inputs()} == set(model.names)
    for size in ((1, 1), (3, 7), (2, 128)):
        x = inputs(SPEC, *size)
        expected = scores(model, x)
        assert expected.shape == (*size, len(SPEC.heads))
        assert expected.std() > 1e-3
        np.testing.assert_allclose(runtime.run([OUTPUT], x)[0], expected, atol=TOLERANCE / 10)


@every_model
def test_a_score_does_not_depend_on_who_else_is_asked_about(name: str) -> None:
    x = inputs(batch=1, candidates=9)
    part = {n: a[:, 2:5] if a.ndim > 1 and a.shape[1] == 9 else a for n, a in x.items()}
    np.testing.assert_allclose(scores(learned(name), part), scores(learned(name), x)[:, 2:5], atol=1e-6)


@every_model
def test_padding_is_scored_zero_and_changes_no_other_score(name: str) -> None:
    x, y = inputs(), inputs()
    x["mask"][:, 4:], y["mask"][:, 4:] = 0, 0
    for part in ("item", "content", "row"):
        y[part][:, 4:] = 9
    assert not scores(learned(name), x)[:, 4:].any()
    np.testing.assert_array_equal(scores(learned(name), x), scores(learned(name), y))


@every_model
def test_masked_history_is_not_read(name: str) -> None:
    x, y = inputs(), inputs()
    x["history_mask"][:, 2:], y["history_mask"][:, 2:] = 0, 0
    for part, value in (("content", 9), ("kind", 5), ("row", 1e3), ("age", 30)):
        y[f"history_{part}"][:, 2:] = value
    np.testing.assert_array_equal(scores(learned(name), x), scores(learned(name), y))


@every_model
def test_an_empty_history_has_scores_and_another_history_has_others(name: str) -> None:
    x, y, model = inputs(), inputs(), learned(name)
    x["history_mask"][:] = 0
    y["history_mask"][:] = 1
    assert np.isfinite(scores(model, x)).all()
    assert (scores(model, x) != scores(model, y)).any()
    np.testing.assert_allclose(
        session(onnx_bytes(model, SPEC)).run([OUTPUT], x)[0], scores(model, x), atol=TOLERANCE / 10
    )


@every_model
def test_without_its_mask_a_row_is_nothing(name: str) -> None:
    x, y = inputs(), inputs()
    for part in ("row", "history_row", "user_row"):
        x[f"{part}_mask"][:], y[f"{part}_mask"][:] = 0, 0
        y[part][:] = 1e3
    np.testing.assert_array_equal(scores(learned(name), x), scores(learned(name), y))


@every_model
def test_new_features_change_no_bit_of_a_score(name: str) -> None:
    first, *rest = SPEC.item_features
    spec = replace(SPEC, user_features=(NEW_USER, *SPEC.user_features), item_features=(first, NEW_ITEM, *rest))
    old = learned(name)
    new = old.adapted(spec)
    before, after = session(onnx_bytes(old, SPEC)), session(onnx_bytes(new, spec))
    for size in ((1, 1), (3, 7), (2, 33), (1, 128)):
        x = inputs(SPEC, *size)
        y = wider(x, 0, 1)
        np.testing.assert_array_equal(scores(new, y), scores(old, x))
        np.testing.assert_array_equal(after.run([OUTPUT], y)[0], before.run([OUTPUT], x)[0])


@every_model
def test_a_new_feature_can_be_learned(name: str) -> None:
    spec = replace(SPEC, item_features=(*SPEC.item_features[1:], NEW_ITEM))
    new = learned(name).adapted(spec)
    assert new.item_numeric.ids == [[11, 12], [99]]
    new.logits(tensors(inputs(spec))).sum().backward()
    gradient = new.item_numeric.blocks[1].weight.grad
    assert gradient is not None
    assert gradient.any()


@every_model
def test_rows_of_item_shopper_and_history_learn_from_the_first_example(name: str) -> None:
    x = tensors(inputs())
    rows = ("row", "user_row", "history_row")
    for part in rows:
        x[part] = torch.zeros_like(x[part]).requires_grad_()
    fresh(name).logits(x).sum().backward()
    for part in rows:
        gradient = x[part].grad
        assert gradient is not None
        there = x[f"{part}_mask"].expand_as(gradient) > 0
        assert gradient[there].any()
        assert not gradient[~there].any()


@every_model
def test_every_weight_moves(name: str) -> None:
    model = learned(name)
    model.logits(tensors(inputs(SPEC, 20, 9))).square().sum().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@every_model
def test_it_learns_what_is_clicked(name: str) -> None:
    made, shop = learner_of(settings(model=name, window=150), SPEC, None), Shop(seed=4, items=20)
    for start in range(0, 300, 5):
        made.apply(batch(shop.messages(5), start))
    newest = made.progress.metrics()
    share = newest["ctr"]
    base_rate = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert newest["impressions"] == 150
    assert newest["auc"] > 0.7
    assert newest["log_loss"] < 0.95 * base_rate


@every_model
def test_the_first_scores_are_near_the_prior(name: str) -> None:
    made = learner_of(settings(model=name), SPEC, None)
    made.apply(batch([message([row for k in range(30) for row in Shop(seed=k).rows(k)])]))
    assert 0.02 < made.progress.metrics()["predicted_ctr"] < 0.1


@every_model
def test_a_release_names_its_model_and_passes_the_checks_of_the_publisher(name: str, tmp_path: Path) -> None:
    recorder, source = Recorder(), FileSource({0: Shop().messages(8)})
    loop, clock = arm(tmp_path, source, observer=recorder, chosen=settings(model=name))
    while not source.done:
        loop.turn()
    loop.release()
    loop.arm.close()
    assert not recorder.failures
    folder = loop.arm.paths.exports / recorder.releases[-1]
    assert json.loads((folder / "manifest.json").read_text())["model"] == name
    found = publisher_manifest.read(folder)
    checks = onnx_file.judge_declaration(onnx_file.inspect(folder / "model.onnx"), found.spec, onnx_file.FileBounds())
    assert verdict(checks).passed, verdict(checks).reason
    assert Champion(folder).release == recorder.releases[-1]


def after_a_restart(store: Path, name: str, logs: dict[int, list[bytes]], turns: int) -> str:
    """Digest of an arm that is dropped after so many turns, without a word, and made anew from its files."""
    chosen, source = settings(model=name), FileSource(logs)
    first, clock = arm(store, source, chosen=chosen)
    for _ in range(turns):
        first.turn()
    first.arm._journal.close()
    source = FileSource(logs)
    second, clock = arm(store, source, chosen=chosen)
    run(second, clock, source)
    return digest(second.arm.learner)


def test_an_arm_that_is_started_again_ends_bit_equal(tmp_path: Path) -> None:
    name, shop = "transformer", Shop(seed=3, items=20, listed=6)
    logs = {0: shop.messages(30), 1: shop.messages(20)}
    source = FileSource(logs)
    loop, clock = arm(tmp_path / "whole", source, chosen=settings(model=name))
    run(loop, clock, source)
    assert after_a_restart(tmp_path / "again", name, logs, 7) == digest(loop.arm.learner)


def test_checkpoints_of_another_model_are_refused_with_a_sentence(tmp_path: Path) -> None:
    first, _ = arm(tmp_path, FileSource({0: []}), chosen=settings(model="deepfm"))
    first.arm.close()
    with pytest.raises(InvalidInput, match="checkpoint 1-1 is of the model deepfm; logistic needs another arm"):
        arm(tmp_path, FileSource({0: []}), chosen=settings(model="logistic"))


def test_a_rollback_to_a_checkpoint_of_another_model_is_said_and_learning_goes_on(tmp_path: Path) -> None:
    other, _ = arm(tmp_path / "other", FileSource({0: []}), chosen=settings(model="deepfm"))
    other.arm.close()
    recorder, source = Recorder(), FileSource({0: Shop().messages(6)})
    loop, clock = arm(tmp_path / "own", source, observer=recorder)
    shutil.copytree(tmp_path / "other/arms/main/checkpoints/1-1", tmp_path / "own/arms/main/checkpoints/0-1")
    wanted = {"lineage": 2, "epoch": 2, "slot": "b", "from_checkpoint": "0-1"}
    (tmp_path / "own/arms/main/control.json").write_text(json.dumps(wanted))
    run(loop, clock, source)
    assert "model: checkpoint 0-1 is of the model deepfm; din needs another arm" in str(recorder.failures[0])
    assert (loop.arm.epoch, loop.arm.learner.positions) == (1, {0: 6})


def test_checkpoints_from_before_the_choice_are_of_din(tmp_path: Path) -> None:
    source = FileSource({0: Shop().messages(20)})
    loop, clock = arm(tmp_path, source)
    run(loop, clock, source)
    without_the_name(tmp_path / "arms/main/checkpoints")
    again, _ = arm(tmp_path, FileSource({0: []}))
    again.arm.close()
    assert digest(again.arm.learner) == digest(loop.arm.learner)
    with pytest.raises(InvalidInput, match="of the model din"):
        arm(tmp_path, FileSource({0: []}), chosen=settings(model="dlrm"))


def without_the_name(folder: Path) -> None:
    """Checkpoints as they were written when there was one model."""
    for path in folder.glob("*/state.json"):
        meta = json.loads(json.loads(path.read_text())["body"])
        assert meta.pop("model") == "din"
        body = json.dumps(meta)
        path.write_text(json.dumps({"sha256": digest_of(body.encode()), "body": body}))
