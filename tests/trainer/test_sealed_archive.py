"""A sealed archive of examples: who is forgotten cannot be read again, everybody else as before."""

import os
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import CorruptState
from services.common.keytable import table_of, writing
from services.common.records import FORGET, INITIAL, decode
from services.trainer.archive import ArchiveSource
from services.trainer.archive_writer import Archive
from services.trainer.examples import Batch
from services.trainer.hooks import ARCHIVE_POINTS
from tests.trainer.arm import arm, digest, run
from tests.trainer.world import FileSource, Shop, message

Row = tuple[str, bool]
"""Shopper, and whether the row forgets them."""


class Killed(Exception):
    """The process ends here."""


class KillAt:
    """Ends it at a point that is passed the nth time."""

    def __init__(self, point: str, times: int) -> None:
        self._point, self._left = point, times

    def at(self, point: str) -> None:
        self._left -= point == self._point
        if point == self._point and self._left == 0:
            raise Killed


def _folder(store: Path) -> Path:
    return store / "arms" / "main" / "examples"


def _sealed(store: Path, hooks: KillAt | None = None) -> Archive:
    return Archive(_folder(store), keys=writing(store, _folder(store), wanted=True), hooks=hooks)


def _log(batches: list[list[Row]]) -> list[bytes]:
    return [
        message(
            [
                {
                    "kind": FORGET if forgets else INITIAL,
                    "user": user,
                    "impression_id": f"row-{offset}-{place}-of-{user}",
                    "src_offset": offset,
                    "src_index": place,
                }
                for place, (user, forgets) in enumerate(rows)
            ]
        )
        for offset, rows in enumerate(batches)
    ]


def _read(store: Path) -> dict[int, list[str]]:
    source, out = ArchiveSource(_folder(store)), {}
    while (batch := source.poll()) is not None:
        for offset, value in batch.numbered(0):
            out[offset] = decode(value).column("impression_id").to_pylist()
    return out


def _remembered(batches: list[list[Row]]) -> dict[int, list[str]]:
    last = {
        user: (offset, place)
        for offset, rows in enumerate(batches)
        for place, (user, forgets) in enumerate(rows)
        if forgets
    }
    kept = {
        offset: [
            f"row-{offset}-{place}-of-{user}"
            for place, (user, forgets) in enumerate(rows)
            if not forgets and (offset, place) > last.get(user, (-1, -1))
        ]
        for offset, rows in enumerate(batches)
    }
    return {offset: names for offset, names in kept.items() if names}


def _one(offset: int, log: list[bytes]) -> Batch:
    return Batch({0: (offset, offset + 1)}, {0: [log[offset]]})


_ROWS = st.tuples(st.sampled_from(["ada", "ben", "cem"]), st.sampled_from([False, False, False, True]))
_LOGS = st.lists(st.lists(_ROWS, min_size=1, max_size=4), min_size=1, max_size=12)
_KILLS = st.lists(st.tuples(st.sampled_from(ARCHIVE_POINTS), st.integers(1, 4)), max_size=4)


@settings(max_examples=150, deadline=None)
@given(_LOGS, st.sets(st.integers(0, 11)), _KILLS, st.integers(0, 12))
def test_killed_anywhere_it_holds_what_nobody_wished_to_be_forgotten(
    batches: list[list[Row]], flushes: set[int], kills: list[tuple[str, int]], plain: int
) -> None:
    """The first `plain` messages were archived before there were keys; a checkpoint follows each flush."""
    log, left, done = _log(batches), list(kills), min(plain, len(batches))
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        before = Archive(_folder(store))
        for offset in range(done):
            before.add(_one(offset, log))
        before.flush()
        while True:
            try:
                archive = _sealed(store, KillAt(*left.pop()) if left else None)
                for offset in range(done, len(log)):
                    archive.add(_one(offset, log))
                    if offset in flushes:
                        archive.flush()
                        done = offset + 1
                archive.flush()
                break
            except Killed:
                continue
        assert _read(store) == _remembered(batches)
        for path in _folder(store).rglob("*.parquet"):
            assert pq.read_schema(path).names == ["key", "sealed"]


@settings(max_examples=60, deadline=None)
@given(_LOGS, st.integers(0, 12))
def test_a_log_that_is_learned_again_takes_nothing_from_those_who_came_back(
    batches: list[list[Row]], back: int
) -> None:
    log = _log(batches)
    with tempfile.TemporaryDirectory() as folder:
        archive = _sealed(Path(folder))
        for offset in [*range(len(log)), *range(min(back, len(log)), len(log))]:
            archive.add(_one(offset, log))
            archive.flush()
        assert _read(Path(folder)) == _remembered(batches)


def test_no_copy_of_a_forgotten_shopper_opens_again(tmp_path: Path) -> None:
    archive = _sealed(tmp_path)
    log = _log([[("ada", False), ("ben", False)]] * 3 + [[("ada", True)]])
    archive.add(Batch({0: (0, 3)}, {0: log[:3]}))
    archive.flush()
    (path,) = _folder(tmp_path).glob("0/*")
    copy = path.read_bytes()
    archive.add(_one(3, log))
    archive.flush()
    path.write_bytes(copy)  # a file that was given back from a copy of the archive
    source = ArchiveSource(_folder(tmp_path), until=0.75)
    while source.poll() is not None:
        pass
    assert source.lost == 1
    assert {name for names in _read(tmp_path).values() for name in names} == {f"row-{n}-1-of-ben" for n in range(3)}
    for each in (copy, *(path.read_bytes() for path in _folder(tmp_path).rglob("*.parquet"))):
        assert b"ada" not in each
        assert b"ben" not in each


def test_a_key_goes_with_the_record_and_not_with_the_next_file(tmp_path: Path) -> None:
    archive, log = _sealed(tmp_path), _log([[("ada", False)], [("ada", True)]])
    archive.add(_one(0, log))
    archive.flush()
    archive.add(_one(1, log))
    assert _read(tmp_path) == {}


def test_without_its_keys_nobody_can_be_read_and_nothing_plain_joins_what_is_sealed(tmp_path: Path) -> None:
    archive, log = _sealed(tmp_path), _log([[("ada", False)], [("ben", False)]])
    archive.add(_one(0, log))
    archive.flush()
    table_of(tmp_path, _folder(tmp_path)).unlink()
    assert _read(tmp_path) == {}
    plain = Archive(_folder(tmp_path))
    plain.add(_one(1, log))
    plain.flush()
    assert len(list(_folder(tmp_path).glob("0/*"))) == 2
    assert _read(tmp_path) == {1: ["row-1-0-of-ben"]}


def test_a_group_that_was_changed_is_refused(tmp_path: Path) -> None:
    archive, log = _sealed(tmp_path), _log([[("ada", False)]])
    archive.add(_one(0, log))
    archive.flush()
    (path,) = _folder(tmp_path).glob("0/*")
    table = pq.read_table(path)
    text = bytearray(table["sealed"][0].as_py())
    text[-1] ^= 1
    pq.write_table(table.set_column(1, table.schema.field(1), [[bytes(text)]]), path)
    with pytest.raises(CorruptState, match="InvalidTag"):
        _read(tmp_path)


def test_files_of_before_are_sealed_and_keep_their_age(tmp_path: Path) -> None:
    plain, log = Archive(_folder(tmp_path)), _log([[("ada", False)], [("ben", False)]])
    plain.add(_one(0, log))
    plain.flush()
    (path,) = _folder(tmp_path).glob("0/*")
    os.utime(path, (1_000_000, 1_000_000))
    _sealed(tmp_path)
    assert (path.stat().st_mtime, pq.read_schema(path).names) == (1_000_000, ["key", "sealed"])
    assert _read(tmp_path) == {0: ["row-0-0-of-ada"]}


def test_what_was_learned_sealed_is_learned_again_with_the_same_weights(tmp_path: Path) -> None:
    source, store = FileSource({0: Shop(seed=3).messages(60)}), tmp_path / "live"
    loop, clock = arm(store, source, archive=_sealed(store))
    run(loop, clock, source)
    kept = ArchiveSource(_folder(store))
    messages: list[bytes] = []
    while (batch := kept.poll()) is not None:
        messages += batch.messages[0]
    again = FileSource({0: messages})
    other, clock = arm(tmp_path / "again", again)
    run(other, clock, again)
    assert digest(other.arm.learner) == digest(loop.arm.learner)
