"""The way of an encoder: candidate, judged, given vectors, routed; whatever fails on it."""

import json
from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.models_pb2 import CatalogueItem

from services.common.errors import CorruptState, TemporaryError
from services.publisher.judgments import Judged, from_file
from services.text import categories, names
from services.text import folder as folders
from services.text.categories import Categories
from services.text.item import text_hash
from tests.publisher.encoders.parts import NOW, Log, Made, Stage

TITLES = ("red shoe", "blue boot", "wood table", "glass door", "kitchen sink", "garden chair", "wool rug", "new lamp")


def items(count: int = 24) -> list[CatalogueItem]:
    return [CatalogueItem(item_id=f"i{n}", title=f"{TITLES[n % 8]} {n % 3 + 1}", stock=-1) for n in range(count)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("encoders"))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    log = Log()
    log.entries(*items())
    return Stage(tmp_path / "store", log)


def test_the_first_encoder_is_routed_when_every_item_has_its_vector(stage: Stage, made: Made) -> None:
    name = made.candidate(stage.root)
    stage.steps()
    route = stage.outside.routes[-1]
    assert (route.encoder, route.slot, route.epoch, route.term, list(route.at)) == (name, "ta", 1, 3, ["one"])
    rows = stage.log.rows("ta")
    assert set(rows) == {f"i{n}" for n in range(24)}
    assert rows["i0"].seq == text_hash("red shoe 1")
    assert {row.epoch for row in rows.values()} == {1}
    assert not list(names.incoming(stage.root).iterdir())
    assert (names.kept(stage.root) / name / "encoder.json").is_file()
    assert stage.triton.loaded() == {name}


def test_nothing_is_said_before_there_is_an_encoder(stage: Stage) -> None:
    stage.steps()
    assert stage.outside.routes == []
    assert stage.encoders.status() == {"serving": None, "filling": None, "previous": None}


def test_a_vector_follows_its_text(stage: Stage, made: Made) -> None:
    made.candidate(stage.root)
    stage.steps()
    before = stage.log.rows("ta")
    stage.log.entries(
        CatalogueItem(item_id="i0", title="green tile", stock=-1), CatalogueItem(item_id="n", title="tap")
    )
    stage.log.entries(CatalogueItem(item_id="i1", title="blue boot 2", price=5.0, stock=-1))  # the text is the same
    stage.log.put("c|i2", None)
    stage.log.entries(CatalogueItem(item_id="i3"))  # without any text
    sent = stage.outside.sent
    stage.steps()
    after = stage.log.rows("ta")
    assert after["i0"].seq == text_hash("green tile")
    assert after["i0"].int8 != before["i0"].int8
    assert "n" in after
    assert not {"i2", "i3"} & set(after)
    assert stage.outside.sent - sent == 4


def test_a_second_encoder_fills_the_other_slot_before_it_is_routed(stage: Stage, made: Made) -> None:
    first = made.candidate(stage.root)
    stage.steps()
    second = made.candidate(stage.root, seed=1, day=2)
    stage.outside.fails = True
    with pytest.raises(TemporaryError):
        stage.steps()
    assert stage.outside.routes[-1].encoder == first
    stage.outside.fails = False
    stage.steps()
    route = stage.outside.routes[-1]
    assert (route.encoder, route.slot, route.epoch) == (second, "tb", 2)
    assert set(stage.log.rows("tb")) == set(stage.log.rows("ta"))
    assert stage.triton.loaded() == {first, second}  # to go back to


def test_the_one_before_is_kept_current_and_gone_back_to(stage: Stage, made: Made) -> None:
    first = made.candidate(stage.root)
    stage.steps()
    stage.encoders.rollback("ada", "looks odd")
    stage.steps(1)
    assert stage.audit.entries()[-1]["decision"] == "command_refused"
    second = made.candidate(stage.root, seed=1, day=2)
    stage.steps()
    stage.log.entries(CatalogueItem(item_id="n", title="stone tile"))
    stage.steps()
    assert "n" in stage.log.rows("ta")
    stage.encoders.rollback("ada", "looks odd")
    stage.steps(1)
    route = stage.outside.routes[-1]
    assert (route.encoder, route.slot, route.epoch) == (first, "ta", 1)
    stage.steps()
    assert stage.triton.loaded() == {first}
    assert not (names.kept(stage.root) / second).exists()
    states = {entry.encoder: entry.state for entry in stage.encoders.book.decided}
    assert states == {first: "serving", second: "rolled_back"}
    third = made.candidate(stage.root, seed=2, day=3)
    stage.steps()
    assert (stage.outside.routes[-1].encoder, stage.outside.routes[-1].epoch) == (third, 3)


def judged(stage: Stage, count: int = 12) -> list[Judged]:
    """Queries that are titles, each with its own items and others."""
    found = []
    for n in range(count):
        mine, others = f"i{n % 8}", [f"i{k}" for k in range(8) if k != n % 8]
        found.append(Judged(TITLES[n % 8], (*others, mine), (*[0.0] * 7, 1.0)))
    return found


def test_an_encoder_that_orders_worse_is_refused(stage: Stage, made: Made) -> None:
    first = made.candidate(stage.root)
    stage.steps()
    stage.outside.judgments = {"clicks": judged(stage), "judged": ()}
    spoilt = made.candidate(stage.root, seed=1, day=2, spoil=True)
    stage.steps()
    assert stage.outside.routes[-1].encoder == first
    refused = next(entry for entry in stage.encoders.book.decided if entry.encoder == spoilt)
    assert refused.state == "refused"
    assert refused.reason.startswith("clicks -")
    assert stage.triton.loaded() == {first}
    assert not (names.kept(stage.root) / spoilt).exists()
    assert stage.log.rows("tb") == {}


def test_one_that_orders_as_well_passes_with_its_figures(stage: Stage, made: Made) -> None:
    made.candidate(stage.root)
    stage.steps()
    stage.outside.judgments = {"clicks": judged(stage), "judged": judged(stage, 5)}
    second = made.candidate(stage.root, seed=0, day=2, int8=True)
    stage.steps()
    assert stage.outside.routes[-1].encoder == second
    entry = next(e for e in stage.audit.entries(second) if e["decision"] == "held")
    assert [check["name"] for check in entry["checks"]] == ["clicks", "judged"]
    assert "over 12 queries" in entry["checks"][0]["detail"]
    assert "not judged: 5 queries" in entry["checks"][1]["detail"]


def test_a_newer_candidate_supersedes_one_that_waits(stage: Stage, made: Made) -> None:
    first, second = made.candidate(stage.root), made.candidate(stage.root, seed=1, day=2)
    stage.steps()
    assert stage.outside.routes[-1].encoder == second
    assert {e.encoder: e.reason for e in stage.encoders.book.decided}[first] == "superseded by a newer candidate"


@pytest.mark.parametrize("what", ["model.onnx", "tokenizer.json", "golden.safetensors", "encoder.json"])
def test_a_folder_that_is_not_whole_is_refused(stage: Stage, made: Made, what: str) -> None:
    name = made.candidate(stage.root)
    path = names.incoming(stage.root) / name / what
    path.write_bytes(path.read_bytes()[:-20])
    stage.steps()
    assert stage.outside.decisions == ["refused"]
    assert what in stage.encoders.book.decided[0].reason
    assert not list(names.incoming(stage.root).iterdir())
    assert stage.outside.routes == []


def telling(dim: int = 32) -> Categories:
    return Categories(["", "shoes"], np.ones((2, dim), np.float32), np.zeros(2, np.float32))


def test_what_tells_categories_comes_with_its_encoder(stage: Stage, made: Made) -> None:
    name = made.candidate(stage.root, told=telling())
    stage.steps()
    assert stage.outside.routes[-1].encoder == name
    folder = names.kept(stage.root) / name
    found = categories.read(folder, folders.read(folder))
    assert found is not None
    assert found.names == ["", "shoes"]


@pytest.mark.parametrize("cut", [-3, None], ids=["not whole", "of another width"])
def test_an_encoder_with_bad_categories_is_refused(stage: Stage, made: Made, cut: int | None) -> None:
    name = made.candidate(stage.root, told=telling(31 if cut is None else 32))
    path = names.incoming(stage.root) / name / categories.FILE
    path.write_bytes(path.read_bytes()[:cut])
    stage.steps()
    assert stage.outside.decisions == ["refused"]
    assert categories.FILE in stage.encoders.book.decided[0].reason


def test_golden_texts_that_triton_answers_otherwise_are_a_refusal(stage: Stage, made: Made) -> None:
    made.candidate(stage.root)
    stage.triton.off = 0.5
    stage.steps()
    assert stage.outside.decisions == ["refused"]
    assert "off the golden scores" in stage.encoders.book.decided[0].reason


def test_a_candidate_waits_for_triton(stage: Stage, made: Made) -> None:
    name = made.candidate(stage.root)
    stage.triton.away = True
    stage.steps()
    assert stage.outside.routes == []
    stage.triton.away = False
    stage.steps(at_us=NOW + 60_000_000)
    assert stage.outside.routes[-1].encoder == name


def test_a_restart_makes_no_vector_twice(stage: Stage, made: Made) -> None:
    name = made.candidate(stage.root)
    stage.steps()
    sent = stage.outside.sent
    stage.log.entries(CatalogueItem(item_id="n", title="stone tile"))
    stage.again()
    stage.steps()
    assert stage.outside.sent == sent + 1
    assert stage.outside.routes[-1].encoder == name


def test_a_crash_while_filling_goes_on_where_it_was(stage: Stage, made: Made) -> None:
    first = made.candidate(stage.root)
    stage.steps()
    second = made.candidate(stage.root, seed=1, day=2)
    stage.outside.fails = True
    with pytest.raises(TemporaryError):
        stage.steps()
    stage.outside.fails = False
    stage.again()
    assert stage.encoders.status()["filling"]["encoder"] == second
    stage.steps()
    assert stage.outside.routes[-1].encoder == second
    assert stage.encoders.status()["previous"]["encoder"] == first


def test_items_deleted_while_nobody_looked_lose_their_vectors(stage: Stage, made: Made) -> None:
    made.candidate(stage.root)
    stage.steps()
    stage.log.records = [record for record in stage.log.records if record[3] != b"c|i5"]  # compacted away
    stage.again()
    stage.steps()
    assert "i5" not in stage.log.rows("ta")


def test_vectors_that_somebody_else_overwrote_are_made_again(stage: Stage, made: Made) -> None:
    made.candidate(stage.root)
    stage.steps()
    late = stage.log.rows("ta")["i3"]
    late.epoch = 0
    stage.log.put("r|ta|i3", late.SerializeToString())
    stage.steps()
    assert stage.log.rows("ta")["i3"].epoch == 1


def test_a_model_that_died_is_loaded_again(stage: Stage, made: Made) -> None:
    name = made.candidate(stage.root)
    stage.steps()
    stage.triton.dead.add(name)
    assert stage.fleet.tend(stage.encoders.wanted(), mark=False) == [name]
    assert stage.fleet.placed(name) == ["one"]


def test_a_judged_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    assert from_file(path) == []
    lines = [{"query": " Red SHOE", "item": "a", "grade": 2}, {"query": "red shoe", "item": "b", "grade": 0}]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert from_file(path) == [Judged("red shoe", ("a", "b"), (2.0, 0.0))]
    path.write_text('{"query": "red"}\n')
    with pytest.raises(CorruptState, match=r"judged.jsonl, line 1"):
        from_file(path)


def test_the_vectors_are_those_of_the_model(stage: Stage, made: Made) -> None:
    made.candidate(stage.root)
    stage.steps()
    rows = stage.log.rows("ta")
    found = {item: np.frombuffer(row.int8, np.int8) * np.float32(row.scale) for item, row in rows.items()}
    assert all(abs(float(np.linalg.norm(vector)) - 1) < 0.01 for vector in found.values())
    assert float(found["i0"] @ found["i9"]) < 0.9999
    assert found["i0"].tolist() != found["i1"].tolist()


def test_a_server_without_the_encoder_is_ready_for_rankings(stage: Stage, made: Made) -> None:
    name = made.candidate(stage.root)
    stage.steps()
    stage.triton.dead.add(name)
    stage.triton.refuses_loads = True
    stage.fleet.tend({}, mark=True, besides=stage.encoders.wanted())
    assert stage.triton.marked is True
    assert stage.fleet.placed(name) == []
