"""The worker that keeps an encoder learning from searches."""

import json
import multiprocessing
import signal
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import CorruptState, InvalidInput
from services.common.ids import key_of
from services.text import categories
from services.text.folder import read
from services.text.names import ENCODER_ID, incoming, kept
from services.trainer.app import start
from services.trainer.text.app import folder_of
from services.trainer.text.catalogue import Texts
from services.trainer.text.load import load
from tests.trainer.text import tiny
from tests.trainer.text.searching import SAID, THINGS, Searches, digest, main, quick, run, settings, worker
from tests.trainer.world import FileSource, read_logs, write_logs

POINTS = (
    *("slice.staged", "slice.renamed", "step.learned", "text.staged", "text.renamed", "slice.ended"),
    *("export.staged", "export.renamed"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "logs.json"
    one, other = Searches(seed=1), Searches(seed=2)
    write_logs(path, {0: one.messages(60), 1: [*other.messages(30), other.forget("user-3"), *other.messages(30)]})
    return path


@pytest.fixture(scope="module")
def undisturbed(model: Path, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    source = FileSource(read_logs(logs))
    loop, seen = worker(quick(tmp_path_factory.mktemp("whole"), model), source)
    run(loop, source)
    assert len(seen.releases) > 2
    return digest(loop)


class Stopped(BaseException):
    """No part of the code takes it for its own."""


class StopAt:
    """Ends the work at a point; what is in memory is gone."""

    def __init__(self, point: str, times: int) -> None:
        self._point, self._left = point, times

    def at(self, point: str) -> None:
        self._left -= point == self._point
        if not self._left and point == self._point:
            raise Stopped


@pytest.mark.parametrize("point", POINTS)
def test_stopped_at_any_point_it_ends_bit_equal(
    point: str, model: Path, logs: Path, undisturbed: str, tmp_path: Path
) -> None:
    source = FileSource(read_logs(logs))
    stopped, _ = worker(quick(tmp_path, model), source, StopAt(point, 2))
    with pytest.raises(Stopped):
        run(stopped, source)
    source = FileSource(read_logs(logs))
    loop, _ = worker(quick(tmp_path, model), source)
    run(loop, source)
    assert digest(loop) == undisturbed
    assert not list(tmp_path.rglob(".staging-*"))
    assert not (folder_of(tmp_path) / "slice.json").exists()
    sources = [read(folder).source for folder in incoming(tmp_path).iterdir()]
    assert len(sources) == len(set(sources)) > 2


def test_killed_inside_a_slice_it_ends_bit_equal(model: Path, logs: Path, undisturbed: str, tmp_path: Path) -> None:
    assert process(tmp_path, model, logs, "step.learned", "7") == -signal.SIGKILL
    assert (folder_of(tmp_path) / "slice.json").exists()
    assert process(tmp_path, model, logs) == 0
    assert (tmp_path / "digest").read_text() == undisturbed


def process(store: Path, model: Path, logs: Path, *kill: str) -> int | None:
    """A worker in a process of its own; its exit code. Forked from a server that has torch loaded: quick."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.trainer.text.searching", "tests.trainer.text.tiny", "peft"])
    child = context.Process(target=main, args=((str(store), str(model), str(logs), *kill),))
    child.start()
    child.join(60)
    code = child.exitcode
    child.close()
    return code


def test_searches_make_an_encoder_that_orders_better_than_the_one_it_began_from(model: Path, tmp_path: Path) -> None:
    chosen = settings(tmp_path, model, text_way="full(0.001), replay(100)", text_interval=90)
    source = FileSource({0: Searches().messages(360)})
    loop, seen = worker(chosen, source)
    run(loop, source)
    first, last = seen.releases[0], seen.releases[-1]
    assert last["ndcg10"] > last["base_ndcg10"] + 0.1
    assert last["early_mrr"] > last["early_base_mrr"] + 0.1
    assert first["early_base_ndcg10"] == last["early_base_ndcg10"]
    assert np.mean(seen.losses[-6:]) < np.mean(seen.losses[:6]) - 0.3
    assert not seen.failures


def test_what_is_released_tells_what_a_query_asks_for(model: Path, tmp_path: Path) -> None:
    source = FileSource({0: Searches().messages(240)})
    loop, seen = worker(settings(tmp_path, model, text_interval=50), source)
    run(loop, source)
    oldest, *_, newest = sorted(incoming(tmp_path).iterdir())
    assert categories.read(oldest, read(oldest)) is None
    assert seen.releases[0] | {"category_used": 0.0} == seen.releases[0]
    told = categories.read(newest, read(newest))
    assert told is not None
    assert set(told.names) == {"", *THINGS}
    last = seen.releases[-1]
    assert last["category_used"] == 1
    assert last["category_hits"] > last["category_prior_hits"] + 0.3
    assert last["category_log_loss"] < last["category_prior_log_loss"]
    text = loop.tuner.learner.released()
    vectors = text.queries([f"cheap {SAID[thing]}" for thing in THINGS])
    assert [next(iter(told.of(vector))) for vector in vectors] == list(THINGS)


def test_no_searches_are_kept_for_categories_that_nobody_wants(model: Path, tmp_path: Path) -> None:
    source = FileSource({0: Searches().messages(120)})
    loop, seen = worker(settings(tmp_path, model, text_category_searches=0, text_interval=100), source)
    run(loop, source)
    assert loop.tuner.progress.asked == []
    assert not any(name.startswith("category") for figures in seen.releases for name in figures)


def test_searches_that_do_not_end_hold_no_release_up(model: Path, tmp_path: Path) -> None:
    source = FileSource({0: Searches().messages(120)}, (30,))
    loop, seen = worker(settings(tmp_path, model, text_interval=1), source)
    while not source.done:
        loop.turn()
    assert len(seen.releases) > 1


def test_a_slice_is_judged_before_it_is_learned(model: Path, tmp_path: Path) -> None:
    source = FileSource({0: Searches().messages(40)})
    loop, _ = worker(settings(tmp_path, model), source)
    while not loop.tuner.busy:
        loop.turn()
    found = loop.tuner.metrics()
    assert found["lists"] == 10
    assert (found["ndcg10"], found["mrr"]) == (found["base_ndcg10"], found["base_mrr"])


def test_a_release_says_where_it_comes_from_and_what_it_has_seen(model: Path, tmp_path: Path) -> None:
    messages = Searches().messages(60)
    source = FileSource({0: messages})
    loop, seen = worker(settings(tmp_path, model, text_interval=20, text_int8=True), source)
    run(loop, source)
    loop.release()
    folder = sorted(incoming(tmp_path).iterdir())[-1]
    about = read(folder)
    assert ENCODER_ID.fullmatch(folder.name)
    assert folder.name.endswith(about.source[:8])
    assert (about.parent, about.precision) == (load(str(model), 16).about.source, "int8")
    assert about.metrics == seen.releases[-1]
    assert about.metrics["pairs"] == loop.tuner.progress.learned >= 60
    assert 0 < about.learned_up_to_us <= about.created_us
    assert not (folder_of(tmp_path) / "slice.json").exists()


def test_what_was_exported_is_not_exported_again(model: Path, tmp_path: Path) -> None:
    source = FileSource({0: Searches().messages(40)})
    loop, seen = worker(settings(tmp_path, model), source)
    run(loop, source)
    loop.release()
    (only,) = incoming(tmp_path).iterdir()
    kept(tmp_path).mkdir(parents=True)
    only.rename(kept(tmp_path) / only.name)
    loop.release()
    assert len(seen.releases) == 1


def test_a_forgotten_shopper_is_in_nothing_that_is_kept(model: Path, tmp_path: Path) -> None:
    shop = Searches(users=3)
    before, after = shop.messages(50), shop.messages(3)
    source = FileSource({0: [*before, shop.forget("user-1"), shop.forget("user-0"), shop.forget("user-2"), *after]})
    loop, _ = worker(settings(tmp_path, model, text_pairs=20), source)
    while source.read_so_far < 48 or loop.tuner.busy:
        loop.turn()
    assert loop.tuner.learner.state()["replay"].numel() > 100
    assert loop.tuner.progress.early
    assert loop.tuner.progress.asked
    while source.read_so_far < 53:
        loop.turn()
    gone = {key_of(f"user-{k}") for k in range(3)}
    progress = loop.tuner.progress
    assert not {one.owner for one in [*progress.early, *progress.asked]} & gone
    assert not progress.early
    assert json.loads(loop.tuner.learner.state()["replay"].numpy().tobytes())[2] == []
    (checkpoint,) = [path for path in folder_of(tmp_path).iterdir() if path.is_dir()]
    assert not any(str(owner) in (checkpoint / "state.json").read_text() for owner in gone)


def test_searches_whose_items_nobody_knows_are_counted_and_left_out(model: Path, tmp_path: Path) -> None:
    source = FileSource({0: Searches().messages(60)})
    loop, seen = worker(settings(tmp_path, model), source, texts=Texts())
    run(loop, source)
    assert loop.tuner.progress.untold == 60 + 12 - len(loop.tuner.progress.waiting)
    assert (loop.tuner.progress.learned, seen.releases) == (0, [])


def test_frozen_learning_reads_nothing(model: Path, tmp_path: Path) -> None:
    controls = tmp_path / "arms/main/control.json"
    controls.parent.mkdir(parents=True)
    about = {"lineage": 1, "epoch": 1, "slot": "a", "freeze_learning": True}
    controls.write_text(json.dumps(about))
    source = FileSource({0: Searches().messages(10)})
    loop, _ = worker(settings(tmp_path, model), source)
    loop.turn()
    assert (loop.frozen, source.read_so_far) == (True, 0)


def test_a_broken_checkpoint_falls_back_and_none_whole_is_an_error(model: Path, tmp_path: Path) -> None:
    source = FileSource({0: Searches().messages(60)})
    chosen = settings(tmp_path, model)
    loop, _ = worker(chosen, source)
    run(loop, source)
    folders = sorted(path for path in folder_of(tmp_path).iterdir() if path.is_dir())
    assert len(folders) == 2
    (folders[1] / "state.safetensors").write_bytes(b"no")
    again, _ = worker(chosen, FileSource({0: Searches().messages(60)}))
    assert again.tuner.progress.slices == loop.tuner.progress.slices
    (folders[0] / "state.json").write_text("{}")
    with pytest.raises(CorruptState, match="none of the 2"):
        worker(chosen, source)


@pytest.mark.parametrize(("change", "field"), [("way", "text_way"), ("model", "text_model")])
def test_checkpoints_of_another_beginning_are_refused_by_the_setting(
    change: str, field: str, model: Path, tmp_path: Path
) -> None:
    worker(settings(tmp_path / "store", model), FileSource({0: []}))
    other = {"text_way": "full(0.001)"} if change == "way" else {}
    begun = tiny.folder(tmp_path / "other", seed=9) if change == "model" else model
    with pytest.raises(InvalidInput) as raised:
        worker(settings(tmp_path / "store", begun, **other), FileSource({0: []}))
    assert raised.value.field == field


def test_without_a_model_it_does_not_start(tmp_path: Path) -> None:
    chosen = settings(tmp_path, Path("x")).model_copy(update={"text_model": ""})
    with pytest.raises(InvalidInput, match="TEXT_MODEL"):
        start(chosen, ["text"])
    with pytest.raises(InvalidInput, match="words"):
        start(chosen, ["words"])
