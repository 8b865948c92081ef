"""Keys of shoppers: what is deleted is gone from the file, and deleting knows the order of the log."""

from pathlib import Path

import pytest

from services.common.errors import CorruptState
from services.common.keytable import KeyTable, reading, table_of, writing


def test_a_shopper_has_one_key_on_a_partition(tmp_path: Path) -> None:
    keys = KeyTable(tmp_path / "keys.sqlite")
    first = keys.take(0, {"ada": (3, 0), "ben": (3, 1)})
    assert keys.take(0, {"ada": (9, 0)}) == {"ada": first["ada"]}
    assert len({*first.values(), *keys.take(1, {"ada": (1, 0)}).values()}) == 3
    assert keys.find([first["ben"][0], b"?" * 16]) == dict([first["ben"]])


def test_a_shopper_who_came_back_keeps_the_key_that_began_after_the_wish(tmp_path: Path) -> None:
    keys = KeyTable(tmp_path / "keys.sqlite")
    keys.take(0, {"ada": (3, 5)})
    assert keys.forget("ada", 0, (3, 5)) == 0
    assert keys.forget("ada", 0, (3, 6)) == 1
    back = keys.take(0, {"ada": (7, 0)})
    assert keys.forget("ada", 0, (3, 6)) == 0
    assert keys.take(0, {"ada": (8, 0)}) == back


def test_a_key_holds_from_the_first_row_that_it_seals(tmp_path: Path) -> None:
    keys = KeyTable(tmp_path / "keys.sqlite")
    keys.take(0, {"ada": (7, 0)})
    keys.take(0, {"ada": (2, 0)})
    assert keys.forget("ada", 0, (3, 0)) == 1


def test_a_wish_on_one_partition_holds_for_those_that_the_shopper_was_on(tmp_path: Path) -> None:
    keys = KeyTable(tmp_path / "keys.sqlite")
    keys.take(0, {"ada": (900, 0), "ben": (900, 1)})
    keys.take(4, {"ada": (1, 0)})
    assert keys.forget("ada", 4, (2, 0)) == 2
    assert keys.forget("ben", 0, (901, 0)) == 1


def test_nothing_of_a_deleted_key_is_left_in_the_folder(tmp_path: Path) -> None:
    keys = KeyTable(tmp_path / "keys.sqlite")
    taken = keys.take(0, {f"shopper-{n:04d}": (n, 0) for n in range(2_000)})
    gone = {f"shopper-{n:04d}" for n in range(0, 2_000, 7)}
    assert sum(keys.forget(shopper, 0, (2_000, 0)) for shopper in gone) == len(gone)
    (path,) = tmp_path.iterdir()
    held = path.read_bytes()
    for shopper, (id, key) in taken.items():
        assert [part in held for part in (shopper.encode(), id, key)] == [shopper not in gone] * 3


def test_readers_find_the_keys_beside_the_archive_and_change_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "arms" / "main" / "examples"
    with reading(archive) as none:
        assert none is None
    assert writing(tmp_path, archive, wanted=False) is None
    written = writing(tmp_path, archive, wanted=True)
    assert written is not None
    taken = written.take(0, {"ada": (0, 0)})
    again = writing(tmp_path, archive, wanted=False)
    assert again is not None  # what is sealed stays so
    with reading(archive) as keys:
        assert keys is not None
        assert keys.path == table_of(tmp_path, archive) == tmp_path / "keys" / "arms" / "main" / "examples.sqlite"
        assert keys.find([taken["ada"][0]]) == dict([taken["ada"]])
        with pytest.raises(CorruptState, match="readonly"):
            keys.forget("ada", 0, (1, 0))


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.sqlite").write_bytes(b"no table of keys at all" * 100)
    with pytest.raises(CorruptState, match=r"keys\.sqlite"):
        KeyTable(tmp_path / "keys.sqlite")
