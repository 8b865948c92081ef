"""The study of judged queries, on a shop made up and a small encoder: it runs, learns, goes on, and measures right."""

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search import beside, cross, encoders, homedepot, incremental
from benchmarks.search.encoders import Tuning
from benchmarks.search.judged import Judged, calibrated, figures, fused, generated, ndcg, read
from benchmarks.search.lexical import NAMES, Features, bm25
from services.trainer.text.load import load
from tests.trainer.text import tiny


@pytest.fixture(scope="module")
def tuning(tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    model = str(tiny.folder(tmp_path_factory.mktemp("model")))
    return Tuning(model, way="full(0.001)", pairs=120, ranked=100)


def test_rows_are_judged_on_folds_that_they_did_not_learn(tuning: Tuning, tmp_path: Path) -> None:
    judged = generated()
    rows = homedepot.Rows(judged, tmp_path, tuning, lambda _: None)
    plain = dict(rows.plain()["rows"])
    found = rows.tuned()["rows"]
    assert plain.items() <= found.items()
    errors = {name: row["rmse"]["value"] for name, row in found.items()}
    assert errors["words, trees"] < errors["word overlap"] < errors[homedepot.MEAN]
    assert found["words, network"]["ndcg10"]["value"] > found["vector, frozen"]["ndcg10"]["value"]
    assert all(row["rmse"]["lower"] <= row["rmse"]["value"] <= row["rmse"]["upper"] for row in found.values())
    kept = {path.name for path in tmp_path.iterdir()}
    again = homedepot.Rows(judged, tmp_path, tuning, lambda _: None)
    again.plain()
    assert again.tuned()["rows"] == found
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_tuned_encoder_has_seen_neither_its_test_fold_nor_its_ranker_s_pairs(tuning: Tuning, tmp_path: Path) -> None:
    judged = generated()
    places = encoders.tuned(judged, 2, tmp_path, tuning).places
    others = set(np.array(judged.queries)[places[judged.fold[places] != 2]])
    drawn = np.lexsort((judged.group, judged.order("tune 0")))
    mine = [judged.queries[k] for k in drawn if judged.fold[k] != 2][: tuning.pairs]
    assert {judged.queries[k] for k in np.flatnonzero(judged.fold == 2)} <= {judged.queries[k] for k in places}
    assert len(others) > 10
    assert not others & set(mine)


def test_an_encoder_fed_in_slices_learns_and_a_frozen_one_does_not(tuning: Tuning, tmp_path: Path) -> None:
    judged = generated(240)
    found = incremental.study(judged, tmp_path, tuning, (60, 60), lambda _: None)
    ways = found["ways"]
    assert set(ways) == {*incremental.WAYS, incremental.RETRAIN}
    assert ways["full"]["next"]["ndcg10"] > ways["frozen"]["next"]["ndcg10"]
    assert ways["frozen"]["moving"] == 0 < ways["lora"]["moving"] < ways["full"]["moving"]
    assert len({step["first"]["ndcg10"] for step in ways["frozen"]["steps"]}) == 1
    assert len(ways["full"]["steps"]) == incremental.SLICES - 1
    for part in incremental.slices(judged, 60, 60):
        queries = [{judged.queries[k] for k in places} for places in (part.learned, part.judged)]
        assert queries[1]
        assert not queries[0] & queries[1]


def test_a_reranker_is_asked_about_queries_that_nothing_has_learned_from(tuning: Tuning, tmp_path: Path) -> None:
    judged, asked = generated(), cross.Study(tuning.model, 32, pairs=200, queries=10)
    some, train = cross.chosen(judged, asked)
    assert not {some.queries[k] for k in np.flatnonzero(train)} & {some.queries[k] for k in np.flatnonzero(~train)}
    found = cross.study(judged, asked, tmp_path, lambda _: None, {"reranker": False})
    assert (found["learned"], found["queries"]) == (200, 10)
    assert found["training"]["pairs"] == 200
    assert found["cpu_ms_a_pair"]["reranker"]["median"] > 0
    rows = {name: row["ndcg10"]["value"] for name, row in found["rows"].items()}
    assert all(0 < value <= 1 for value in rows.values())
    gained = found["differences"]["ranker + reranker, 0.5 less ranker"]["value"]
    assert gained == pytest.approx(rows["ranker + reranker, 0.5"] - rows["ranker"], abs=1e-4)


def test_a_reranker_that_knows_the_grades_makes_the_order_right() -> None:
    judged = generated(20)
    every = np.ones(len(judged), bool)
    chance = np.random.Generator(np.random.PCG64(0)).random(len(judged))
    assert ndcg(judged, cross.fused(judged, chance, judged.relevance, 1.0, every), every) == pytest.approx(1.0)
    same = cross.fused(judged, chance, judged.relevance, 0.0, every)
    assert ndcg(judged, same, every) == pytest.approx(ndcg(judged, chance, every))


def test_ndcg_is_its_formula() -> None:
    judged = Judged(["a"] * 3 + ["b"] * 2, ["1", "2", "3", "4", "5"], np.array([3.0, 2.0, 1.0, 2.0, 2.0]))
    every = np.ones(5, bool)
    found = ndcg(judged, np.array([0.0, 1.0, 2.0, 1.0, 0.0]), every)
    wanted = (1 / np.log2(3) + 3 / np.log2(4)) / (3 + 1 / np.log2(3))
    assert found == pytest.approx([wanted])  # of b, nothing tells one title from the other
    assert ndcg(judged, judged.relevance, every) == pytest.approx([1.0])


def test_an_interval_holds_what_is_measured_and_narrows_with_queries() -> None:
    widths = []
    for queries in (40, 640):
        judged = generated(queries)
        scores = judged.relevance + np.random.Generator(np.random.PCG64(3)).normal(0, 1, len(judged))
        found = figures(judged, scores, scores)["rmse"]
        assert found["lower"] < found["value"] < found["upper"]
        widths.append(found["upper"] - found["lower"])
    assert widths[1] < widths[0] / 2


def test_bm25_puts_rare_words_first() -> None:
    titles = ["red chair", "red lamp", "red shoe", "red boot", "drill chair"]
    judged = Judged(["red drill"] * 5, titles, np.ones(5))
    scores = bm25(judged)
    assert scores.argmax() == 4
    assert scores[0] == pytest.approx(scores[1])
    assert bm25(Judged(["nothing"], ["red chair"], np.ones(1))).tolist() == [0.0]


def test_features_forgive_a_slip_of_the_keys() -> None:
    titles = ["black plywood sheet 3/4 in.", "table lamps with a shade", "white kitchen sink"]
    judged = Judged(["3/4 plywod sheets", "lamp"], titles[:2], np.ones(2))
    first, second = (dict(zip(NAMES, row, strict=True)) for row in Features(titles).matrix(judged, np.zeros(2)))
    assert first["overlap"] == pytest.approx(1 / 3)
    assert first["overlap corrected"] == 1
    assert (first["words corrected"], first["numbers found"]) == (1, 1)
    assert (second["overlap"], second["overlap corrected"], second["last word is title's head"]) == (0, 1, 1)


def test_fusion_and_calibration_are_what_they_say() -> None:
    judged = Judged(["a", "a", "b"], ["x", "y", "z"], np.array([1.0, 2.0, 3.0]))
    both = fused(judged, [np.array([3.0, 1.0, 0.0]), np.array([2.0, 1.0, 0.0])])
    assert both == pytest.approx([2 / 61, 2 / 62, 2 / 61])
    scores = np.arange(100.0)
    read_off = calibrated(scores, scores / 50 + 1, np.arange(100) % 2 == 0, bins=10)
    assert np.all(np.diff(read_off) >= 0)
    assert np.abs(read_off - (scores / 50 + 1)).max() < 0.3


def test_the_public_file_is_read_in_its_own_letters(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "train.csv.zip", "w") as archive:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["id", "product_uid", "product_title", "search_term", "relevance"])
        writer.writerow([1, 7, 'Door,  32 in. "Café"', " DOOR  café", 2.33])
        archive.writestr("train.csv", text.getvalue().encode("latin-1"))
    found = read(tmp_path)
    assert (found.queries, found.titles) == (["door café"], ['Door, 32 in. "Café"'])
    assert found.relevance.tolist() == [2.33]


def test_what_is_done_beside_tuning_is_judged_on_typed_and_mistyped_queries(tuning: Tuning, tmp_path: Path) -> None:
    judged = generated(120)
    found = beside.study(judged, tmp_path, tuning, 100, lambda _: None)
    rows = found["rows"]
    assert list(rows) == list(beside.rows(""))
    assert rows["tuned"]["typed"]["value"] > rows["frozen"]["typed"]["value"]
    assert load(str(tmp_path / "read-100"), tuning.max_tokens).about.source != load(tuning.model).about.source
    assert rows["tuned, varied"]["mistyped"] != rows["tuned"]["mistyped"]
    assert rows["catalogue read"]["read_cpu_s"] >= rows["frozen"]["read_cpu_s"] == 0
    assert beside.study(judged, tmp_path, tuning, 100, lambda _: None) == found
