"""Rows from deltas to the store: in order, through the gate, again after a loss, and into the other slot."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.common.encode import RowLookup
from services.common.errors import TemporaryError
from services.publisher.audit import Audit
from services.publisher.book import Entry, Keeper, State, Undo, rolling_back
from services.publisher.checks import Verdict
from services.publisher.compression.rows import CODECS
from services.publisher.deltas import Delta, DeltaName, waiting
from services.publisher.history import RowHistory
from services.publisher.pump import Probe, PumpPolicy, RowPump
from services.publisher.rows import RowBounds
from services.publisher.scores import Difference
from tests.publisher.exports import write_delta
from tests.publisher.fakes import SmallRowStore

ONES, TWOS, ZEROS = [1.0] * 4, [2.0] * 4, [0.0] * 4


class Heard:
    """Remembers what the pump tells."""

    def __init__(self) -> None:
        self.deltas: list[int] = []
        self.verdicts: list[Verdict] = []

    def pushed(self, delta: Delta) -> None:
        self.deltas.append(delta.name.seq)

    def judged(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)


class Well:
    """A pump over a temporary folder."""

    def __init__(
        self,
        root: Path,
        store: SmallRowStore | None = None,
        fold: int = 100,
        probe: Probe = lambda new, old: None,
        codec: str = "float32",
    ) -> None:
        self.folder = root / "deltas"
        self.store = store or SmallRowStore()
        self.keeper = Keeper(root / "book.json", "main")
        self.heard = Heard()
        self.audit = Audit(root / "audit.jsonl")
        history = RowHistory(root / "rows", self.folder, 4)
        self.pump = RowPump(
            self.keeper, history, self.folder, self.store, self.audit, self.heard,
            probe, RowBounds(share_from=4), PumpPolicy(fold_deltas=fold, codec=codec),
        )  # fmt: skip

    def delta(self, seq: int, items: dict[str, list[float]], **more: str) -> None:
        write_delta(self.folder, seq, items, **more)  # type: ignore[arg-type]

    def item(self, name: str, slot: str = "a") -> tuple[int, int, list[float]]:
        return self.store.rows[(slot, "item", name)]


def test_deltas_are_pushed_in_order_and_once(tmp_path: Path) -> None:
    well = Well(tmp_path)
    well.delta(2, {"x": TWOS})
    well.delta(1, {"x": ONES, "y": ONES})
    assert well.pump.step(0) == 2
    assert well.pump.step(0) == 0
    assert well.item("x") == (1, 2, TWOS)
    assert well.item("y") == (1, 1, ONES)
    assert well.heard.deltas == [1, 2]
    assert well.store.epochs == {"a": 1}


def test_an_unfinished_delta_is_not_read(tmp_path: Path) -> None:
    well = Well(tmp_path)
    well.folder.mkdir()
    (well.folder / "00000001-000000000001.safetensors.tmp").write_bytes(b"half")
    assert well.pump.step(0) == 0
    assert not well.keeper.book.stopped


@pytest.mark.parametrize(
    ("row", "check"),
    [
        pytest.param([float("nan"), 0, 0, 1], "finite", id="not a number"),
        pytest.param([float("inf"), 0, 0, 1], "finite", id="endless"),
        pytest.param([90.0, 0, 0, 0], "norm", id="too long"),
        pytest.param([-9.0, 0, 0, 0], "change", id="jumps"),
        pytest.param([1.0, 1.0], "shape", id="too narrow"),
    ],
)
def test_a_bad_delta_never_reaches_the_store_and_pushes_stop(tmp_path: Path, row: list[float], check: str) -> None:
    well = Well(tmp_path)
    well.delta(1, {"x": [1.0, 0, 0, 0]})
    well.pump.step(0)
    well.delta(2, {"x": row})
    well.delta(3, {"y": ONES})
    assert well.pump.step(0) == 0
    assert well.item("x") == (1, 1, [1.0, 0, 0, 0])
    assert ("a", "item", "y") not in well.store.rows
    assert check in [c.name for c in well.heard.verdicts[-1].failed]
    assert check in well.keeper.book.stopped
    assert [e["decision"] for e in well.audit.entries()] == ["rows_stopped"]


def test_a_delta_that_changes_most_rows_of_a_large_table_is_refused(tmp_path: Path) -> None:
    well = Well(tmp_path)
    well.delta(1, {f"i{k}": ONES for k in range(5)})
    well.delta(2, {f"i{k}": TWOS for k in range(4)})
    well.pump.step(0)
    assert "share" in well.keeper.book.stopped


def test_a_file_that_is_no_delta_stops_the_pushes(tmp_path: Path) -> None:
    well = Well(tmp_path)
    well.folder.mkdir()
    (well.folder / "00000001-000000000001.safetensors").write_bytes(b"half")
    well.pump.step(0)
    assert "readable" in well.keeper.book.stopped


def test_the_champion_losing_on_current_rows_stops_the_pushes(tmp_path: Path) -> None:
    well = Well(tmp_path)
    for seq in range(1, 40):
        well.delta(seq, {"x": ONES}, champion_log_loss="0.3", champion_rows="1000")
    for seq in range(40, 60):
        well.delta(seq, {"x": TWOS}, champion_log_loss="3.0", champion_rows="1000")
    for _ in range(3):
        well.pump.step(0)
    assert "champion_loss" in well.keeper.book.stopped
    assert 40 < well.keeper.book.pushed_seq < 50


def test_a_burst_of_late_clicks_does_not_stop_the_pushes(tmp_path: Path) -> None:
    """Few new impressions and the clicks of many old ones: the figure of one delta is high, that of many is not."""
    well = Well(tmp_path)
    for seq in range(1, 60):
        rows, loss = ("20", "8.0") if seq % 20 == 0 else ("1000", "0.3")
        well.delta(seq, {"x": ONES}, champion_log_loss=loss, champion_rows=rows)
    for _ in range(3):
        well.pump.step(0)
    assert well.keeper.book.pushed_seq == 59


def test_rows_that_make_the_champion_worse_on_kept_impressions_are_refused(tmp_path: Path) -> None:
    well = Well(tmp_path, probe=lambda new, old: (Difference(float(new.items(["x"])[0][0, 0] > 1), 0.01), 0.3))
    well.delta(1, {"x": ONES})
    well.delta(2, {"x": TWOS})
    well.pump.step(0)
    assert well.item("x") == (1, 1, ONES)
    assert "probe" in well.keeper.book.stopped


@pytest.mark.parametrize("codec", ["half", "int8"])
def test_the_gate_judges_rows_as_they_will_be_read_and_these_are_pushed(tmp_path: Path, codec: str) -> None:
    seen: list[list[float]] = []

    def probe(new: RowLookup, old: RowLookup) -> tuple[Difference, float]:
        seen.append(new.items(["x"])[0][0].tolist())
        return Difference(0.0, 0.01), 0.3

    exact = [1.0, -0.3001, 0.7071, 0.0]
    well = Well(tmp_path, probe=probe, codec=codec)
    well.delta(1, {"x": exact})
    well.pump.step(0)
    pushed = well.item("x")[2]
    assert seen == [pushed]
    assert pushed != exact
    np.testing.assert_allclose(pushed, exact, atol=0.5 / 127 if codec == "int8" else 2**-11)
    assert CODECS[codec](np.array([pushed], np.float32))[0].tolist() == pytest.approx(pushed, abs=1e-6)


@pytest.mark.parametrize("codec", ["half", "int8"])
def test_a_row_that_no_codec_can_hold_is_refused_like_any_bad_one(tmp_path: Path, codec: str) -> None:
    well = Well(tmp_path, codec=codec)
    well.delta(1, {"x": [float("nan")] * 4})
    well.pump.step(0)
    assert not well.store.rows
    assert "finite" in well.keeper.book.stopped


def test_a_person_can_let_the_pushes_go_on(tmp_path: Path) -> None:
    well = Well(tmp_path)
    well.delta(1, {"x": [float("nan")] * 4})
    well.delta(2, {"x": ONES})
    well.pump.step(0)
    well.keeper.change(lambda book: replace(book, stopped=""))
    assert well.pump.step(0) == 1
    assert well.item("x") == (1, 2, ONES)


def test_after_a_restart_pushes_go_on_where_they_were(tmp_path: Path) -> None:
    well = Well(tmp_path)
    well.delta(1, {"x": ONES})
    well.pump.step(0)
    well.delta(2, {"y": ONES})
    again = Well(tmp_path, well.store)
    assert again.pump.items(["x"])[1].tolist() == [1.0]
    assert again.pump.step(0) == 1
    assert again.heard.deltas == [2]


def test_when_the_store_lost_its_data_every_row_is_written_again_in_its_own_order(tmp_path: Path) -> None:
    well = Well(tmp_path)
    well.delta(1, {"x": ONES, "y": ONES})
    well.delta(2, {"x": TWOS})
    well.pump.step(0)
    before = dict(well.store.rows)
    well.store.flush()
    well.pump.step(0)
    assert well.store.rows == before
    assert well.store.epochs == {"a": 1}
    assert len(well.store.announced) == 3


def test_a_loss_is_marked_until_everything_is_back(tmp_path: Path) -> None:
    well = Well(tmp_path)
    well.delta(1, {"x": ONES})
    well.pump.step(0)
    well.store.flush()
    well.store.down = True
    with pytest.raises(TemporaryError):
        well.pump.step(0)
    well.store.down = False
    well.pump.step(0)
    assert not well.pump.losing
    assert well.item("x") == (1, 1, ONES)


def test_a_row_of_zeros_is_no_row(tmp_path: Path) -> None:
    well = Well(tmp_path)
    well.delta(1, {"x": ONES})
    well.delta(2, {"x": ZEROS})
    well.pump.step(0)
    assert well.pump.items(["x"])[1].tolist() == [0.0]
    assert well.keeper.book.pushed_seq == 2


def test_frozen_rows_stay(tmp_path: Path) -> None:
    well = Well(tmp_path)
    well.keeper.change(lambda book: replace(book, switches=replace(book.switches, rows=True)))
    well.delta(1, {"x": ONES})
    assert well.pump.step(0) == 0
    assert not well.store.rows


def _release(seq: int, epoch: int = 1) -> Entry:
    return Entry(f"r20260102t03040{seq}-1-{seq}", State.PREVIOUS, "", 0, 0, {}, 1, epoch, "a", seq, f"1-{seq}")


def test_a_rollback_fills_the_other_slot_with_the_rows_of_its_release(tmp_path: Path) -> None:
    well = Well(tmp_path)
    for seq, rows in ((1, {"x": ONES}), (2, {"y": ONES}), (3, {"x": TWOS})):
        well.delta(seq, rows)
    well.pump.step(0)
    target = _release(2)
    well.keeper.change(lambda book: book.with_entry(target))
    undo = Undo(target.release, "bad", 2, 1, "ada", "worse")
    well.keeper.change(lambda book: rolling_back(book, undo, 0))
    well.delta(4, {"x": TWOS})
    well.pump.step(0)
    assert well.item("x", "b") == (2, 0, ONES)
    assert well.item("y", "b") == (2, 0, ONES)
    assert (well.keeper.book.serving.slot, well.keeper.book.serving.epoch) == ("b", 2)
    assert well.keeper.book.undo is None
    assert well.pump.items(["x"])[0][0].tolist() == ONES
    write_delta(well.folder, 1, {"z": ONES}, epoch="2")
    assert well.pump.step(0) == 1
    assert well.item("z", "b") == (2, 1, ONES)
    again = Well(tmp_path, well.store)
    assert again.pump.items(["x", "y", "z"])[1].tolist() == [1.0, 1.0, 1.0]


def test_the_base_moves_forward_only_to_the_oldest_kept_release(tmp_path: Path) -> None:
    well = Well(tmp_path, fold=2)
    for seq in range(1, 7):
        well.delta(seq, {f"i{seq}": ONES})
    well.pump.step(0)
    well.keeper.change(lambda book: book.with_entry(_release(4)))
    well.pump.fold()
    assert sorted(int(p.name[9:21]) for p in well.folder.iterdir()) == [5, 6]
    again = Well(tmp_path, well.store)
    assert again.pump.items([f"i{seq}" for seq in range(1, 7)])[1].tolist() == [1.0] * 6


def test_deltas_that_wait_are_those_of_the_epoch_beyond_the_last_one(tmp_path: Path) -> None:
    for epoch, seq in ((1, 9), (2, 9), (2, 11), (2, 10), (3, 12), (2, 100)):
        (tmp_path / str(DeltaName(epoch, seq))).touch()
    for other in ("refused", ".00000002-000000000012.safetensors.7"):
        (tmp_path / other).touch()
    found = waiting(tmp_path, DeltaName(2, 9))
    assert [(name.epoch, name.seq) for name in found] == [(2, 10), (2, 11), (2, 100)]
    assert waiting(tmp_path / "nowhere", DeltaName(2, 9)) == []
