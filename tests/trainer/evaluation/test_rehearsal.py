"""A way of learning over an archive: judged before it is learned, and as a live trainer learns it."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.common.errors import CorruptState
from services.trainer.archive import ArchiveSource
from services.trainer.archive_writer import Archive
from services.trainer.evaluation.judge import common
from services.trainer.evaluation.rehearsal import Outcome, Trial, rehearse
from services.trainer.evaluation.study import Settings, Study
from services.trainer.examples import Batch
from tests.cli.fakes import run as command
from tests.trainer.arm import arm, run
from tests.trainer.world import SPEC, FileSource, Shop

SMALL = {
    "row_dim": 4,
    "max_rows": 2_000,
    "batch_impressions": 1,
    "batch_items": 64,
    "retrieval_dim": 8,
    "warmup_impressions": 100,
    "trigger": "volume(100)",
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    archive = Archive(folder)
    messages = Shop(seed=3, items=20).messages(200)
    archive.add(Batch({0: (0, len(messages))}, {0: messages}))
    archive.describe(SPEC)
    archive.flush()
    return folder


def outcome(examples: Path, lags: tuple[float, ...] = (), learns: bool = True, **changes: object) -> Outcome:
    trial = Trial("tried", {**SMALL, **changes}, learns)
    return rehearse(trial, ArchiveSource(examples, messages=5), SPEC, lags)


def test_it_scores_what_a_live_trainer_scores(examples: Path, tmp_path: Path) -> None:
    found = outcome(examples)
    source = FileSource({0: Shop(seed=3, items=20).messages(200)}, sizes=(5,))
    loop, clock = arm(tmp_path, source)
    run(loop, clock, source)
    live = [judged.learner for judged in loop.arm.learner.progress._window]
    assert len(found.lists) == len(live) == 200
    for ours, theirs in zip(found.lists, live, strict=True):
        np.testing.assert_allclose(ours.scores, theirs, rtol=1e-4, atol=1e-6)


def test_releases_come_by_the_trigger(examples: Path) -> None:
    assert outcome(examples, trigger="volume(200)").releases < outcome(examples).releases


def test_a_late_deployment_serves_an_older_model(examples: Path) -> None:
    found = outcome(examples, lags=(0.0, 60.0, 1e9))
    assert not found.late[1e9], "no release is old enough"
    assert 0 < len(found.late[60.0]) < len(found.late[0.0]) < len(found.lists)
    at_once, late = common([found.late[0.0], found.late[60.0]])
    assert [a.impression_id for a in at_once] == [b.impression_id for b in late]
    assert any(not np.array_equal(a.scores, b.scores) for a, b in zip(at_once, late, strict=True))


def test_what_is_frozen_learns_nothing_after_its_first_release(examples: Path) -> None:
    frozen, online = outcome(examples, learns=False), outcome(examples)
    assert frozen.releases == 1 < online.releases
    assert np.array_equal(frozen.lists[10].scores, online.lists[10].scores)
    assert not np.array_equal(frozen.lists[-1].scores, online.lists[-1].scores)


def test_what_is_forgotten_is_measured_by_period(examples: Path) -> None:
    found = outcome(examples)
    assert [len(row) for row in found.forgetting] == [1, 2, 3, 4, 5]
    expected = np.mean([found.forgetting[-1][j] - found.forgetting[j][j] for j in range(4)])
    assert found.backward_transfer == pytest.approx(expected)


def test_one_shopper_is_seen_before_and_after(examples: Path) -> None:
    found = outcome(examples).shopper
    assert found["before"] != found["after"]
    assert len(found["places"]) == len(found["clicked"]) == len(found["before"]) == len(found["after"])
    clicked = np.array(found["clicked"])
    gain = np.array(found["after"]) - np.array(found["before"])
    assert gain[clicked].mean() > gain[~clicked].mean(), "what was clicked rises beside what was not"


def test_a_champion_teaches_in_a_rehearsal_too(examples: Path) -> None:
    taught, alone = outcome(examples, strategy="distillation(0.9, 2)"), outcome(examples)
    assert np.array_equal(taught.lists[5].scores, alone.lists[5].scores)
    assert not np.array_equal(taught.lists[-1].scores, alone.lists[-1].scores)


def test_a_study_goes_on_where_it_was(examples: Path, tmp_path: Path) -> None:
    source, path = ArchiveSource(examples), tmp_path / "study.json"
    trials = [Trial("one", SMALL), Trial("two", {**SMALL, "strategy": "replay(50, 0.5)"})]
    done: list[str] = []
    Study(path, source, Settings()).run(trials[:1], lambda name, n: done.append(name))
    first = json.loads(path.read_text())["results"]["one"]
    done.clear()
    Study(path, source, Settings()).run(trials, lambda name, n: done.append(name))
    results = json.loads(path.read_text())["results"]
    assert set(done) == {"two"}
    assert results["one"] == first
    assert results["two"]["mrr_difference"]["value"] == pytest.approx(
        results["two"]["mrr"]["value"] - results["one"]["mrr"]["value"], abs=1e-9
    )


def test_other_settings_are_tried_anew(examples: Path, tmp_path: Path) -> None:
    source, path = ArchiveSource(examples), tmp_path / "study.json"
    done: list[str] = []
    for changes in (SMALL, {**SMALL, "seed": 2}):
        Study(path, source, Settings()).run([Trial("one", changes)], lambda name, n: done.append(name))
    assert len(done) > len(set(done))


def test_the_command_compares_ways_and_draws_them(
    examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SMALL.items():
        monkeypatch.setenv(f"FRESHRANK_TRAINER_{name.upper()}", str(value))
    page = tmp_path / "page.html"
    ended = command(
        *("evaluate", str(examples), "--way", "waiting: labels=waiting; loss=focal(1)"),
        *("--track", f'mlflow("sqlite:///{tmp_path}/runs.db", "study")'),
        *(
            "--lag",
            "60",
            "--beta",
            "2",
            "--top",
            "3",
            "--out",
            str(tmp_path / "s.json"),
            "--report",
            str(page),
            "--json",
        ),
        env={f"FRESHRANK_TRAINER_{name.upper()}": str(value) for name, value in SMALL.items()},
    )
    assert ended.code == 0, ended.err
    results = json.loads(ended.out)
    assert set(results) == {"as set", "waiting"}
    assert results["waiting"]["settings"] == {"labels": "waiting", "loss": "focal(1)"}
    assert results["waiting"]["late"]["60.0"]["auc"]["value"] > 0.5
    assert page.read_text().count("<img") == 7
    runs = _runs(f"sqlite:///{tmp_path}/runs.db", "study")
    assert {run.info.run_name for run in runs} == {"as set", "waiting"}
    taught = next(run for run in runs if run.info.run_name == "waiting")
    assert taught.data.params == {"labels": "waiting", "loss": "focal(1)"}
    assert taught.data.metrics["mrr"] == pytest.approx(results["waiting"]["mrr"]["value"])
    assert {"curve/mrr", "log_loss", "f1", "threshold"} <= taught.data.metrics.keys()
    assert "<td>device=phone</td>" in page.read_text()
    assert results["waiting"]["slices"]["device=phone"]["auc"]["value"] > 0.5
    assert {"ndcg_at_3", "recall_at_3", "ndcg_at_10"} <= results["waiting"].keys()
    lower, upper = results["waiting"]["intervals"]["f1"]
    assert lower < results["waiting"]["f1"] < upper
    found = results["waiting"]["thresholds"]
    assert found["rule"]["beta"] == 2
    assert 0 < found["segments"]["device=phone"]["threshold"] < 1


def _runs(uri: str, experiment: str) -> list[Any]:
    client = importlib.import_module("mlflow").MlflowClient(tracking_uri=uri)
    runs: list[Any] = list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))
    return runs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "EXAMPLES: nowhere is no folder"),
        ((".", "--track", "mlflow()"), "--track: mlflow takes 1 to 2 values"),
        ((".", "--way", "labels=waiting"), "is not NAME: SETTING=VALUE"),
        ((".", "--way", "x: labels"), "'labels' is not SETTING=VALUE"),
        ((".", "--way", "x: labels=never"), "--way: x: labels"),
        ((".", "--way", "x: taste=good"), "--way: x: taste"),
    ],
)
def test_bad_input_ends_with_a_sentence(arguments: tuple[str, ...], said: str) -> None:
    ended = command("evaluate", *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_an_archive_that_does_not_say_its_features_is_refused(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.add(Batch({0: (0, 1)}, {0: [b"x"]}))
    archive.flush()
    with pytest.raises(CorruptState, match=r"spec\.json"):
        _ = ArchiveSource(tmp_path).spec
