"""The way of an encoder: candidate, checked, loaded everywhere, judged, given vectors of every item, routed.

Gateways read one record that names the encoder of queries together with slot and epoch of the item vectors, so both
sides change at one moment. Until then what serves is left alone; the one before stays whole, to go back to.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from freshrank.v1.models_pb2 import TextBefore, TextRoute
from numpy.typing import NDArray

from services.common.errors import NotFound
from services.common.spec import Arrays
from services.publisher.audit import Audit
from services.publisher.book import Lane
from services.publisher.checks import Verdict, holds, verdict
from services.publisher.encoders import golden
from services.publisher.encoders.book import Decided, TextBook, TextKeeper, TextLane
from services.publisher.encoders.desk import Judges
from services.publisher.encoders.filler import Filler, Log
from services.publisher.encoders.golden import EncoderGolden
from services.publisher.encoders.judge import Encoding, figures
from services.publisher.encoders.serving import Asking, Routing
from services.publisher.encoders.store import EncoderStore
from services.publisher.encoders.waiting import Waiting
from services.publisher.encoders.watch import SearchWatch
from services.publisher.fleet import Fleet
from services.publisher.judgments import RelevanceBounds, judge
from services.publisher.table import Rows
from services.text import folder as folders
from services.text.folder import INPUTS, Tokenizer

Floats = NDArray[np.float32]


class TextOutside(Judges, Protocol):
    """What is done to the world beside Triton and the disk."""

    def log(self) -> Log:
        """item_updates from its beginning."""
        ...

    def rows(self, lane: Lane, rows: Rows) -> None:
        """Send vectors. Raises TemporaryError."""

    def filled(self, lane: TextLane, made: int, waiting: int) -> None:
        """Count vectors that were made, and say how many are due."""

    def watched(self, figures: Mapping[str, float]) -> None:
        """Show what is known of the encoder that is watched."""


class Encoders:
    """All encoders of a store. For one thread; `wanted`, `status` and `rollback` for any."""

    def __init__(
        self,
        keeper: TextKeeper,
        store: EncoderStore,
        fleet: Fleet,
        audit: Audit,
        outside: TextOutside,
        bounds: RelevanceBounds,
        watch: SearchWatch,
        term: Callable[[], int],
    ) -> None:
        self._keeper, self._store, self._fleet, self._audit = keeper, store, fleet, audit
        self._outside, self._bounds, self._watch, self._term = outside, bounds, watch, term
        self._fillers: dict[TextLane, Filler] = {}
        self._tokens: dict[str, Tokenizer] = {}
        self._golden: dict[str, EncoderGolden] = {}
        self._routing = Routing(outside.route)
        self._waiting = Waiting(keeper, store, audit, outside.decided)
        self._asking = Asking(fleet, "vectors")
        self._asked: deque[tuple[str, str]] = deque()

    @property
    def book(self) -> TextBook:
        """As it is."""
        return self._keeper.book

    @property
    def fillers(self) -> Mapping[TextLane, Filler]:
        """By lane."""
        return self._fillers

    def start(self) -> None:
        """Clear what a crash left, and read what there is."""
        self._store.prepare()
        for lane in self.book.lanes:
            self._have(lane.encoder)
        for encoder in self._store.listed():
            if encoder not in {lane.encoder for lane in self.book.lanes}:
                self._store.drop(encoder)

    def status(self) -> dict[str, Any]:
        """For people: the lanes, and the vectors of each."""
        book, fillers = self.book, dict(self._fillers)
        lanes = {"serving": book.serving, "filling": book.filling, "previous": book.previous}
        found: dict[str, Any] = {}
        for name, lane in lanes.items():
            filler = fillers.get(lane) if lane else None
            counts = {"items": filler.items, "waiting": filler.waiting} if filler else {}
            found[name] = {**asdict(lane), **counts} if lane else None
        return found

    def wanted(self) -> dict[str, EncoderGolden]:
        """What Triton servers must have, with its golden texts."""
        return dict(self._golden)

    def step(self, now_us: int, judging: bool = True) -> None:
        """Do what is due: keep vectors current, say the route, decide on a candidate, switch, go back."""
        self._open()
        self._obey(now_us)
        if self.book.switched_us:
            self._look(now_us, judging)
        self._sync(now_us)
        self._fill(now_us)
        if judging and self.book.filling is None and not self.book.switched_us:
            self._waiting.consider(now_us, self._decide, self._leave)

    def say_again(self) -> None:
        """Publish the route once more."""
        self._routing.again()

    def encoding(self) -> Encoding | None:
        """Of the encoder that serves; None without one."""
        return self._encoding(self.book.serving.encoder) if self.book.serving is not None else None

    def rollback(self, actor: str, reason: str) -> None:
        """Have the next step go back to the encoder before; for any thread. What cannot be is said in the audit."""
        self._asked.append((actor, reason))

    def _look(self, now_us: int, judging: bool) -> None:
        """Watch the one that serves: go back when shoppers surely find less by it; its time may be over."""
        book = self.book
        assert book.serving is not None
        found = self._watch.step(book.serving.encoder, book.switched_us)
        self._outside.watched(self._watch.figures())
        filler = self._fillers.get(book.previous) if book.previous else None
        if not found.passed and judging and filler is not None and filler.whole:
            self._return("watch", f"watch: {found.reason}", now_us, found)
        elif now_us - book.switched_us >= self._watch.bounds.watch_us:
            self._audit.add(now_us, "watched", book.serving.encoder, checks=list(found.to_json()))
            self._keeper.change(lambda book: replace(book, switched_us=0))

    def _return(self, actor: str, reason: str, now_us: int, found: Verdict | None = None) -> None:
        """Raises NotFound when there is no encoder before, or its vectors are not all there."""
        book = self.book
        filler = self._fillers.get(book.previous) if book.previous else None
        if book.previous is None or book.serving is None or filler is None or not filler.whole:
            raise NotFound("there is no earlier encoder to go back to")
        checks = list(found.to_json()) if found else []
        self._audit.add(now_us, "rolled_back", book.serving.encoder, target=book.previous.encoder, actor=actor,
                        reason=reason, checks=checks)  # fmt: skip
        self._keeper.change(lambda book: book.returned(reason, now_us))
        self._outside.decided("rolled_back")
        self._sync(now_us)

    def close(self) -> None:
        """Give connections back."""
        self._asking.close()
        for filler in self._fillers.values():
            filler.close()

    def _obey(self, now_us: int) -> None:
        while self._asked:
            actor, reason = self._asked.popleft()
            try:
                self._return(actor, reason, now_us)
            except NotFound as error:
                self._audit.add(now_us, "command_refused", command="rollback_encoder", actor=actor, reason=str(error))

    def _open(self) -> None:
        """Have for each lane what it needs, and nothing for lanes that are no more."""
        lanes = self.book.lanes
        for lane in [lane for lane in self._fillers if lane not in lanes or self._fillers[lane].spoiled]:
            self._fillers.pop(lane).close()
        for lane in lanes:
            self._have(lane.encoder)
            if lane not in self._fillers:
                dim = self._golden[lane.encoder].vectors.shape[1]
                encode = partial(self._encode, lane.encoder, "items")
                self._fillers[lane] = Filler(lane, dim, self._outside.log(), encode, self._outside.rows)
        kept = {lane.encoder for lane in lanes}
        for encoder in [encoder for encoder in self._golden if encoder not in kept]:
            self._leave(encoder)

    def _have(self, encoder: str) -> None:
        if encoder not in self._golden:
            folder = self._store.kept / encoder
            self._store.stage_model(encoder)
            about = folders.read(folder)
            self._tokens[encoder] = Tokenizer.of(folder)
            self._golden[encoder] = golden.read(folder, about)

    def _leave(self, encoder: str) -> None:
        self._golden.pop(encoder, None)
        self._tokens.pop(encoder, None)
        self._fleet.unload_everywhere(encoder)
        self._store.drop(encoder)

    def _fill(self, now_us: int) -> None:
        for lane in self.book.lanes:  # what serves comes first
            filler, began = self._fillers[lane], self._fillers[lane].made
            try:
                filler.step(now_us)
            finally:
                self._outside.filled(lane, filler.made - began, filler.waiting)
        filling = self.book.filling
        if filling is not None and self._fillers[filling].whole:
            items = self._fillers[filling].items
            before = self.book.serving.encoder if self.book.serving else ""
            self._audit.add(now_us, "promoted", filling.encoder, parent=before, items=items, slot=filling.slot,
                            epoch=filling.epoch)  # fmt: skip
            watched = self._watch.bounds.share > 0 and self._watch.bounds.watch_us > 0
            self._keeper.change(lambda book: book.switched(now_us, watched))
            self._outside.decided("promoted")
            self._sync(now_us)

    def _sync(self, now_us: int) -> None:
        lane = self.book.serving
        route = TextRoute(term=self._term())
        if lane is not None:
            at = self._fleet.placed(lane.encoder)
            route = TextRoute(encoder=lane.encoder, slot=lane.slot, epoch=lane.epoch, at=at, term=self._term())
            self._keep_some(route)
        self._routing.say(route, now_us)

    def _keep_some(self, route: TextRoute) -> None:
        """Name the encoder before while the one that serves is watched."""
        lane = self.book.previous
        if lane is not None and self.book.switched_us:
            at, share = self._fleet.placed(lane.encoder), self._watch.bounds.share
            before = TextBefore(encoder=lane.encoder, slot=lane.slot, epoch=lane.epoch, at=at, share=share)
            route.before.CopyFrom(before)

    def _decide(self, encoder: str, now_us: int) -> None:
        self._store.candidate(encoder)
        self._store.stage(encoder)
        self._have(encoder)
        self._fleet.put_up(encoder, self._golden[encoder])
        found = self._judge(encoder)
        if not found.passed:
            self._leave(encoder)
            self._waiting.refuse(encoder, found.reason, now_us, found)
            return
        checks = tuple(found.to_json())
        self._audit.add(now_us, "held", encoder, checks=list(checks))
        self._keeper.change(lambda book: book.begun(Decided(encoder, "filling", "passed", now_us, checks)))
        self._store.drop_candidate(encoder)
        self._open()

    def _judge(self, encoder: str) -> Verdict:
        """Golden texts were answered right by now; the first encoder has nobody to be compared with."""
        serving = self.book.serving
        kinds = self._outside.judged()
        texts = self._outside.texts({i for judged in kinds.values() for entry in judged for i in entry.items})
        checks = []
        for kind, judged in kinds.items():
            enough = judged if serving is not None and len(judged) >= self._bounds.queries else ()
            one, other = (
                figures(enough, texts, self._encoding(name)) if enough else np.zeros(len(judged))
                for name in (encoder, serving.encoder if serving else encoder)
            )
            if serving is not None:
                checks.append(judge(kind, one.tolist(), other.tolist(), self._bounds))
        return verdict(checks or [holds("golden", True)])

    def _encoding(self, encoder: str) -> Encoding:
        return Encoding(partial(self._encode, encoder, "queries"), partial(self._encode, encoder, "items"))

    def _encode(self, encoder: str, kind: str, texts: Sequence[str]) -> Floats:
        """Vectors [n, dim] of queries or items; a few texts at a time, behind the queries that people wait for."""
        tokens = self._tokens[encoder]
        of = tokens.queries if kind == "queries" else tokens.items

        def arrays(few: Sequence[str]) -> Arrays:
            return dict(zip(INPUTS, of(few), strict=True))

        return self._asking.ask(encoder, texts, arrays, self._golden[encoder].vectors.shape[1])
