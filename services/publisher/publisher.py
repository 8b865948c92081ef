"""The leading publisher: its parts, and the steps that the loops take."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from freshrank.v1.models_pb2 import ArmSplit, Route, TextRoute

from services.common.arms import MAIN, RERANKER_KEY, TEXT_KEY, suffix
from services.common.clock import Clock
from services.common.errors import PermanentError, TemporaryError
from services.common.health import Health
from services.common.kafka import Record
from services.common.topics import COMMANDS, EXAMPLES
from services.online.connect import client as redis_client
from services.publisher import commands
from services.publisher.arms.court import Court, champions, state_folder
from services.publisher.arms.referee import Referee
from services.publisher.audit import Audit
from services.publisher.book import Book, Keeper, beyond
from services.publisher.cold.text_rows import TextRows
from services.publisher.desk import Desk
from services.publisher.encoders.models import Reach, TextModels
from services.publisher.encoders.watch import SearchWatch
from services.publisher.feast import FeastRows
from services.publisher.fleet import Fleet
from services.publisher.history import RowHistory
from services.publisher.intake import Intake
from services.publisher.judgments import file_of, from_file
from services.publisher.kafka import Reader, Sender, Standing
from services.publisher.lock import LeadersDisk, Leadership, check
from services.publisher.loop import Loops
from services.publisher.meters import Meters
from services.publisher.pump import PumpPolicy, RowPump
from services.publisher.release import Releases
from services.publisher.replay import Closed, Replay
from services.publisher.routes import key_of
from services.publisher.settings import PublisherSettings
from services.publisher.shelf import Shelf
from services.publisher.store import ReleaseStore
from services.publisher.triton import TritonServer
from services.publisher.watcher import Watcher

logger = logging.getLogger(__name__)

_COMMAND_S = 60.0
"""A command that fails but may succeed later is tried so long."""
_FOLD_US = 30_000_000
"""Between two looks at whether deltas can be folded into a base."""
_LISTED = 20
"""Releases named in /positions."""


class Publisher:
    """The leading publisher: parts and the steps that the loops take."""

    def __init__(
        self,
        settings: PublisherSettings,
        leadership: Leadership,
        sender: Sender,
        health: Health,
        meters: Meters,
        clock: Clock,
    ) -> None:
        self._settings, self._health, self._meters, self._clock = settings, health, meters, clock
        self._leadership, self._sender = leadership, sender
        fence, disk = partial(check, leadership), LeadersDisk(leadership)
        root, state = settings.store, state_folder(settings.store, settings.arm)
        self._audit = Audit(root / "releases" / f"audit{suffix(settings.arm)}.jsonl", fence)
        self._keeper = Keeper(state / "book.json", settings.arm, disk, settings.slots)
        store = ReleaseStore(root, settings.arm, settings.backend, disk, kind=settings.instance_kind)
        shelf = Shelf(store.releases)
        deltas = root / "arms" / settings.arm / "deltas"
        history = RowHistory(state / "rows", deltas, settings.row_dim)
        self._fleet = Fleet(_endpoints(settings.triton), _connector(settings), fence)
        replay = Replay(settings.replay_impressions, settings.replay_candidates, settings.least_impressions)
        self._intake = Intake(replay, self, int(settings.ripe_s * 1e6))
        desk = Desk(
            self._keeper, store, shelf, history, self._intake, sender.route, meters, time.monotonic,
            settings.gate_bounds(), settings.probe_candidates, settings.compression_asked(),
            disk, partial(from_file, file_of(root)),
        )  # fmt: skip
        self._redis = redis_client(settings.redis_url, settings.redis_tls, socket_timeout=10, socket_connect_timeout=5)
        item_rows = partial(sender.item_rows, codec=settings.row_codec)
        self._rows_store = FeastRows(self._redis, settings.project, item_rows, fence)
        self._text_rows = None
        if settings.text_rows:
            self._text_rows = TextRows(settings, self._keeper, self._rows_store, item_rows, self._audit, meters)
        self._pump = RowPump(
            self._keeper, history, deltas, self._text_rows.store if self._text_rows else self._rows_store, self._audit,
            meters, desk.probe, settings.row_bounds(), PumpPolicy(settings.fold_deltas, settings.row_codec),
        )  # fmt: skip
        desk.rows = self._pump
        if self._text_rows is not None:
            self._text_rows.follow(self._pump, desk.probe)
        self._releases = Releases(self._keeper, store, shelf, self._fleet, self._audit, desk, settings.policy())
        self._watcher = Watcher(
            shelf, self._fleet, self._pump, settings.watch_share, settings.watch_bounds, settings.arm
        )
        self._search_watch = SearchWatch(settings.search_bounds())
        self.served = self._watcher.served
        self._healthy = False
        self._folded_us = 0
        self._route = Standing(settings.kafka, key_of(settings.arm), Route.FromString)
        self._court = None
        if settings.arm == MAIN:
            referee = Referee(
                state / "arms.json", self._audit, self._split, lambda: champions(settings.store), disk=disk
            )
            self._court = Court(referee, settings.kafka, self._keeper, clock, meters.compared)
        self._texts = None
        if settings.arm == MAIN:
            reach = Reach(settings, disk, fence, sender, self._fleet, self._intake.searches, self._search_watch, meters)
            self._texts = TextModels.of(reach, lambda: leadership.term)
        self._text_routes = [Standing(settings.kafka, key, TextRoute.FromString) for key in (TEXT_KEY, RERANKER_KEY)
                             if self._texts is not None]  # fmt: skip
        self._examples = Reader(settings.kafka, EXAMPLES.name, {}, self._example, back=settings.examples_back)
        self._commands = Reader(settings.kafka, COMMANDS.name, self._after("commands"), self._command)

    def start(self, loops: Loops) -> None:
        """Clear what a crash left, look at every Triton server, say the route, and begin. Raises TemporaryError."""
        self._leadership.above(max(self._keeper.book.term, self._route.term))
        self._keeper.change(lambda book: replace(book, term=self._leadership.term))
        if self._settings.arm != MAIN:  # another arm may have had the slots; main's are nobody else's
            held = self._rows_store.held(self._settings.slots)
            self._keeper.change(lambda book: beyond(book, held))
        self._releases.start(self._clock.now_us())
        if self._texts is not None:
            self._texts.start()
        self._tend()
        self._releases.sync(self._clock.now_us())
        self._health.extra = self._positions
        self._note_examples()
        for partition, offset in self._commands.positions.items():
            self._health.applied(COMMANDS.name, partition, offset)
        loops.add("rows", self._rows, self._settings.rows_every_s)
        loops.add("releases", self._release, 0.1)
        loops.add("golden", self._tend, self._settings.golden_every_s)
        loops.add("examples", self._consume, 0.0)
        if self._court is not None:
            loops.add("arms", self._court.step, 0.2)
        if self._texts is not None:
            loops.add("text", partial(self._text, self._texts), 0.05)
        if self._text_rows is not None:
            loops.add("text rows", partial(self._study, self._text_rows), 1.0)
        self._health.ready = True

    def labelled(self, closed: Closed) -> None:
        """See `Watching`."""
        self._watcher.labelled(closed)
        self._search_watch.labelled(closed)

    def close(self) -> None:
        """Give connections back; the loops have stopped."""
        self._health.ready = False
        self._examples.close()
        self._commands.close()
        self._route.close()
        for standing in self._text_routes:
            standing.close()
        self._fleet.close()
        if self._court is not None:
            self._court.close()
        if self._texts is not None:
            self._texts.close()
        if self._text_rows is not None:
            self._text_rows.close()
        self._redis.close()

    def _rows(self) -> None:
        lost = True
        try:
            now_us = self._clock.now_us()
            self._pump.step(now_us)
            if self._text_rows is not None:
                self._text_rows.send()
            if now_us - self._folded_us > _FOLD_US:
                self._folded_us = now_us
                self._pump.fold()
            lost = self._pump.losing
        finally:
            book = self._keeper.book
            frozen = {f"frozen_{part}": getattr(book.switches, part) for part in ("rows", "releases", "learning")}
            self._meters.holds(rows_lost=lost, rows_stopped=bool(book.stopped), undo=book.undo is not None, **frozen)

    def _release(self) -> None:
        self._commands.step()
        if self._route.overtaken(self._leadership.term):
            self._releases.say_again()
        now_us = self._clock.now_us()
        # One that has just begun to lead has not read yet what candidates are judged by, and would refuse them.
        self._releases.step(now_us, judging=self._examples.caught_up)
        try:
            self._watch(now_us)
        except PermanentError as error:
            logger.error("the watch cannot act", extra={"error": str(error)})
            self._meters.fault("watch")

    def _watch(self, now_us: int) -> None:
        verdict = self._watcher.step(self._keeper.book, self._healthy)
        if verdict is None:
            return
        self._meters.watched(verdict, self._watcher.figures())
        if not verdict.passed and not self._keeper.book.switches.releases:
            self._releases.rollback("", "watch", f"watch: {verdict.reason}", now_us, verdict)

    def _tend(self) -> None:
        self._healthy = False
        try:
            mark = self._settings.arm == MAIN and in_cluster(self._settings.triton)
            healed = self._releases.tend(mark, self._texts.wanted() if self._texts is not None else None)
        except TemporaryError as error:  # no pod at all
            logger.warning("no Triton server to look at", extra={"error": str(error)})
            return
        for release in healed:
            self._watcher.healed(release)
        self._meters.healed(len(healed))
        self._healthy = not healed and self._fleet.whole(self._keeper.book.champion)

    def _text(self, texts: TextModels) -> None:
        for standing in self._text_routes:
            if standing.overtaken(self._leadership.term):
                texts.say_again()
        texts.step(self._clock.now_us(), judging=self._examples.caught_up and not self._keeper.book.switches.releases)

    def _study(self, text_rows: TextRows) -> None:
        if not self._examples.caught_up:  # what rows are judged by is not there yet
            return
        try:
            text_rows.study(self._clock.now_us())
        except PermanentError as error:
            logger.error("rows from texts cannot be studied", extra={"error": str(error)})
            self._meters.fault("text rows")

    def _split(self, split: ArmSplit) -> None:
        split.term = self._leadership.term
        self._sender.split(split)

    def _consume(self) -> None:
        taken = self._examples.step()
        self._note_examples()
        if taken:
            self._meters.kept(len(self._intake))

    def _example(self, record: Record) -> None:
        partition, _, _, key, value = record
        self._intake.apply(partition, value, key)

    def _note_examples(self) -> None:
        for partition, offset in self._examples.positions.items():
            self._health.applied(EXAMPLES.name, partition, offset)

    def _command(self, record: Record) -> None:
        partition, offset, _, _, value = record
        name = f"{COMMANDS.name}-{partition}"
        # Taken before it is done: a rollback that a crash interrupts must not happen twice.
        self._keeper.change(lambda book: replace(book, positions={**book.positions, name: offset + 1}))
        self._try(value)
        self._health.applied(COMMANDS.name, partition, offset + 1)

    def _try(self, value: bytes | None) -> None:
        until = time.monotonic() + _COMMAND_S
        while True:
            now_us = self._clock.now_us()
            try:
                referee = self._court.referee if self._court is not None else None
                commands.obey(value, self._releases, self._audit, now_us, referee, self._texts)
                return
            except TemporaryError as error:
                if time.monotonic() > until:
                    self._audit.add(
                        now_us, "command_refused", reason=f"not possible within {_COMMAND_S:.0f} s: {error}"
                    )
                    return
                time.sleep(0.5)

    def _after(self, topic: str) -> dict[int, int]:
        names = {name.rpartition("-"): offset for name, offset in self._keeper.book.positions.items()}
        return {int(number): offset for (found, _, number), offset in names.items() if found == topic}

    def _positions(self) -> dict[str, Any]:
        book = self._keeper.book
        return {
            "pushed_seq": book.pushed_seq,
            "epoch": book.learning.epoch,
            "slot": book.serving.slot,
            "champion": book.champion,
            "previous": book.previous,
            "rows_lost": self._pump.losing,
            "rows_stopped": book.stopped,
            "impressions": len(self._intake),
            "text": self._texts.status() if self._texts is not None else None,
            "text_rows": self._text_rows.status() if self._text_rows is not None else None,
            "watch": {k: v if v == v and abs(v) != float("inf") else None for k, v in self._watcher.figures().items()},
            "releases": _listed(book),
        }


def _listed(book: Book) -> list[dict[str, Any]]:
    entries = [asdict(entry) for entry in book.entries[:_LISTED]]
    for entry in entries:
        entry["metrics"] = {k: v if v == v else None for k, v in entry["metrics"].items()}
    return entries


def _connector(settings: PublisherSettings) -> Callable[[str], TritonServer]:
    """Pods are called by their addresses, which no certificate holds: theirs is the name of the service."""
    place = settings.triton.removeprefix("kubernetes:").rpartition(":")[0]
    namespace, _, service = place.partition("/")
    name = f"{service}.{namespace}.svc" if settings.triton.startswith("kubernetes:") else ""
    return lambda address: TritonServer(address, backend=settings.backend, tls=settings.triton_tls, name=name)


def in_cluster(triton: str) -> bool:
    """Whether the setting names a cluster's pods, which have readiness probes."""
    return triton.startswith("kubernetes:")


def _endpoints(text: str) -> Any:
    if in_cluster(text):
        from services.publisher.kubernetes import triton_pods  # the client takes 60 MB: only where there is a cluster

        return triton_pods(text)
    addresses = [part.strip() for part in text.split(",") if part.strip()]
    return lambda: addresses
