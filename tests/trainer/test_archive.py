"""The archive of examples: what was learned can be read again as it came."""

import os
from pathlib import Path

import pytest

from services.common.clock import ManualClock
from services.common.errors import CorruptState
from services.common.records import decode
from services.trainer.archive import ArchiveSource
from services.trainer.archive_writer import DAY_S, SMALL_BYTES, Archive
from services.trainer.examples import Batch
from tests.trainer.arm import arm, digest, run
from tests.trainer.world import FileSource, Shop, message


def _batch(start: int, *values: bytes, partition: int = 0) -> Batch:
    return Batch({partition: (start, start + len(values))}, {partition: list(values)})


def _contents(source: ArchiveSource) -> list[bytes]:
    out: list[bytes] = []
    while (batch := source.poll()) is not None:
        out += [value for values in batch.messages.values() for value in values]
    return out


def test_what_was_added_comes_back_in_order(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.add(_batch(3, b"a", b"b"))
    archive.flush()
    archive.add(_batch(5, b"c"))
    archive.flush()
    assert _contents(ArchiveSource(tmp_path, messages=2)) == [b"a", b"b", b"c"]


def test_a_range_that_is_learned_again_is_kept_once(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.add(_batch(0, b"a", b"b", b"c"))
    archive.flush()
    archive.add(_batch(1, b"b", b"c", b"d"))
    archive.flush()
    assert _contents(ArchiveSource(tmp_path)) == [b"a", b"b", b"c", b"d"]


def test_a_batch_may_leave_offsets_out(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.add(Batch({0: (0, 9)}, {0: [b"a", b"h"]}, offsets={0: [0, 7]}))
    archive.flush()
    source = ArchiveSource(tmp_path)
    assert source.read({0: (1, 9)}).messages == {0: [b"h"]}


def test_what_was_not_flushed_when_the_process_died_is_written_by_the_next(tmp_path: Path) -> None:
    Archive(tmp_path).add(_batch(0, b"lost"))
    again = Archive(tmp_path)
    again.add(_batch(0, b"lost", b"new"))
    again.flush()
    assert _contents(ArchiveSource(tmp_path)) == [b"lost", b"new"]


def test_a_small_file_is_written_anew_with_what_comes_next(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for k in range(5):
        archive.add(_batch(k, b"%d" % k))
        archive.flush()
    assert [path.name for path in tmp_path.glob("0/*")] == [f"{0:016d}-{5:016d}.parquet"]
    assert _contents(ArchiveSource(tmp_path)) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_large_file_stays_as_it_is(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.add(_batch(0, os.urandom(SMALL_BYTES)))
    archive.flush()
    archive.add(_batch(1, b"next"))
    archive.flush()
    assert len(list(tmp_path.glob("0/*"))) == 2


def test_a_file_that_a_crash_left_beside_its_successor_is_read_once(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.add(_batch(0, b"a"))
    archive.flush()
    old = next(tmp_path.glob("0/*"))
    left = old.read_bytes()
    archive.add(_batch(1, b"b"))
    archive.flush()
    old.write_bytes(left)
    assert _contents(ArchiveSource(tmp_path)) == [b"a", b"b"]
    again = Archive(tmp_path)
    again.add(_batch(0, b"a", b"b", b"c"))
    again.flush()
    assert _contents(ArchiveSource(tmp_path)) == [b"a", b"b", b"c"]


def test_an_unreadable_file_stops_nobody_from_keeping_what_comes(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.add(_batch(0, b"a"))
    archive.flush()
    next(tmp_path.glob("0/*")).write_bytes(b"torn")
    archive.add(_batch(1, b"b"))
    archive.flush()
    assert len(list(tmp_path.glob("0/*"))) == 2
    with pytest.raises(CorruptState, match="parquet"):
        _contents(ArchiveSource(tmp_path))


def test_files_go_when_they_are_too_old_and_what_comes_does_not_keep_them(tmp_path: Path) -> None:
    clock = ManualClock(1_000_000 * 1_000_000)
    archive = Archive(tmp_path, keep_s=3 * DAY_S, clock=clock)
    archive.add(_batch(0, b"old"))
    archive.flush()
    os.utime(next(tmp_path.glob("0/*.parquet")), (1_000_000, 1_000_000))
    clock.advance_to(int((1_000_000 + 2 * DAY_S) * 1_000_000))
    archive.add(_batch(1, b"new"))
    archive.flush()
    assert _contents(ArchiveSource(tmp_path)) == [b"old", b"new"]
    clock.advance_to(int((1_000_000 + 3.1 * DAY_S) * 1_000_000))
    archive.flush()
    assert _contents(ArchiveSource(tmp_path)) == [b"new"]


def test_partitions_take_turns(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.add(Batch({0: (0, 4), 1: (0, 2)}, {0: [b"0"] * 4, 1: [b"1"] * 2}))
    archive.flush()
    assert _contents(ArchiveSource(tmp_path, messages=1)) == [b"0", b"1", b"0", b"0", b"1", b"0"]


def test_a_partition_that_was_added_later_is_read_when_its_time_comes(tmp_path: Path) -> None:
    def at(*times: int) -> list[bytes]:
        return [message([{"time_us": time, "src_offset": time}]) for time in times]

    archive = Archive(tmp_path)
    archive.add(Batch({0: (0, 5), 1: (0, 2)}, {0: at(1, 2, 3, 5, 7), 1: at(4, 6)}))
    archive.flush()
    read = [decode(value).column("time_us")[0].as_py() for value in _contents(ArchiveSource(tmp_path, messages=1))]
    assert read == [1, 2, 3, 4, 5, 6, 7]


def test_a_folder_without_examples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptState, match="holds no examples"):
        ArchiveSource(tmp_path)


def test_an_arm_that_learns_from_its_archive_ends_with_the_same_weights(tmp_path: Path) -> None:
    logs = {0: Shop(seed=3).messages(60)}
    source = FileSource(logs)
    loop, clock = arm(tmp_path / "live", source, archive=Archive(tmp_path / "examples"))
    run(loop, clock, source)
    again = FileSource({0: _contents(ArchiveSource(tmp_path / "examples"))})
    other, clock = arm(tmp_path / "again", again)
    run(other, clock, again)
    assert digest(other.arm.learner) == digest(loop.arm.learner)
