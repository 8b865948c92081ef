"""The way of a reranker: candidate, judged beside what serves, routed; whatever fails on it."""

from pathlib import Path

import numpy as np
import pytest

from services.publisher.encoders.judge import Judged
from services.text import names
from services.text.folder import RERANKER
from tests.publisher.encoders.parts import NOW, Log, Made, MadeRerankers, Stage
from tests.publisher.encoders.test_encoders import TITLES, items


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRerankers:
    return MadeRerankers(tmp_path_factory.mktemp("rerankers"))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("encoders"))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    log = Log()
    log.entries(*items())
    return Stage(tmp_path / "store", log)


def judged(made: MadeRerankers, count: int = 12) -> list[Judged]:
    """Queries of which the reranker of seed 0 knows the best item."""
    entries = {entry.item_id: entry.title for entry in items(8)}
    found = []
    for n in range(count):
        query = f"{TITLES[n % 8]} {n // 8 + 1}"
        best = int(np.argmax(made.scores(query, list(entries.values()))))
        found.append(Judged(query, tuple(entries), tuple(float(place == best) for place in range(8))))
    return found


def test_a_reranker_is_routed_without_slot_or_vectors(stage: Stage, made: MadeRerankers) -> None:
    name = made.candidate(stage.root)
    stage.steps(2)
    route = stage.ranked.routes[-1]
    assert (route.encoder, route.slot, route.epoch, route.term, list(route.at)) == (name, "", 0, 3, ["one"])
    assert stage.outside.routes == []  # of encoders nothing is said
    assert stage.triton.loaded() == {name}
    assert not list(names.incoming(stage.root, RERANKER).iterdir())
    assert (names.kept(stage.root, RERANKER) / name / "encoder.json").is_file()
    assert stage.ranked.decisions == ["promoted"]


def test_one_that_orders_worse_than_the_one_that_serves_is_refused(stage: Stage, made: MadeRerankers) -> None:
    first = made.candidate(stage.root)
    stage.steps(2)
    stage.ranked.judgments = {"clicks": judged(made), "judged": judged(made, 5)}
    worse = made.candidate(stage.root, day=2, likes=False)
    stage.steps(2)
    refused = stage.rerankers.book.decided[0]
    assert (refused.encoder, refused.state) == (worse, "refused")
    assert refused.reason.startswith("clicks -")
    assert "over 12 queries" in refused.checks[0]["detail"]
    assert "not judged: 5 queries" in refused.checks[1]["detail"]
    assert stage.ranked.routes[-1].encoder == first
    assert stage.triton.loaded() == {first}


def test_one_that_orders_worse_than_the_encoder_is_refused(stage: Stage, made: MadeRerankers, encoders: Made) -> None:
    encoders.candidate(stage.root)
    stage.steps()
    titles = {f"i{n}": TITLES[n] for n in range(8)}
    own = [Judged(title, tuple(titles), tuple(float(t == title) for t in titles.values())) for title in TITLES]
    stage.ranked.judgments = {"clicks": own * 2, "judged": ()}
    name = made.candidate(stage.root)  # of chance: it does not know that a title is nearest to itself
    stage.steps(2)
    assert stage.rerankers.book.serving is None
    entry = next(e for e in stage.rerankers_audit.entries(name) if e["decision"] == "refused")
    assert "as they came" in entry["checks"][0]["detail"]
    assert stage.ranked.routes == []
    assert not (names.kept(stage.root, RERANKER) / name).exists()


def test_the_one_before_stays_and_is_gone_back_to(stage: Stage, made: MadeRerankers) -> None:
    first = made.candidate(stage.root)
    stage.steps(2)
    stage.models.rollback("ada", "odd", reranker=True)
    stage.steps(1)
    assert stage.rerankers_audit.entries()[-1]["decision"] == "command_refused"
    second = made.candidate(stage.root, seed=1, day=2)
    stage.steps(2)
    assert stage.ranked.routes[-1].encoder == second
    assert stage.triton.loaded() == {first, second}
    third = made.candidate(stage.root, seed=2, day=3)
    stage.steps(2)
    assert stage.triton.loaded() == {second, third}
    stage.models.rollback("ada", "odd", reranker=True)
    stage.steps(2)
    assert stage.ranked.routes[-1].encoder == second
    assert stage.triton.loaded() == {second}
    states = {entry.encoder: entry.state for entry in stage.rerankers.book.decided}
    assert states == {first: "retired", second: "serving", third: "rolled_back"}


def test_it_serves_again_after_a_restart(stage: Stage, made: MadeRerankers) -> None:
    name = made.candidate(stage.root)
    stage.steps(2)
    stage.triton.restart()
    stage.again()
    stage.steps(2)
    assert stage.ranked.routes[-1].encoder == name
    assert stage.triton.loaded() == {name}


@pytest.mark.parametrize("what", ["model.onnx", "golden.safetensors", "encoder.json"])
def test_a_folder_that_is_not_whole_is_refused(stage: Stage, made: MadeRerankers, what: str) -> None:
    name = made.candidate(stage.root)
    path = names.incoming(stage.root, RERANKER) / name / what
    path.write_bytes(path.read_bytes()[:-20])
    stage.steps(2)
    assert stage.ranked.decisions == ["refused"]
    assert what in stage.rerankers.book.decided[0].reason


def test_golden_pairs_that_triton_answers_otherwise_are_a_refusal(stage: Stage, made: MadeRerankers) -> None:
    made.candidate(stage.root)
    stage.triton.off = 0.5
    stage.steps(2)
    assert "off the golden scores" in stage.rerankers.book.decided[0].reason


def test_an_encoder_in_the_place_of_a_reranker_is_refused(stage: Stage, encoders: Made) -> None:
    name = encoders.candidate(stage.root)
    (names.incoming(stage.root) / name).rename(names.incoming(stage.root, RERANKER) / f"x{name[1:]}")
    stage.steps(2)
    assert "kind encoder" in stage.rerankers.book.decided[0].reason


def test_a_candidate_waits_for_triton(stage: Stage, made: MadeRerankers) -> None:
    name = made.candidate(stage.root)
    stage.triton.away = True
    stage.steps(2)
    assert stage.ranked.routes == []
    stage.triton.away = False
    stage.steps(2, at_us=NOW + 60_000_000)
    assert stage.ranked.routes[-1].encoder == name
