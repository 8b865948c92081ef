"""The benchmark of incremental learning reads the public format and goes on where it stopped."""

import gzip
from pathlib import Path

import pytest

from benchmarks.learning.diginetica import Results, Run, load
from services.common.errors import InvalidInput
from services.trainer.sequence.catalogue import WAYS
from tests.trainer.test_sequence_periods import SMALL


def write_period(folder: Path, period: int, lines: list[str]) -> None:
    with gzip.open(folder / f"period_{period}.txt.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for period in range(3):
        sessions = [(100 * period + s, 1 + (s + k) % 12) for k in range(3) for s in range(30)]
        write_period(tmp_path, period, [f"{session} {item}" for session, item in sessions])
    return tmp_path


def test_clicks_of_a_period_are_grouped_by_session(shop: Path) -> None:
    found = load(shop, 1)
    assert found.ids[:2].tolist() == [100, 101]
    assert found.items[:6].tolist() == [1, 2, 3, 2, 3, 4]


@pytest.mark.parametrize(("line", "said"), [("7 shoe", "period_0"), ("7 8 9", "3 columns")])
def test_a_file_of_another_form_is_refused(tmp_path: Path, line: str, said: str) -> None:
    write_period(tmp_path, 0, [line])
    with pytest.raises(InvalidInput, match=said):
        load(tmp_path, 0)


@pytest.mark.parametrize("name", sorted(set(WAYS) - {"frozen", "full-retrain", "last-period-only"}))
def test_a_restart_finds_what_an_unbroken_run_finds(shop: Path, name: str) -> None:
    figures = ("period", "recall", "mrr", "n", "epochs", "samples")
    unbroken = Run(name, 1, shop / "a.json", 1, SMALL)
    wanted = [unbroken.advance(shop) for _ in range(2)]
    broken = Run(name, 1, shop / "b.json", 1, SMALL)
    found = [broken.advance(shop)]
    broken.save()
    again = Run(name, 1, shop / "b.json", 1, SMALL)
    assert again.next == 1
    found.append(again.advance(shop))
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine is not None
        assert theirs is not None
        assert [mine[name] for name in figures] == [theirs[name] for name in figures]


def test_what_was_recorded_after_the_last_saved_state_is_dropped(shop: Path) -> None:
    run, results = Run("frozen", 1, shop / "a.json", 1), Results(shop / "a.json")
    results.row(run)["periods"].append({"period": 1, "recall": 1.0, "mrr": 1.0, "train_s": {"wall": 1.0, "cpu": 1.0}})
    results.write()
    assert Results(shop / "a.json").row(Run("frozen", 1, shop / "a.json", 1))["periods"] == []


def test_a_row_begun_otherwise_is_not_mixed_with_this_one(shop: Path) -> None:
    results = Results(shop / "a.json")
    results.row(Run("frozen", 1, shop / "a.json", 1))
    with pytest.raises(InvalidInput, match="begun with other settings"):
        results.row(Run("frozen", 1, shop / "a.json", 4))
