"""What operators see and ask."""

import json
from pathlib import Path
from typing import Any

import pytest
from freshrank.v1.models_pb2 import (
    Freeze,
    PromoteReleaseRequest,
    ReleaseState,
    RollbackEncoderRequest,
    RollbackReleaseRequest,
    Route,
)

from services.common.errors import CorruptState, InvalidInput, NotFound
from services.gateway.operate import Operations, decided, encoders
from services.gateway.releases import World, Worlds
from tests.gateway.shop import NOW, Shop, plan, spec_of
from tests.gateway.small_ranker import write_release

AUDIT: list[dict[str, Any]] = [
    {"at_us": 1, "decision": "promoted", "release": "r1", "after": {"auc": 0.7}},
    {"at_us": 2, "decision": "refused", "release": "r2", "reason": "not finite", "before": {"auc": 0.7}},
    {
        "at_us": 3,
        "decision": "promoted",
        "release": "r3",
        "parent": "r1",
        "before": {"auc": 0.7},
        "after": {"auc": 0.8},
    },
    {"at_us": 4, "decision": "rolled_back", "release": "r3", "reason": "log-loss"},
    {"at_us": 5, "decision": "frozen", "release": ""},
    {"at_us": 6, "decision": "held", "release": "r4"},
]


class Desk:
    """Operations over a folder, with a route that a test can turn."""

    def __init__(self, folder: Path) -> None:
        self.shop = Shop(folder, items=1)
        self.route = Route(champion="r1", slot="a", epoch=1)
        self.operations = Operations(folder, self.shop.sends, self.shop.intake, self.current, lambda: "c1")
        self.turned_to: Route | None = None

    def current(self) -> Worlds:
        """What is routed; a command has taken effect by the time it is asked for again."""
        if self.turned_to is not None and self.shop.sends.commands:
            self.route = self.turned_to
        return Worlds.only(World(self.shop.state.world.schema, self.route))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "releases").mkdir()
    lines = [json.dumps(entry) for entry in AUDIT]
    (tmp_path / "releases" / "audit.jsonl").write_text("\n".join([*lines, '{"at_us": 7, "decis']))
    write_release(tmp_path, "r1", spec_of(plan()), NOW)
    return Desk(tmp_path)


def test_each_release_is_in_the_state_of_its_last_decision() -> None:
    found = decided(AUDIT)
    assert {name: ReleaseState.Name(release.state)[14:] for name, release in found.items()} == {
        "r1": "RETIRED",
        "r2": "REFUSED",
        "r3": "ROLLED_BACK",
        "r4": "HELD",
    }
    assert found["r3"].reason == "log-loss"
    assert dict(found["r3"].metrics) == {"auc": 0.8, "auc_parent": 0.7}


def test_the_list_names_what_serves_and_describes_it_by_its_manifest(desk: Desk) -> None:
    first = desk.operations.releases()[0]
    assert (first.release, first.state, first.learned_up_to_us) == ("r1", ReleaseState.RELEASE_STATE_CHAMPION, NOW)


async def test_a_promotion_is_a_command_and_answers_when_the_route_shows_it(desk: Desk) -> None:
    desk.turned_to = Route(champion="r4", previous="r1")
    release = await desk.operations.promote(PromoteReleaseRequest(release="r4", actor="eve"), 1.0)
    assert release.state == ReleaseState.RELEASE_STATE_CHAMPION
    (command,) = desk.shop.sends.commands
    assert (command.promote.release, command.promote.actor, command.command_id) == ("r4", "eve", "c1")


async def test_a_rollback_to_the_previous_one_names_no_release(desk: Desk) -> None:
    desk.turned_to = Route(champion="r4")
    assert (await desk.operations.rollback(RollbackReleaseRequest(reason="odd"), 1.0)).release == "r4"
    assert desk.shop.sends.commands[0].rollback.reason == "odd"


async def test_what_the_publisher_does_not_do_in_time_is_answered_as_it_is(desk: Desk) -> None:
    release = await desk.operations.promote(PromoteReleaseRequest(release="r4"), 0.01)
    assert release.state == ReleaseState.RELEASE_STATE_HELD


async def test_freezing_answers_what_holds(desk: Desk) -> None:
    desk.turned_to = Route(champion="r1", freeze=Freeze(rows=True, actor="eve"))
    assert (await desk.operations.freeze(Freeze(rows=True, actor="eve"), 1.0)).rows


async def test_unknown_and_unnamed_releases_are_refused_without_a_command(desk: Desk) -> None:
    with pytest.raises(NotFound):
        await desk.operations.promote(PromoteReleaseRequest(release="r9"), 1.0)
    with pytest.raises(InvalidInput):
        await desk.operations.promote(PromoteReleaseRequest(), 1.0)
    with pytest.raises(InvalidInput):
        await desk.operations.forget("ada", NOW + 1, NOW, 1.0)
    assert not desk.shop.sends.commands


def book(serving: str, previous: str = "") -> str:
    """What the publisher writes of encoders."""
    lanes = {name: {"encoder": name, "slot": "ta", "epoch": 3} for name in (serving, previous) if name}
    decided = [{"encoder": name, "state": "serving", "reason": "", "decided_us": 7, "checks": []} for name in lanes]
    text = {"version": 1, "serving": lanes[serving], "filling": None, "previous": lanes.get(previous), "epoch": 3}
    return json.dumps({**text, "decided": decided[:1]})


def test_encoders_are_as_the_publisher_has_written_them_down(tmp_path: Path) -> None:
    path = tmp_path / "book.json"
    assert encoders(tmp_path) == []
    path.write_text(book("t1"))
    (found,) = encoders(tmp_path)
    assert (found.encoder, found.state, found.slot, found.epoch, found.decided_us) == ("t1", "serving", "ta", 3, 7)
    path.write_text("{")
    with pytest.raises(CorruptState, match="book.json"):
        encoders(tmp_path)


async def test_a_rollback_of_the_encoder_is_a_command_and_answers_how_they_stand(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "encoders").mkdir()
    (tmp_path / "encoders" / "book.json").write_text(book("t2", "t1"))
    found = await desk.operations.rollback_encoder(RollbackEncoderRequest(actor="ada"), 0.1)
    assert desk.shop.sends.commands[0].rollback_encoder.actor == "ada"
    assert [(encoder.encoder, encoder.state) for encoder in found] == [("t2", "serving")]


async def test_rerankers_are_shown_beside_encoders_and_gone_back_to_alone(desk: Desk, tmp_path: Path) -> None:
    for kind, name in (("encoders", "t2"), ("rerankers", "x2")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "book.json").write_text(book(name))
    found = await desk.operations.rollback_encoder(RollbackEncoderRequest(reranker=True), 0.1)
    assert desk.shop.sends.commands[0].rollback_encoder.reranker
    assert [(encoder.encoder, encoder.kind) for encoder in found] == [("t2", "encoder"), ("x2", "reranker")]
