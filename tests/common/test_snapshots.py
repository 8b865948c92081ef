"""A snapshot is whole or not there, and the newest whole one wins."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save as save_tensors

from services.common.errors import CorruptState
from services.common.snapshots import VERSION, SnapshotStore, pack, unpack, write_durably
from services.common.stage import Snapshot


def some(next_offset: int = 7) -> Snapshot:
    return Snapshot(next_offset, {"a": np.arange(5), "b": np.array([[1.5, 2.5]], np.float32)}, {"users": 2, "x": [1]})


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def packed(head: dict[str, object] | None) -> bytes:
    """A file whose digest is right, whatever is in it."""
    body = save_tensors({"a": np.arange(2)}, None if head is None else {"snapshot": json.dumps(head)})
    return hashlib.blake2b(body, digest_size=32).digest() + body


def test_a_snapshot_comes_back_as_it_was() -> None:
    back = unpack(pack(some()))
    assert (back.next_offset, back.meta) == (7, {"users": 2, "x": [1]})
    for name, array in some().arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)
        assert back.arrays[name].dtype == array.dtype


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.zeros((0, 3), np.float32), id="no rows"),
        pytest.param(np.array(3.5), id="no dimensions"),
        pytest.param(np.arange(6).reshape(2, 3).T, id="transposed"),
        pytest.param(np.arange(10)[::2], id="every second"),
        pytest.param(np.array([True, False]), id="bits"),
        pytest.param(np.array([2**63], np.uint64), id="large"),
    ],
)
def test_every_shape_and_type_comes_back_and_may_be_changed(array: np.ndarray) -> None:
    back = unpack(pack(Snapshot(1, {"it": array}))).arrays["it"]
    np.testing.assert_array_equal(back, array)
    assert back.shape == array.shape
    back[...] = 0  # a fold goes on in place


@given(st.data())
def test_any_flipped_bit_or_lost_end_is_noticed(data: st.DataObject) -> None:
    whole = pack(some())
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptState):
        unpack(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
    with pytest.raises(CorruptState):
        unpack(whole[:at])


@pytest.mark.parametrize("version", [VERSION, VERSION - 1])
def test_this_version_and_the_one_before_are_read(version: int) -> None:
    assert unpack(packed({"version": version, "next_offset": 3, "meta": {}})).next_offset == 3


@pytest.mark.parametrize(
    "head",
    [
        pytest.param({"version": VERSION + 1, "next_offset": 3, "meta": {}}, id="newer"),
        pytest.param({"version": VERSION - 2, "next_offset": 3, "meta": {}}, id="older"),
        pytest.param({"next_offset": 3}, id="no version"),
        pytest.param({"version": VERSION, "next_offset": 3}, id="no meta"),
        pytest.param(None, id="no head"),
    ],
)
def test_what_is_no_snapshot_of_ours_is_refused_though_its_digest_is_right(head: dict[str, object] | None) -> None:
    with pytest.raises(CorruptState):
        unpack(packed(head))


def test_three_are_kept_and_the_newest_wins(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    assert store.newest("t", 0) is None
    for offset in (1, 20, 300, 4_000):
        store.save("t", 0, some(offset))
    newest = store.newest("t", 0)
    assert newest is not None
    assert newest.next_offset == 4_000
    assert files(tmp_path) == [f"{offset:020d}.snapshot" for offset in (20, 300, 4_000)]


def test_partitions_and_topics_keep_apart(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    for n, (topic, partition) in enumerate([("t", 0), ("t", 1), ("u", 0)]):
        store.save(topic, partition, some(n))
    found = [store.newest(topic, partition) for topic, partition in [("t", 0), ("t", 1), ("u", 0)]]
    assert [snapshot and snapshot.next_offset for snapshot in found] == [0, 1, 2]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="torn"),
        pytest.param(lambda data: bytes([data[0] ^ 1]) + data[1:], id="digest flipped"),
        pytest.param(lambda data: data[:-1] + bytes([data[-1] ^ 128]), id="body flipped"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: packed({"version": 99, "next_offset": 3, "meta": {}}), id="of a later version"),
    ],
)
def test_a_spoilt_one_gives_way_to_the_one_before(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    store = SnapshotStore(tmp_path)
    paths = [store.save("t", 0, some(offset)) for offset in (10, 20, 30)]
    paths[2].write_bytes(spoil(paths[2].read_bytes()))
    newest = store.newest("t", 0)
    assert newest is not None
    assert newest.next_offset == 20
    for path in paths[:2]:
        path.write_bytes(spoil(path.read_bytes()))
    assert store.newest("t", 0) is None


def test_an_old_owner_writing_late_replaces_nothing_newer(tmp_path: Path) -> None:
    new, old = SnapshotStore(tmp_path), SnapshotStore(tmp_path)
    for offset in (100, 200, 300):
        new.save("t", 0, some(offset))
    old.save("t", 0, some(150))
    newest = new.newest("t", 0)
    assert newest is not None
    assert newest.next_offset == 300


def test_what_a_killed_writer_left_is_no_snapshot_and_goes_when_there_are_newer_ones(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, keep=1)
    path = store.save("t", 0, some(5))
    half = path.with_name(f".{6:020d}.snapshot.abc.part")
    half.write_bytes(b"half")
    newest = store.newest("t", 0)
    assert newest is not None
    assert newest.next_offset == 5
    store.save("t", 0, some(6))
    assert half.exists(), "its writer may still be at work"
    store.save("t", 0, some(7))
    assert files(tmp_path) == [f"{7:020d}.snapshot"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    place = tmp_path / "taken"
    place.mkdir()
    with pytest.raises(OSError, match="taken"):
        write_durably(place, b"data")
    assert files(tmp_path) == []
