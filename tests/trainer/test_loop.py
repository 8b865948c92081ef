"""The loop: what it does when, and what the publisher finds."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from services.common.encode import encode
from services.common.errors import CorruptState, InvalidInput, TemporaryError
from services.common.spec import OUTPUT, FeatureRef, ModelSpec, input_shapes
from services.publisher import deltas as publisher_deltas
from services.publisher import manifest as publisher_manifest
from services.publisher import onnx_file
from services.publisher.checks import verdict
from services.trainer.champion import session
from services.trainer.checkpoint import Checkpoints
from services.trainer.control import Control
from services.trainer.hooks import NoHooks
from services.trainer.loop import Loop
from services.trainer.triggers import VolumeTrigger
from tests.trainer.arm import TURN_US, Recorder, arm, digest, run, settings
from tests.trainer.world import SPEC, FileSource, Shop

NEVER = 10**9


def control(store: Path, **values: Any) -> None:
    path = store / "arms/main/control.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"lineage": 1, "epoch": 1, "slot": "a", **values}))


def exports(store: Path) -> list[Path]:
    folders = (store / "arms/main/exports").glob("r*")
    return sorted(folders, key=lambda path: [int(part) for part in path.name.split("-")[1:]])


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


@pytest.fixture
def trained(trained_once: tuple[Path, Loop, Recorder], tmp_path: Path) -> tuple[Path, Loop, Recorder]:
    """An arm that has made some releases, the last of them just now; its folder is the test's own."""
    folder, loop, recorder = trained_once
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path, loop, recorder


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Loop, Recorder]:
    tmp_path = tmp_path_factory.mktemp("trained")
    source, recorder = FileSource({0: Shop(items=20).messages(120)}), Recorder()
    loop, clock = arm(tmp_path, source, observer=recorder, trigger=VolumeTrigger(60))
    while not source.done:
        loop.turn()
        clock.advance_to(clock.now_us() + TURN_US)
    loop.release()
    loop.arm.close()
    return tmp_path, loop, recorder


def test_the_publisher_can_read_and_accepts_what_is_exported(trained: tuple[Path, Loop, Recorder]) -> None:
    store, loop, recorder = trained
    assert len(exports(store)) == len(recorder.releases) >= 2
    assert not recorder.failures
    folder = exports(store)[-1]
    found = publisher_manifest.read(folder)
    assert found.checkpoint == str(loop.arm.name)
    assert (found.slot, found.epoch, found.learned_up_to_us) == ("a", 1, loop.arm.learner.learned_up_to_us)
    checks = onnx_file.judge_declaration(onnx_file.inspect(folder / "model.onnx"), found.spec, onnx_file.FileBounds())
    assert verdict(checks).passed, verdict(checks).reason


def test_a_release_says_what_made_it_time(trained: tuple[Path, Loop, Recorder]) -> None:
    reasons = [manifest(folder)["trigger"] for folder in exports(trained[0])]
    assert set(reasons[:-1]) == {"volume(60)"}
    assert reasons[-1] == "asked for"


def test_a_trigger_sees_the_loss_of_every_judged_impression_once(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watching(VolumeTrigger):
        def see(self, losses: Sequence[float], surpluses: Sequence[float] = ()) -> None:
            seen.extend(losses)

    source = FileSource({0: Shop(items=20).messages(120)})
    loop, clock = arm(tmp_path, source, trigger=Watching(60))
    while not source.done:
        loop.turn()
        clock.advance_to(clock.now_us() + TURN_US)
    figures = loop.arm.learner.progress.metrics()
    assert len(seen) == figures["impressions"] > 50
    assert np.isfinite(seen).all()
    assert 0 < np.mean(seen) < 2
    loop.arm.close()


def test_recorded_requests_are_answered_as_the_trainer_did(trained: tuple[Path, Loop, Recorder]) -> None:
    folder = exports(trained[0])[-1]
    golden = load_file(folder / "golden.safetensors")
    inputs = {name: golden[f"in.{name}"] for name in input_shapes(SPEC)}
    assert inputs["mask"].shape == (64, 32)
    found = session((folder / "model.onnx").read_bytes()).run([OUTPUT], inputs)[0]
    np.testing.assert_allclose(found, golden[f"out.{OUTPUT}"], atol=1e-5)
    assert np.unique(found[inputs["mask"] > 0]).size > 100


def test_a_release_scores_as_the_learner_with_the_rows_of_its_deltas(trained: tuple[Path, Loop, Recorder]) -> None:
    store, loop, _ = trained
    rows = PushedRows(store / "arms/main/deltas")
    impression = Shop(seed=9).impression()[0]
    model = session((exports(store)[-1] / "model.onnx").read_bytes())
    learner = loop.arm.learner
    ours, theirs = (encode([impression], SPEC, source) for source in (learner.tables, rows))
    np.testing.assert_array_equal(model.run([OUTPUT], ours)[0], model.run([OUTPUT], theirs)[0])
    assert ours["row_mask"].any()


class PushedRows:
    """What the store holds after all deltas, as the publisher reads them."""

    def __init__(self, folder: Path) -> None:
        self._rows: dict[str, dict[str, Any]] = {"item": {}, "user": {}}
        for name in publisher_deltas.listed(folder):
            delta = publisher_deltas.read(folder, name)
            for kind, rows in (("item", delta.items), ("user", delta.users)):
                self._rows[kind] |= dict(zip(rows.ids, rows.rows, strict=True))

    def items(self, ids: Any) -> Any:
        return self._find("item", ids)

    def users(self, ids: Any) -> Any:
        return self._find("user", ids)

    def _find(self, kind: str, ids: Any) -> Any:
        rows = np.array([self._rows[kind].get(i, np.zeros(4)) for i in ids], np.float32).reshape(-1, 4)
        return rows, rows.any(axis=1).astype(np.float32)


def test_deltas_say_what_they_are(trained: tuple[Path, Loop, Recorder]) -> None:
    store, loop, recorder = trained
    names = sorted((store / "arms/main/deltas").iterdir())
    assert [path.name for path in names] == [f"00000001-{seq:012d}.safetensors" for seq in recorder.deltas]
    with safe_open(names[-1], "numpy") as file:
        meta = file.metadata()
    assert json.loads(meta["positions"]) == {"0": 120}
    assert int(meta["learned_up_to_us"]) == loop.arm.learner.learned_up_to_us


def test_retrieval_matrices_have_the_shapes_of_the_contract(trained: tuple[Path, Loop, Recorder]) -> None:
    towers = load_file(exports(trained[0])[-1] / "retrieval.safetensors")
    assert {n: a.shape for n, a in towers.items()} == {"content": (32, 8), "row": (4, 8), "user_row": (4, 8)}


def test_while_learning_is_frozen_nothing_is_taken(tmp_path: Path) -> None:
    source = FileSource({0: Shop().messages(20)})
    loop, clock = arm(tmp_path, source)
    loop.turn()
    before = digest(loop.arm.learner)
    control(tmp_path, freeze_learning=True)
    for _ in range(10):
        clock.advance_to(clock.now_us() + TURN_US)
        loop.turn()
    assert loop.frozen
    assert digest(loop.arm.learner) == before
    control(tmp_path)
    clock.advance_to(clock.now_us() + TURN_US)
    loop.turn()
    assert digest(loop.arm.learner) != before
    loop.arm.close()


def test_a_champion_is_scored_on_the_same_impressions_and_rows(trained: tuple[Path, Loop, Recorder]) -> None:
    store, loop, _ = trained
    champion = exports(store)[-1].name
    control(store, accepted=["r20200101t000000-1-1", champion])
    shop = Shop(items=20)
    shop.messages(120)
    source = FileSource({0: [*Shop(items=20).messages(120), *shop.messages(30)]})
    again, clock = arm(store, source, trigger=VolumeTrigger(NEVER))
    while not source.done:
        again.turn()
        clock.advance_to(clock.now_us() + TURN_US)
    metrics = again.arm.learner.progress.metrics()
    assert metrics["impressions"] == 30
    assert 0.3 < metrics["champion_auc"] < 1
    assert metrics["champion_auc"] != metrics["auc"]
    again.release()
    found = manifest(exports(store)[-1])
    assert found["parent"] == champion
    assert found["metrics"]["champion_log_loss"] > 0
    with safe_open(sorted((store / "arms/main/deltas").iterdir())[-1], "numpy") as file:
        assert int(file.metadata()["champion_rows"]) > 0
    again.arm.close()


def test_a_higher_epoch_begins_a_new_lineage_from_the_named_checkpoint(trained: tuple[Path, Loop, Recorder]) -> None:
    store, loop, _ = trained
    first = manifest(exports(store)[0])
    source = FileSource({0: Shop(items=20).messages(120)})
    control(store, lineage=2, epoch=2, slot="b", from_checkpoint=first["checkpoint"])
    recorder = Recorder()
    again, clock = arm(store, source, observer=recorder)
    clock.advance_to(clock.now_us() + TURN_US)
    again.turn()
    assert (again.arm.epoch, again.arm.name.lineage) == (2, 2)
    run(again, clock, source)
    assert digest(again.arm.learner) == digest(loop.arm.learner), "the same examples again, from the same weights"
    assert recorder.deltas[0] == 1
    assert (store / "arms/main/deltas/00000002-000000000001.safetensors").exists()
    newest = publisher_manifest.read(exports(store)[-1])
    assert (newest.lineage, newest.epoch, newest.slot) == (2, 2, "b")
    resumed, _ = arm(store, FileSource({0: Shop(items=20).messages(120)}))
    assert (resumed.arm.epoch, resumed.arm.name.lineage) == (2, 2)
    resumed.arm.close()


def test_a_higher_epoch_without_a_checkpoint_pushes_every_row_again(trained: tuple[Path, Loop, Recorder]) -> None:
    store, _, _ = trained
    resumed, _ = arm(store, FileSource({0: Shop(items=20).messages(120)}))
    state = resumed.arm
    assert state.push() == 0
    state.begin(Control(lineage=1, epoch=7))
    rows = int(state.learner.tables.item.live.sum() + state.learner.tables.user.live.sum())
    saved = Checkpoints(state.paths.root / "checkpoints", NoHooks()).newest()
    assert saved is not None
    assert saved.meta["rows_unpushed"], "a crash before they are pushed does not lose them"
    assert (state.push(), state.epoch) == (rows, 7)
    assert (store / "arms/main/deltas/00000007-000000000001.safetensors").exists()
    state.close()


def test_an_epoch_from_a_checkpoint_that_is_not_there_changes_nothing(tmp_path: Path) -> None:
    control(tmp_path, lineage=2, epoch=2, slot="b", from_checkpoint="1-77")
    recorder = Recorder()
    source = FileSource({0: Shop().messages(3)})
    loop, clock = arm(tmp_path, source, observer=recorder)
    run(loop, clock, source)
    assert loop.arm.epoch == 1
    assert recorder.failures[0][0] == "control"


@pytest.mark.parametrize("text", ["", "{", '{"epoch": "x"}', "[]", '{"lineage": 1}'])
def test_a_control_file_that_cannot_be_read_is_said_and_passed_over(text: str, tmp_path: Path) -> None:
    control(tmp_path)
    (tmp_path / "arms/main/control.json").write_text(text)
    source, recorder = FileSource({0: Shop().messages(3)}), Recorder()
    loop, clock = arm(tmp_path, source, observer=recorder)
    run(loop, clock, source)
    assert {what for what, _ in recorder.failures} == {"control"}
    assert loop.arm.learner.learned > 0


def test_a_new_feature_is_in_the_next_release_with_the_same_scores_at_that_moment(tmp_path: Path) -> None:
    new = FeatureRef(55, "new", "item_stats")
    wider = replace(SPEC, item_features=(new, *SPEC.item_features), feature_service="ranking@2")
    features = [SPEC]
    source = FileSource({0: [*Shop().messages(40), *Shop(seed=1, spec=wider, made=40).messages(40)]})
    loop, clock = arm(tmp_path, source, wanted=lambda: features[-1], trigger=VolumeTrigger(NEVER))
    while loop.arm.learner.positions.get(0, 0) < 40:
        loop.turn()
    loop.release()
    features.append(wider)
    clock.advance_to(clock.now_us() + 10_000_000)
    loop.release()
    before, after = (session((folder / "model.onnx").read_bytes()) for folder in exports(tmp_path))
    requests = [Shop(seed=4, spec=wider).impression()[0] for _ in range(5)]
    old, now = (encode(requests, spec, loop.arm.learner.tables) for spec in (SPEC, wider))
    np.testing.assert_array_equal(before.run([OUTPUT], old)[0], after.run([OUTPUT], now)[0])
    assert manifest(exports(tmp_path)[-1])["spec"]["feature_service"] == "ranking@2"
    run(loop, clock, source)
    assert loop.arm.learner.strategy.ranker.item_numeric.blocks[1].weight.any()
    resumed, _ = arm(tmp_path, FileSource({0: []}), wanted=lambda: wider)
    assert digest(resumed.arm.learner) == digest(loop.arm.learner)
    resumed.arm.close()


def test_new_features_are_taken_at_the_same_batch_after_a_crash(tmp_path: Path) -> None:
    wider = replace(SPEC, item_features=(*SPEC.item_features, FeatureRef(55, "new", "item_stats")))
    messages = Shop(spec=wider).messages(30)
    source = FileSource({0: messages})
    loop, clock = arm(tmp_path, source, trigger=VolumeTrigger(NEVER))
    for _ in range(5):
        loop.turn()
    assert loop.arm.adapt(wider)
    for _ in range(5):
        loop.turn()
    resumed, _ = arm(tmp_path, FileSource({0: messages}))
    assert resumed.arm.learner.spec == wider
    assert digest(resumed.arm.learner) == digest(loop.arm.learner)
    resumed.arm.close()
    loop.arm.close()


@pytest.mark.parametrize("error", [TemporaryError("registry"), InvalidInput("view:f", "bad", "is wrong")])
def test_features_that_cannot_be_had_do_not_stop_the_learning(error: Exception, tmp_path: Path) -> None:
    recorder, source = Recorder(), FileSource({0: Shop().messages(30)})
    loop, clock = arm(tmp_path, source, observer=recorder, wanted=once(SPEC, error), trigger=VolumeTrigger(40))
    run(loop, clock, source)
    assert ("features", error) in recorder.failures
    assert recorder.releases


def once(spec: ModelSpec, error: Exception) -> Callable[[], ModelSpec]:
    """Answers the first time, fails from then on."""
    answers = [spec]

    def wanted() -> ModelSpec:
        if answers:
            return answers.pop()
        raise error

    return wanted


def test_another_row_length_is_refused_at_the_start(trained: tuple[Path, Loop, Recorder]) -> None:
    with pytest.raises(InvalidInput, match="row_dim"):
        arm(trained[0], FileSource({0: []}), wanted=lambda: replace(SPEC, row_dim=8), chosen=settings(row_dim=8))


def test_other_heads_are_refused_at_the_start(trained: tuple[Path, Loop, Recorder]) -> None:
    with pytest.raises(InvalidInput, match="loss_weights"):
        arm(trained[0], FileSource({0: []}), wanted=lambda: replace(SPEC, heads=("like",)), chosen=settings())


def test_with_a_push_interval_of_nothing_every_batch_has_its_delta(tmp_path: Path) -> None:
    recorder, source = Recorder(), FileSource({0: Shop().messages(10)}, sizes=(1,))
    loop, _ = arm(tmp_path, source, observer=recorder, push_interval_us=0, chosen=settings(admission=1))
    for _ in range(10):
        loop.turn()
    loop.arm.close()
    assert recorder.deltas == list(range(1, 11))


def test_settings_outside_their_range_are_refused() -> None:
    for name, value in {
        "share": 0.001, "row_dim": 0, "batch_impressions": 0, "batch_items": 0,
        "update_interval": 0, "row_dropout": 1.0, "admission": 0,
        "learning_rate": 0, "device": "tpu", "optimiser": "newton",
            "strategy": "ewc(-1)", "loss": "hinge()", "arm": "../x", "threads": 0, "loss_weights": {},
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=name):
            settings(**{name: value})


def test_checkpoints_of_another_model_are_refused_with_a_sentence(trained: tuple[Path, Loop, Recorder]) -> None:
    with pytest.raises(CorruptState, match="another model"):
        arm(trained[0], FileSource({0: []}), chosen=settings(retrieval_dim=9))
