"""The real trainer's deltas and exports through the real gates: what the two services promise each other in files."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from freshrank.v1.events_pb2 import Impression
from freshrank.v1.models_pb2 import Route

from services.common.metrics import Metrics
from services.publisher.audit import Audit
from services.publisher.book import Keeper, State
from services.publisher.desk import Desk
from services.publisher.fleet import Fleet
from services.publisher.history import RowHistory
from services.publisher.intake import Intake
from services.publisher.meters import Meters
from services.publisher.pump import PumpPolicy, RowPump
from services.publisher.release import Releases
from services.publisher.replay import Closed, Replay
from services.publisher.settings import PublisherSettings
from services.publisher.shelf import Shelf
from services.publisher.store import ReleaseStore
from services.trainer.triggers import VolumeTrigger
from tests.publisher.fakes import SmallRowStore, SmallTriton
from tests.trainer.arm import TURN_US, Recorder, arm
from tests.trainer.world import FileSource, Shop

pytestmark = pytest.mark.pipeline

IMPRESSIONS = 1_500


class Blind:
    """Watches nothing."""

    def served(self, impression: Impression) -> None:
        """Nothing."""

    def labelled(self, closed: Closed) -> None:
        """Nothing."""


@dataclass
class Publishing:
    """A publisher over the trainer's folder."""

    root: Path

    def __post_init__(self) -> None:
        settings = PublisherSettings(store=self.root, row_dim=4)  # type: ignore[call-arg]
        self.keeper = Keeper(self.root / "book.json", "main")
        self.audit = Audit(self.root / "releases" / "audit.jsonl")
        self.store, self.rows, self.routes = ReleaseStore(self.root, "main", "python"), SmallRowStore(), list[Route]()
        shelf, deltas = Shelf(self.store.releases), self.root / "arms" / "main" / "deltas"
        history = RowHistory(self.root / "rows", deltas, 4)
        meters = Meters(Metrics("publisher"), lambda: 0)
        self.intake = Intake(Replay(5_000), Blind(), 60_000_000)
        desk = Desk(
            self.keeper, self.store, shelf, history, self.intake, self.routes.append, meters, time.monotonic,
            settings.gate_bounds(), 128,
        )  # fmt: skip
        self.pump = RowPump(
            self.keeper, history, deltas, self.rows, self.audit, meters, desk.probe, settings.row_bounds(),
            PumpPolicy(fold_deltas=20),
        )  # fmt: skip
        desk.rows = self.pump
        triton = SmallTriton(self.store.models)
        fleet = Fleet(lambda: ["one"], lambda address: triton)
        self.releases = Releases(self.keeper, self.store, shelf, fleet, self.audit, desk, settings.policy())
        self.releases.start(0)

    def step(self, now_us: int) -> None:
        self.pump.step(now_us)
        self.pump.fold()
        self.releases.step(now_us)

    def promoted(self) -> list[str]:
        return [entry["release"] for entry in self.audit.entries() if entry["decision"] == "promoted"]


def test_releases_pass_and_a_rollback_begins_a_lineage_that_passes_again(tmp_path: Path) -> None:
    messages = Shop(seed=1).messages(IMPRESSIONS)
    source, recorder = FileSource({0: messages}, sizes=(4,)), Recorder()
    loop, clock = arm(tmp_path, source, trigger=VolumeTrigger(300), observer=recorder)
    publishing, fed, rolled_back = Publishing(tmp_path), 0, False
    while not source.done:
        loop.turn()
        clock.advance_to(clock.now_us() + TURN_US)
        at = int(source._at[0])
        for message in messages[fed:at]:
            publishing.intake.apply(0, message)
        fed = at
        publishing.step(clock.now_us())
        if not rolled_back and len(publishing.promoted()) == 4:
            publishing.releases.rollback("", "ada", "test", clock.now_us())
            rolled_back = True
    rows_of = loop.arm.learner.tables.item
    loop.arm.close()
    book = publishing.keeper.book
    assert recorder.failures == []
    assert not book.stopped
    assert rolled_back
    assert (book.learning.lineage, book.serving.slot) == (2, "b")
    assert book.entry(book.champion).lineage == 2
    assert len(publishing.promoted()) > 5
    assert [e.reason for e in book.of(State.REFUSED) if "golden" in e.reason or "readable" in e.reason] == []
    live = {row_id for (slot, kind, row_id), (epoch, _, _) in publishing.rows.rows.items() if (slot, epoch) == ("b", 2)}
    assert live
    rows, masks = rows_of.lookup(sorted(name for name in live if name.startswith("item")))
    assert masks.all()
    mine = publishing.pump.items(sorted(name for name in live if name.startswith("item")))[0]
    assert abs(rows - mine).max() < 0.5
