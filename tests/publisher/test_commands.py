"""What people ask for, what the trainer is told, what is written down."""

import json
from pathlib import Path

import pytest
from freshrank.v1.models_pb2 import (
    Command,
    Freeze,
    PromoteReleaseRequest,
    RollbackEncoderRequest,
    RollbackReleaseRequest,
)

from services.common.errors import Conflict, CorruptState, NotFound, TemporaryError
from services.publisher import control
from services.publisher.audit import Audit, difference
from services.publisher.book import Keeper, State, Switches
from services.publisher.commands import obey
from services.publisher.files import Disk
from services.publisher.outside import ReleasePolicy
from services.publisher.routes import route_of
from tests.publisher.shop import SECOND, open_shop


class Obedient:
    """Remembers, and fails as told."""

    arm = "main"

    def __init__(self, error: Exception | None = None) -> None:
        self.done: list[tuple[object, ...]] = []
        self._error = error

    def promote(self, release: str, actor: str, now_us: int) -> None:
        self._do("promote", release, actor)

    def rollback(self, release: str, actor: str, reason: str, now_us: int) -> None:
        self._do("rollback", release, actor, reason)

    def freeze(self, switches: Switches, now_us: int) -> None:
        self._do("freeze", switches)

    def _do(self, *what: object) -> None:
        if self._error is not None:
            raise self._error
        self.done.append(what)


@pytest.mark.parametrize(
    ("command", "done"),
    [
        (Command(promote=PromoteReleaseRequest(release="r", actor="ada")), ("promote", "r", "ada")),
        (
            Command(rollback=RollbackReleaseRequest(actor="ada")),
            ("rollback", "", "ada", "asked for by ada"),
        ),
        (
            Command(freeze=Freeze(rows=True, actor="ada", reason="sale")),
            ("freeze", Switches(rows=True, actor="ada", reason="sale")),
        ),
    ],
)
def test_each_command_is_carried_out(tmp_path: Path, command: Command, done: tuple[object, ...]) -> None:
    one = Obedient()
    obey(command.SerializeToString(), one, Audit(tmp_path / "a.jsonl"), 0)
    assert one.done == [done]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        pytest.param(b"\xff\xff\xff", None, id="not a command"),
        pytest.param(None, None, id="empty"),
        pytest.param(Command(promote=PromoteReleaseRequest()).SerializeToString(), Conflict("no"), id="not allowed"),
        pytest.param(Command(rollback=RollbackReleaseRequest()).SerializeToString(), NotFound("no"), id="not there"),
    ],
)
def test_a_command_that_cannot_be_done_is_written_down_and_done_with(
    tmp_path: Path, value: bytes | None, error: Exception | None
) -> None:
    audit = Audit(tmp_path / "a.jsonl")
    obey(value, Obedient(error), audit, 0)
    assert [entry["decision"] for entry in audit.entries()] == ["command_refused"]


def test_a_command_that_cannot_be_done_for_now_is_tried_again(tmp_path: Path) -> None:
    value = Command(rollback=RollbackReleaseRequest()).SerializeToString()
    with pytest.raises(TemporaryError):
        obey(value, Obedient(TemporaryError("away")), Audit(tmp_path / "a.jsonl"), 0)


def test_the_trainer_is_told_the_champion_last_and_who_was_refused(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    names = []
    for seq in (1, 2, 3):
        names.append(shop.offer(seq))
        shop.releases.step(seq * 100 * SECOND)
    assert control.control_of(shop.releases.book)["accepted"] == names
    shop.releases.rollback(names[1], "ada", "worse", 400 * SECOND)
    told = control.control_of(shop.releases.book)
    assert (told["accepted"], told["refused"]) == ([names[0], names[1]], [names[2]])
    assert (told["lineage"], told["epoch"], told["slot"], told["from_checkpoint"]) == (2, 2, "b", "1-2")


def test_a_release_that_was_held_and_replaced_has_never_served(tmp_path: Path) -> None:
    shop = open_shop(tmp_path, ReleasePolicy(approval="manual"))
    older = shop.offer(1)
    shop.releases.step(100 * SECOND)
    newer = shop.offer(2)
    shop.releases.step(200 * SECOND)
    assert shop.releases.book.entry(older).state == State.RETIRED
    shop.releases.promote(newer, "ada", 300 * SECOND)
    assert control.control_of(shop.releases.book)["accepted"] == [newer]
    with pytest.raises(NotFound):
        shop.releases.rollback(older, "ada", "", 400 * SECOND)


def test_control_is_written_only_when_it_changes(tmp_path: Path) -> None:
    path, keeper = tmp_path / "control.json", Keeper(tmp_path / "book.json", "main")
    control.write(path, keeper.book, Disk())
    before = path.stat().st_mtime_ns
    control.write(path, keeper.book, Disk())
    assert path.stat().st_mtime_ns == before
    assert json.loads(path.read_bytes())["lineage"] == 1


def test_a_stop_of_the_row_gate_shows_in_the_route(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "book.json", "main")
    book = keeper.change(lambda b: b.__class__(**{**b.__dict__, "stopped": "rows refused: norm"}))
    route = route_of(book, 0.02, [], lambda release: [], 5)
    assert (route.freeze.rows, route.freeze.actor, route.freeze.reason) == (True, "row gate", "rows refused: norm")


def test_the_audit_record_survives_a_line_that_was_cut_off(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "a.jsonl")
    audit.add(1, "promoted", "r1", after={"auc": 0.7, "log_loss": float("nan")})
    with open(tmp_path / "a.jsonl", "ab") as file:
        file.write(b'{"at_us": 2, "deci')
    audit.add(3, "promoted", "r2", after={"auc": 0.75})
    assert [entry["release"] for entry in audit.entries()] == ["r1", "r2"]
    assert difference(audit, "r1", "r2")["auc"]["difference"] == pytest.approx(0.05)
    assert difference(audit, "r1", "r2")["log_loss"]["difference"] is None
    with pytest.raises(NotFound):
        difference(audit, "r1", "r9")


def test_a_book_that_was_damaged_is_not_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "book.json").write_text('{"version": 1, "arm"')
    with pytest.raises(CorruptState):
        Keeper(tmp_path / "book.json", "main")


class Encoding:
    """Remembers."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str, bool]] = []

    def rollback(self, actor: str, reason: str, reranker: bool = False) -> None:
        self.done.append((actor, reason, reranker))


def test_encoders_are_the_business_of_the_publisher_that_has_them(tmp_path: Path) -> None:
    audit, one, encoders = Audit(tmp_path / "a.jsonl"), Obedient(), Encoding()
    asked = Command(rollback_encoder=RollbackEncoderRequest(actor="ada")).SerializeToString()
    obey(asked, one, audit, 0, encoders=encoders)
    obey(asked, one, audit, 0)  # another arm's publisher
    other = Command(rollback_encoder=RollbackEncoderRequest(reason="odd", reranker=True)).SerializeToString()
    obey(other, one, audit, 0, encoders=encoders)
    assert encoders.done == [("ada", "asked for by ada", False), ("", "odd", True)]
    assert one.done == []
    assert audit.entries() == []
