"""The page of benchmarks equals what the committed results say, and says where we lose."""

import copy
import json
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.__main__ import BENCHMARKS, PAGE, RESULTS


def test_the_page_is_as_the_results_say() -> None:
    assert PAGE.read_text() == page.write(page.read(RESULTS)), "run `make bench`"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_result_is_correct_and_described(path: Path) -> None:
    described = json.loads(path.read_text())
    assert described["name"] == path.stem
    assert described["correct"] is page.correct(path.stem, described["result"]) is True
    assert described["machine"]["cpu"]
    assert page.rows(described)


def test_each_benchmark_has_its_part_of_the_page() -> None:
    names = {benchmark.name for benchmark in BENCHMARKS}
    assert names == set(page._ROWS) == set(page._TEXT) == set(page._CORRECT) == set(page._FLOOR) == set(page._DETAIL)


def _slow_read(floor_iqr: float) -> str:
    described = copy.deepcopy(page.read(RESULTS)[0])
    assert described["name"] == "feast_read"
    described["result"]["times_faster_than_sdk"]["median"] = 1.5
    described["result"]["wall_ms"]["floor_hand_packed"] = {"median": 1.0, "iqr": floor_iqr, "n": 9}
    return page.write([described])


def test_a_missed_bar_is_said() -> None:
    written = _slow_read(floor_iqr=0.1)
    assert "1.5x, wanted at least 8x" in written.partition("## Where we lose")[2].partition("##")[0]
    assert "not judged" not in written


def test_a_run_whose_floor_varied_is_not_judged() -> None:
    written = _slow_read(floor_iqr=0.3)
    assert "Not judged, because their floors varied by more than 20 %: feast_read" in written
    assert "| at least 8x | not judged |" in written


def test_a_wrong_value_is_not_correct() -> None:
    described = copy.deepcopy(page.read(RESULTS)[0])
    described["result"]["parity"]["different"] = 1
    assert not page.correct("feast_read", described["result"])
