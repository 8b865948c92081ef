"""Files of the archive hold what the log and the emitted rows held, once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from services.common import sealed
from services.common.clock import ManualClock
from services.common.keytable import reading, writing
from services.common.records import FORGET, Message
from services.features.archive import FeatureArchive, LogArchive
from services.features.by_user import UserFold
from services.features.views import ViewRows
from services.online.encode import Column
from tests.features.makers import HOUR, SECOND, START, Row, event, feature, message, messages, tick, view_of


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
    (waiting,) = archive.take(all_of_it=True)
    archive.write(*waiting)
    assert pq.read_table(waiting[0]).num_rows == 1


def test_an_archive_of_no_rows_keeps_none(tmp_path: Path) -> None:
    fold = UserFold([view_of(feature("count", value_type="INT64"))], 0, 1)
    archive = FeatureArchive(tmp_path, ManualClock(START), roll_rows=0, roll_us=1)
    for rows in fold.apply([message(0, [event(START)])]).views:
        archive.add("interactions", 0, rows)
    assert archive.take(all_of_it=True) == []


def _sealed(store: Path, block: int = 3) -> LogArchive:
    folder = store / "archive" / "interactions"
    return LogArchive(folder, 0, block, writing(store, folder, wanted=True))


def _opened(store: Path) -> list[tuple[int, int, str]]:
    """Offset, place and item of each event that can be read."""
    folder, out = store / "archive" / "interactions", []
    with reading(folder) as keys:
        for path in sorted(folder.rglob("*.parquet")):
            rows = sealed.read(path, sealed.LOG, keys).rows
            out += zip(*(rows[name].to_pylist() for name in ("log_offset", "log_index", "item")), strict=True)
    return out


def _wish(user: str) -> Row:
    return event(START, FORGET, user)


def test_a_sealed_log_opens_as_it_was_but_for_who_is_forgotten(tmp_path: Path) -> None:
    ada, ben = event(START, user="ada", item="a"), event(START, user="ben", item="b")
    archive = _sealed(tmp_path)
    archive.put(messages([[ben, ada, tick(START)], [ada], [ben]]))
    archive.put(messages([[ada, _wish("ada"), ben, ada], [ben]], first=3))
    archive.put(messages([[ada], [ben]], first=5))
    assert _opened(tmp_path) == [(0, 0, "b"), (2, 0, "b"), (3, 2, "b"), (3, 3, "a"), (4, 0, "b"), (5, 0, "a")]
    assert not any(b"ada" in path.read_bytes() for path in tmp_path.rglob("*.parquet"))


def test_a_log_sealed_again_after_a_crash_holds_the_same(tmp_path: Path) -> None:
    ada, ben = event(START, user="ada", item="a"), event(START, user="ben", item="b")
    log = messages([[ada], [ben], [ada], [_wish("ada"), ada], [ben], [ada], [ada], [_wish("ben")], [ben], [ada]])
    for crash in range(len(log)):
        store = tmp_path / str(crash)
        _sealed(store).put(log[:crash])
        again = _sealed(store)
        again.put(log[again.next_offset :])
        assert _opened(store) == [(3, 1, "a"), (5, 0, "a"), (6, 0, "a"), (8, 0, "b")]


def test_a_worker_that_lost_its_partition_brings_nobody_back(tmp_path: Path) -> None:
    ticks = [[tick(START)]] * 3
    log = messages([[event(START, user="ada", item="a")], *ticks, [_wish("ada")], *ticks])
    late, other = _sealed(tmp_path, 2), _sealed(tmp_path, 2)
    late.put(log[:2])
    other.put(log)
    late.put(log[2:3])  # writes its first block, which the other one has written
    assert _opened(tmp_path) == []


def test_blocks_of_before_are_sealed_by_who_goes_on(tmp_path: Path) -> None:
    ada, ben = event(START, user="ada", item="i"), event(START, user="ben", item="i")
    plain = LogArchive(tmp_path / "archive" / "interactions", 0, 1)
    plain.put(messages([[ada], [_wish("ada")], [ben], [ada], [ben]]))
    _sealed(tmp_path, 1)
    assert _opened(tmp_path) == [(2, 0, "i"), (3, 0, "i")]


def _emitted(store: Path) -> FeatureArchive:
    folder = store / "archive" / "features"
    return FeatureArchive(folder, ManualClock(START), 2, 10**12, writing(store, folder, wanted=True))


def _fold_into(archive: FeatureArchive, fold: UserFold, sent: Sequence[Message]) -> None:
    """As the stage does it: first whom a message forgets, then what follows from it."""
    for one in sent:
        out = fold.apply([one])
        for user, offset, before_us in out.forgotten:
            archive.forget(user, 0, offset, before_us)
        for rows in out.views:
            archive.add("interactions", 0, rows)
        for due in archive.take():
            archive.write(*due)


def _values(store: Path, view: str, key: str) -> list[tuple[str, float]]:
    out = []
    with reading(store / "archive" / "features") as keys:
        for path in sorted((store / "archive" / "features" / view).iterdir()):
            rows = sealed.read(path, sealed.FEATURES, keys).rows
            out += zip(rows[key].to_pylist(), rows["f"].to_pylist(), strict=True)
    return out


def _sums() -> UserFold:
    by_user = view_of(feature("sum", "price", "FLOAT64"))
    by_session = view_of(feature("sum", "price", "FLOAT64", view="visits", join_keys=("session_id",)))
    return UserFold([by_user, by_session], 0, 1)


def test_emitted_rows_of_a_forgotten_shopper_cannot_be_opened_whatever_their_key(tmp_path: Path) -> None:
    def act(second: int, user: str, price: float) -> Row:
        return event(START + second * SECOND, user=user, session=f"{user}-1", price=price)

    archive, wish = _emitted(tmp_path), event(START + 3 * SECOND, FORGET, "ada")
    log = [[act(0, "ada", 1.0)], [act(1, "ben", 2.0)], [act(2, "ada", 4.0)], [wish], [act(4, "ben", 8.0)]]
    back = [[tick(START + HOUR)], [act(3700, "ada", 16.0)], [act(3701, "ben", 32.0)]]
    _fold_into(archive, _sums(), messages([*log, *back]))
    for due in archive.take(all_of_it=True):
        archive.write(*due)
    for view, key, end in (("stats", "user_id", ""), ("visits", "session_id", "-1")):
        found = _values(tmp_path, view, key)
        assert [value for name, value in found if name == f"ada{end}"] == [16.0]
        assert [value for name, value in found if name == f"ben{end}"][:2] == [2.0, 10.0]
        assert not any(b"ada" in path.read_bytes() for path in (tmp_path / "archive").rglob("*.parquet"))


def test_rows_that_wait_go_with_the_wish_and_a_restart_takes_nothing_of_who_came_back(tmp_path: Path) -> None:
    at = [event(START + second * SECOND, user="ada", price=1.0) for second in range(4)]
    log = messages([[at[0]], [event(START + SECOND, FORGET, "ada")], [at[2]], [at[3]]])
    archive = _emitted(tmp_path)
    _fold_into(archive, _sums(), log[:2])
    _fold_into(archive, _sums(), log)  # the state of before the wish, folded again
    again = _emitted(tmp_path)
    _fold_into(again, _sums(), log)
    for one in (archive, again):
        for due in one.take(all_of_it=True):
            one.write(*due)
    assert {value for _, value in _values(tmp_path, "stats", "user_id")} == {1.0, 2.0}


def test_rows_of_items_belong_to_nobody_and_stay_plain(tmp_path: Path) -> None:
    archive = _emitted(tmp_path)
    one = Column(np.array([1.0]))
    at = np.array([START])
    rows = ViewRows("items", ("item_id",), [("i1",)], {"f": one}, {"f": "FLOAT64"}, {"f": 1}, at, at, 1, START)
    archive.add("item_interactions", 0, rows)
    for due in archive.take(all_of_it=True):
        archive.write(*due)
    (path,) = (tmp_path / "archive" / "features" / "items").iterdir()
    assert pq.read_table(path)["item_id"].to_pylist() == ["i1"]
