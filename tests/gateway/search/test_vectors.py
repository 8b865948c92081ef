"""Vectors of texts in the item table, and the index that is asked for the nearest."""

from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.models_pb2 import ItemRow
from numpy.typing import NDArray

from services.gateway.search.vector_index import VectorIndexer
from services.gateway.search.vectors import TextVectors, pointer
from services.gateway.table import ItemTable
from services.gateway.table_writer import Origin, TableWriter
from services.publisher.compression.rows import messages

DIM = 24
Floats = NDArray[np.float32]


class Machine:
    """A table, the writer of the index, and a worker that asks; vectors of slot "ta"."""

    def __init__(self, folder: Path, least: int = 50) -> None:
        self.folder, self.least = folder, least
        self.writer = TableWriter(folder / "table", Origin("log", "boot"))
        self.table: ItemTable = self.writer.reader()
        self.indexer = VectorIndexer(folder / "vectors", folder / "table", keep=False, least=least)
        self.asks = TextVectors(folder / "vectors", "ta", 1)
        self.values: dict[str, Floats] = {}

    def put(self, values: dict[str, Floats | None], epoch: int = 1) -> None:
        """Records of item_updates; None takes a vector away."""
        there = {item: value for item, value in values.items() if value is not None}
        updates: list[tuple[bytes, bytes | None]] = [(key(item), None) for item in values.keys() - there.keys()]
        made: list[ItemRow] = list(messages(np.array(list(there.values()), np.float32).reshape(-1, DIM), "int8"))
        for item, row in zip(there, made, strict=True):
            row.epoch, row.seq = epoch, 7
            updates.append((key(item), row.SerializeToString()))
        self.writer.apply(updates)
        if epoch == 1:
            self.values |= there
            for item in values.keys() - there.keys():
                self.values.pop(item)

    def nearest(self, query: Floats, count: int) -> list[str]:
        self.asks.renew(self.table)
        slots, cosines = self.asks.nearest(self.table, query, count)
        assert (np.diff(cosines) <= 0).all()
        return self.table.ids(slots)

    def exact(self, query: Floats, count: int) -> list[str]:
        return sorted(self.values, key=lambda item: -float(self.values[item] @ query))[:count]


def key(item: str) -> bytes:
    return f"r|ta|{item}".encode()


def random(count: int, seed: int = 0) -> Floats:
    made = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def some(count: int, seed: int = 0) -> dict[str, Floats | None]:
    return {f"i{n}": row for n, row in enumerate(random(count, seed))}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_vector_keeps_its_direction_in_a_byte_per_number(machine: Machine) -> None:
    machine.put(some(40))
    slots = machine.table.slots(list(machine.values))
    found, present = machine.table.vectors("ta", slots, 1)
    assert present.all()
    assert np.abs(found - np.stack(list(machine.values.values()))).max() < 0.01
    assert machine.table.vectors("ta", np.array([-1]), 1)[1].tolist() == [False]
    assert not machine.table.vectors("tb", slots, 1)[1].any()


def test_vectors_of_another_epoch_are_another_encoders(machine: Machine) -> None:
    machine.put(some(3))
    machine.put({"i1": random(1, 5)[0]}, epoch=2)
    slots = machine.table.slots(["i0", "i1", "i2"])
    assert machine.table.vectors("ta", slots, 1)[1].tolist() == [True, False, True]
    assert machine.table.vectors("ta", slots, 2)[1].tolist() == [False, True, False]
    assert "i1" not in machine.nearest(random(1)[0], 10)


def test_few_vectors_are_compared_one_by_one(machine: Machine) -> None:
    machine.put(some(30))
    assert not machine.indexer.look("ta")
    query = random(1, 9)[0]
    assert machine.nearest(query, 5) == machine.exact(query, 5)


def test_an_index_and_what_came_since_answer_as_one(machine: Machine) -> None:
    machine.put(some(400))
    assert machine.indexer.look("ta")
    query = random(1, 9)[0]
    best = machine.exact(query, 3)
    machine.put({best[0]: None, best[1]: -query, "new": query})
    assert machine.nearest(query, 3)[0] == "new"
    found = machine.nearest(query, 50)
    assert best[0] not in found
    assert best[1] not in found
    wanted = machine.exact(query, 50)
    assert len(set(found) & set(wanted)) >= 47
    assert np.isnan(machine.asks.cosines(machine.table, query, machine.table.slots([best[0], "unknown"]))).all()


def test_the_index_takes_in_what_has_changed_and_forgets_what_is_gone(machine: Machine) -> None:
    machine.put(some(400))
    machine.indexer.look("ta")
    first = pointer(machine.folder / "vectors", "ta")
    machine.put({f"i{n}": None for n in range(100)})
    assert machine.indexer.look("ta")
    second = pointer(machine.folder / "vectors", "ta")
    assert first is not None
    assert second is not None
    assert first.file != second.file
    assert sorted(path.name for path in (machine.folder / "vectors").iterdir()) == [
        second.file, f"{second.file}.stamps.npy", "ta.json",
    ]  # fmt: skip
    assert len(second.open(machine.folder / "vectors").index) == 300
    query = random(1, 9)[0]
    assert len(set(machine.nearest(query, 20)) & set(machine.exact(query, 20))) >= 19


def test_an_index_that_is_replaced_stays_with_who_has_it(machine: Machine) -> None:
    machine.put(some(200))
    machine.indexer.look("ta")
    query = random(1, 9)[0]
    before = machine.nearest(query, 10)
    machine.put({f"n{n}": row for n, row in enumerate(-random(80, 3))})
    machine.indexer.look("ta")  # the file that is asked is gone now
    slots, _ = machine.asks.nearest(machine.table, query, 10)
    assert machine.table.ids(slots) == before


def test_a_restart_goes_on_from_the_file(machine: Machine, tmp_path: Path) -> None:
    machine.put(some(200))
    machine.indexer.look("ta")
    again = VectorIndexer(tmp_path / "vectors", tmp_path / "table", keep=True, least=50)
    assert not again.look("ta")
    machine.put({f"n{n}": row for n, row in enumerate(random(60, 3))})
    assert again.look("ta")
    found = pointer(tmp_path / "vectors", "ta")
    assert found is not None
    assert len(found.open(tmp_path / "vectors").index) == 260


def test_a_file_that_is_cut_off_is_made_anew(machine: Machine, tmp_path: Path) -> None:
    machine.put(some(200))
    machine.indexer.look("ta")
    found = pointer(tmp_path / "vectors", "ta")
    assert found is not None
    (tmp_path / "vectors" / f"{found.file}.stamps.npy").write_bytes(b"")
    again = VectorIndexer(tmp_path / "vectors", tmp_path / "table", keep=True, least=50)
    assert again.look("ta")
    query = random(1, 9)[0]
    assert len(set(machine.nearest(query, 20)) & set(machine.exact(query, 20))) >= 19


def test_a_new_encoders_vectors_get_an_index_of_their_own(machine: Machine) -> None:
    machine.put(some(200))
    machine.indexer.look("ta")
    others = {f"i{n}": row for n, row in enumerate(random(120, 4))}
    machine.put(dict(others), epoch=2)
    assert machine.indexer.look("ta")
    found = pointer(machine.folder / "vectors", "ta")
    assert found is not None
    assert found.epoch == 2
    assert len(found.open(machine.folder / "vectors").index) == 120
    second = TextVectors(machine.folder / "vectors", "ta", 2)
    second.renew(machine.table)
    query = random(1, 9)[0]
    best = sorted(others, key=lambda item: -float(others[item] @ query))[:20]
    assert len(set(machine.table.ids(second.nearest(machine.table, query, 20)[0])) & set(best)) >= 19
    machine.asks.renew(machine.table)
    kept = machine.table.ids(machine.asks.nearest(machine.table, query, 200)[0])
    assert set(kept) == {f"i{n}" for n in range(120, 200)}


def test_a_query_of_another_width_finds_nothing(machine: Machine) -> None:
    machine.put(some(3))
    assert np.isnan(machine.asks.cosines(machine.table, np.ones(DIM + 1, np.float32), np.array([0, 1]))).all()
