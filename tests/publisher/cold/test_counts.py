"""How often an item was seen comes with its row, stays with it through bases and rollbacks, and may be missing."""

from pathlib import Path

import numpy as np
import pytest

from services.common.errors import CorruptState
from services.publisher import deltas
from services.publisher.deltas import DeltaName
from services.publisher.history import RowHistory
from services.publisher.table import OFTEN, Rows, RowTable, SlotTables
from services.trainer.deltas import DeltaFiles, DeltaInfo
from services.trainer.hooks import NoHooks

INFO = DeltaInfo(1, 9, {0: 5}, float("nan"), 0)
NOBODY: tuple[list[str], np.ndarray] = ([], np.zeros((0, 2), np.float32))


def written(folder: Path, ids: list[str], seen: list[int] | None) -> DeltaName:
    files = DeltaFiles(folder, NoHooks())
    seq = files.newest(1) + 1
    counts = None if seen is None else np.array(seen, np.uint8)
    files.write(seq, INFO, (ids, np.ones((len(ids), 2), np.float32)), NOBODY, counts)
    return DeltaName(1, seq)


def test_counts_come_with_the_rows_and_without_them_rows_count_as_often_seen(tmp_path: Path) -> None:
    table = RowTable(2)
    table.apply(deltas.read(tmp_path, written(tmp_path, ["a", "b"], [3, 200])).items)
    table.apply(deltas.read(tmp_path, written(tmp_path, ["c"], None)).items)
    found = table.take(["c", "nobody", "a", "b"])
    assert found.seen is not None
    assert found.seen.tolist() == [OFTEN, 0, 3, 200]
    assert found.present.tolist() == [True, False, True, True]


def test_counts_of_another_length_are_no_delta(tmp_path: Path) -> None:
    name = written(tmp_path, ["a", "b"], [1])
    with pytest.raises(CorruptState, match="item_seen"):
        deltas.read(tmp_path, name)


def test_a_base_keeps_counts_and_one_without_them_is_read(tmp_path: Path) -> None:
    written(tmp_path / "deltas", ["a"], [7])
    written(tmp_path / "deltas", ["b"], [250])
    history = RowHistory(tmp_path / "bases", tmp_path / "deltas", 2)
    assert history.fold(1, 2) == 2
    found = history.restore(1, 2).as_of(0).item.take(["a", "b"])
    assert found.seen is not None
    assert (found.seen.tolist(), found.seqs.tolist()) == ([7, 250], [0, 0])


def test_a_row_that_is_taken_away_was_seen_by_nobody() -> None:
    tables = SlotTables(2)
    tables.item.apply(Rows.of(["a"], np.ones((1, 2), np.float32), 1, 1, np.array([9], np.uint8)))
    tables.item.apply(Rows.of(["a"], np.zeros((1, 2), np.float32), 2, 2, np.array([9], np.uint8)))
    found = tables.item.take(["a"])
    assert found.seen is not None
    assert (found.seen.tolist(), found.times_us.tolist()) == ([0], [0])
