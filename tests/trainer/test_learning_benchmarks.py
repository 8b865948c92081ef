"""A small piece of each learning benchmark, on made-up data: it runs, learns, and notices a figure that moved."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.learning import __main__ as repeated
from benchmarks.learning import planted, stars
from benchmarks.learning.ranking import _BASE, trials
from benchmarks.learning.ratings import compare
from services.trainer.archive import ArchiveSource
from services.trainer.archive_writer import Archive
from services.trainer.evaluation.rehearsal import Trial, rehearse
from services.trainer.evaluation.study import Settings, Study
from services.trainer.examples import Batch
from tests.trainer.world import SPEC, Shop

SMALLEST = ("--shops", "taste", "--ways", "frozen")
SMALL = {"row_dim": 4, "max_rows": 2_000, "retrieval_dim": 8, "warmup_impressions": 100, "trigger": "volume(100)"}


def test_of_the_ranking_study_learning_beats_standing_still(tmp_path: Path) -> None:
    messages = Shop(seed=3, items=20).messages(600)
    archive = Archive(tmp_path / "examples")
    archive.add(Batch({0: (0, len(messages))}, {0: messages}))
    archive.describe(SPEC)
    archive.flush()
    chosen = [one for one in trials() if one.name in ("online", "frozen", "model two_tower")]
    small = [Trial(one.name, {**one.changes, **SMALL, "batch_items": 64}, one.learns) for one in chosen]
    study = Study(tmp_path / "study.json", ArchiveSource(tmp_path / "examples"), Settings(lags=(0.0,)))
    study.run(small, lambda name, messages: None)
    found = study.results
    assert _BASE.items() <= chosen[0].changes.items()
    assert set(found) == {"online", "frozen", "model two_tower"}
    assert found["online"]["auc"]["value"] > found["frozen"]["auc"]["value"] + 0.02
    assert found["model two_tower"]["auc"]["value"] > 0.5


def test_of_the_ratings_ours_predict_as_river_and_better_than_the_mean(tmp_path: Path) -> None:
    ratings(tmp_path)
    found = compare(tmp_path, 3_000, 1)
    errors = {row["name"]: row["errors"]["whole"]["rmse"] for row in found["rows"]}
    assert found["correct"], found["gate"]
    assert errors["ours: effects, ids alone"] < errors["running mean"] - 0.05
    assert errors["ours: plain, River's settings"] == pytest.approx(errors["River BiasedMF"], abs=0.02)


@pytest.mark.parametrize(("shift", "agrees"), [(0.0, True), (0.05, False)])
def test_a_repeated_figure_agrees_inside_its_interval_alone(shift: float, agrees: bool) -> None:
    then = {"results": {name: {figure: interval() for figure in ("mrr", "auc")} for name in repeated.WAYS}}
    now = moved(then, shift)
    assert {fine for _, fine in repeated._ranking(now, then)} == {agrees}


@pytest.mark.parametrize(("shift", "agrees"), [(0.001, True), (-0.003, False)])
def test_a_repeated_rating_error_agrees_within_a_few_thousandths(shift: float, agrees: bool) -> None:
    rows = {"rows": [{"name": "effects", "errors": {"whole": {"rmse": 0.93}}}]}
    now = json.loads(json.dumps(rows))
    now["rows"][0]["errors"]["whole"]["rmse"] += shift
    assert {fine for _, fine in repeated._ratings(now, rows)} == {agrees}


def test_every_star_is_expected_by_the_ranker_before_it_is_learned(tmp_path: Path) -> None:
    ratings(tmp_path)
    source = stars.Stars(tmp_path, 700)
    outcome = rehearse(Trial("stars", {**stars.BASE, "model": "factorisation"}), source, source.spec)
    expected, given = np.array(outcome.ratings).T
    assert given.tolist() == stars.log_of(tmp_path, 700).ratings.tolist()
    first, last = (stars.errors(outcome.ratings[part])["whole"]["rmse"] for part in (slice(200), slice(500, None)))
    assert last < first
    assert expected.min() >= 1
    assert expected.max() <= 5


@pytest.mark.parametrize(("shift", "agrees"), [(0.01, True), (0.03, False)])
def test_a_repeated_regret_agrees_near_the_committed_one(shift: float, agrees: bool) -> None:
    then = {"results": {"drift/taste/online/1": {"before": 0.2, "final": 0.23}}}
    now = copy.deepcopy(then)
    now["results"]["drift/taste/online/1"]["final"] += shift
    assert all(fine for _, fine in repeated._planted(now, then)) == agrees


@pytest.mark.parametrize(("shift", "agrees"), [(0.0, True), (0.2, False)])
def test_counts_of_co_visits_agree_over_the_periods_that_were_repeated(shift: float, agrees: bool) -> None:
    then = {"rows": {"covisits-1": {"periods": [{"period": k, "recall": 48.0, "mrr": 17.0} for k in (1, 2, 3)]}}}
    now = {"rows": {"covisits-1": {"periods": [{"period": 2, "recall": 48.0 + shift, "mrr": 17.0}]}}}
    assert all(fine for _, fine in repeated._sessions(now, then)) == agrees


def test_without_data_the_planted_shops_are_repeated_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted.main(["--out", str(tmp_path / "p.json"), "--quick", "--seeds", "1", "--only", "drift", *SMALLEST])
    found = json.loads((tmp_path / "p.json").read_text())["results"]
    assert set(found) == {"drift/taste/frozen/1"}
    assert "frozen" in capsys.readouterr().out


def interval() -> dict[str, float]:
    return {"value": 0.6, "lower": 0.59, "upper": 0.61}


def moved(then: dict[str, Any], shift: float) -> dict[str, Any]:
    now = copy.deepcopy(then)
    for figures in now["results"].values():
        for figure in figures.values():
            figure["value"] += shift
    return now


def ratings(folder: Path) -> None:
    """3,000 ratings of 60 users and 80 films, whose tastes and worths differ."""
    random = np.random.default_rng(5)
    mood, worth = random.normal(0, 0.7, 60), random.normal(0, 0.7, 80)
    users, films = random.integers(0, 60, 3_000), random.integers(0, 80, 3_000)
    values = np.clip(np.rint(3.2 + mood[users] + worth[films] + random.normal(0, 0.5, 3_000)), 1, 5)
    lines = [
        f"{u}\t{f}\t{v:.0f}\t{880_000_000 + k}" for k, (u, f, v) in enumerate(zip(users, films, values, strict=True))
    ]
    write(folder / "ml-100k.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float", lines)
    write(
        folder / "ml-100k.user",
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
        [f"{u}\t{20 + u % 40}\t{'FM'[u % 2]}\tother\t0" for u in range(60)],
    )
    write(
        folder / "ml-100k.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        [f"{f}\tfilm {f}\t{1960 + f % 38}\t{('Drama', 'Comedy War')[f % 2]}" for f in range(80)],
    )


def write(path: Path, head: str, lines: list[str]) -> None:
    path.write_text("\n".join([head, *lines]) + "\n")
