"""Files of the archive hold what the log and the emitted rows held, once."""

from pathlib import Path

import pyarrow.parquet as pq

from services.common.clock import ManualClock
from services.common.records import Message
from services.features.archive import FeatureArchive, LogArchive
from services.features.by_user import UserFold
from tests.features.makers import START, event, feature, message, messages, tick, view_of


def test_the_log_is_archived_in_blocks_whose_content_does_not_depend_on_when(tmp_path: Path) -> None:
    sent = messages([[event(START + n, item=f"i{n}"), tick(START + n)] for n in range(7)])
    once = LogArchive(tmp_path / "once", 0, 3)
    once.put(sent)
    again = LogArchive(tmp_path / "again", 0, 3)
    again.put(sent[:4])
    resumed = LogArchive(tmp_path / "again", 0, 3)
    assert resumed.next_offset == 3
    resumed.put(sent[3:])
    names = sorted(path.name for path in (tmp_path / "once" / "0").iterdir())
    assert [int(name.split(".")[0]) for name in names] == [0, 3]
    for name in names:
        left, right = (pq.read_table(tmp_path / run / "0" / name) for run in ("once", "again"))
        assert left.equals(right)
        assert left.column("log_offset").to_pylist() == [int(name.split(".")[0]) + n for n in range(3)]


def test_the_log_archive_goes_on_after_what_nobody_can_read(tmp_path: Path) -> None:
    sent = messages([[event(START + n, item=f"i{n}")] for n in range(5)])
    sent[1] = Message(1, b"not columns")
    archive = LogArchive(tmp_path, 0, 3)
    archive.put(sent)
    assert archive.next_offset == 5
    table = pq.read_table(tmp_path / "0" / f"{0:016d}.parquet")
    assert table.column("log_offset").to_pylist() == [0, 2]


def test_emitted_rows_become_the_batch_source_of_their_view(tmp_path: Path) -> None:
    listed = feature("last_n", "item", "STRING_LIST", name="l", n="2")
    fold = UserFold([view_of(feature("mean", "price", "FLOAT32"), listed)], 0, 1)
    archive = FeatureArchive(tmp_path, ManualClock(START), roll_rows=2, roll_us=10**12)
    for one in messages([[event(START, item="a", price=None)], [event(START + 1, item="b", price=2.0)]]):
        for rows in fold.apply([one]).views:
            archive.add("interactions", 0, rows)
    for one_file in archive.take():
        archive.write(*one_file)
    (path,) = (tmp_path / "stats").iterdir()
    table = pq.read_table(path)
    assert table.column("f").to_pylist() == [None, 2.0]
    assert table.column("l").to_pylist() == [["a"], ["b", "a"]]
    assert table.column("user_id").to_pylist() == ["u1", "u1"]
    assert table.column("_pos").to_pylist() == [1, 2]
    assert [t.timestamp() for t in table.column("event_timestamp").to_pylist()] == [START / 1e6, (START + 1) / 1e6]


def test_rows_that_wait_are_written_at_the_end(tmp_path: Path) -> None:
    fold = UserFold([view_of(feature("count", value_type="INT64"))], 0, 1)
    archive = FeatureArchive(tmp_path, ManualClock(START), roll_rows=100, roll_us=10**12)
    for rows in fold.apply([message(0, [event(START)])]).views:
        archive.add("interactions", 0, rows)
    assert archive.take() == []
    ((path, rows_held),) = archive.take(all_of_it=True)
    archive.write(path, rows_held)
    assert pq.read_table(path).num_rows == 1


def test_an_archive_of_no_rows_keeps_none(tmp_path: Path) -> None:
    fold = UserFold([view_of(feature("count", value_type="INT64"))], 0, 1)
    archive = FeatureArchive(tmp_path, ManualClock(START), roll_rows=0, roll_us=1)
    for rows in fold.apply([message(0, [event(START)])]).views:
        archive.add("interactions", 0, rows)
    assert archive.take(all_of_it=True) == []
