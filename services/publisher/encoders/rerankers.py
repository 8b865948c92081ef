"""The way of a reranker: candidate, checked, loaded everywhere, judged, routed.

It has no vectors to be made first, so it serves as soon as it is let in. The record names it alone; the one before
stays loaded, to go back to and for gateways that have not read the record yet.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from freshrank.v1.models_pb2 import TextRoute
from numpy.typing import NDArray

from services.common.errors import NotFound
from services.publisher.audit import Audit
from services.publisher.checks import Check, Verdict, holds, verdict
from services.publisher.encoders import golden
from services.publisher.encoders.book import Decided, TextBook, TextKeeper
from services.publisher.encoders.desk import Judges
from services.publisher.encoders.golden import PairGolden
from services.publisher.encoders.judge import Encoding, as_shown, figures, figures_of_pairs
from services.publisher.encoders.serving import Asking, Routing
from services.publisher.encoders.store import EncoderStore
from services.publisher.encoders.waiting import Waiting
from services.publisher.fleet import Fleet
from services.publisher.judgments import Judged, RelevanceBounds, judge
from services.text import folder as folders
from services.text.reranker import PairTokenizer

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]


class Rerankers:
    """All rerankers of a store. For one thread; `wanted`, `status` and `rollback` for any."""

    def __init__(
        self,
        keeper: TextKeeper,
        store: EncoderStore,
        fleet: Fleet,
        audit: Audit,
        outside: Judges,
        bounds: RelevanceBounds,
        term: Callable[[], int],
        encoding: Callable[[], Encoding | None],
    ) -> None:
        """`encoding`: of the encoder that serves; without a reranker that serves, it is what a first one is compared
        with.
        """
        self._keeper, self._store, self._fleet, self._audit = keeper, store, fleet, audit
        self._outside, self._bounds, self._term, self._encoding = outside, bounds, term, encoding
        self._tokens: dict[str, PairTokenizer] = {}
        self._golden: dict[str, PairGolden] = {}
        self._routing = Routing(outside.route)
        self._waiting = Waiting(keeper, store, audit, outside.decided)
        self._asking = Asking(fleet, "pairs")
        self._asked: deque[tuple[str, str]] = deque()

    @property
    def book(self) -> TextBook:
        """As it is."""
        return self._keeper.book

    def start(self) -> None:
        """Clear what a crash left, and read what there is."""
        self._store.prepare()
        kept = [lane.encoder for lane in self.book.lanes]
        for reranker in kept:
            self._have(reranker)
        for reranker in set(self._store.listed()) - set(kept):
            self._store.drop(reranker)

    def status(self) -> dict[str, Any]:
        """For people."""
        book = self.book
        return {"serving": book.serving and asdict(book.serving), "previous": book.previous and asdict(book.previous)}

    def wanted(self) -> dict[str, PairGolden]:
        """What Triton servers must have, with its golden pairs."""
        return dict(self._golden)

    def step(self, now_us: int, judging: bool = True) -> None:
        """Do what is due: obey, say the route, decide on a candidate."""
        while self._asked:
            self._obey(*self._asked.popleft(), now_us)
        self._leave_others()
        self._sync(now_us)
        if judging:
            self._waiting.consider(now_us, self._decide, self._leave)

    def say_again(self) -> None:
        """Publish the route once more."""
        self._routing.again()

    def rollback(self, actor: str, reason: str) -> None:
        """Have the next step go back to the one before; for any thread. What cannot be is said in the audit."""
        self._asked.append((actor, reason))

    def close(self) -> None:
        """Give the threads back."""
        self._asking.close()

    def _obey(self, actor: str, reason: str, now_us: int) -> None:
        book = self.book
        if book.previous is None or book.serving is None:
            error = NotFound("there is no earlier reranker to go back to")
            self._audit.add(now_us, "command_refused", command="rollback_encoder", actor=actor, reason=str(error))
            return
        self._audit.add(now_us, "rolled_back", book.serving.encoder, target=book.previous.encoder, actor=actor,
                        reason=reason)  # fmt: skip
        self._keeper.change(lambda book: book.returned(reason, now_us))
        self._outside.decided("rolled_back")
        self._sync(now_us)

    def _have(self, reranker: str) -> None:
        if reranker not in self._golden:
            folder = self._store.kept / reranker
            self._store.stage_model(reranker)
            self._tokens[reranker] = PairTokenizer.of(folder)
            self._golden[reranker] = golden.read_pairs(folder, folders.read(folder))

    def _leave_others(self) -> None:
        kept = {lane.encoder for lane in self.book.lanes}
        for reranker in [reranker for reranker in self._golden if reranker not in kept]:
            self._leave(reranker)

    def _leave(self, reranker: str) -> None:
        self._golden.pop(reranker, None)
        self._tokens.pop(reranker, None)
        self._fleet.unload_everywhere(reranker)
        self._store.drop(reranker)

    def _sync(self, now_us: int) -> None:
        lane = self.book.serving
        if lane is not None:
            at = self._fleet.placed(lane.encoder)
            self._routing.say(TextRoute(encoder=lane.encoder, at=at, term=self._term()), now_us)

    def _decide(self, reranker: str, now_us: int) -> None:
        self._store.candidate(reranker)
        self._store.stage(reranker)
        self._have(reranker)
        self._fleet.put_up(reranker, self._golden[reranker])
        found = self._judge(reranker)
        if not found.passed:
            self._leave(reranker)
            self._waiting.refuse(reranker, found.reason, now_us, found)
            return
        checks = tuple(found.to_json())
        parent = self.book.serving.encoder if self.book.serving else ""
        self._audit.add(now_us, "promoted", reranker, parent=parent, checks=list(checks))
        self._keeper.change(lambda book: book.succeeded(Decided(reranker, "serving", "passed", now_us, checks)))
        self._store.drop_candidate(reranker)
        self._outside.decided("promoted")
        self._sync(now_us)

    def _judge(self, reranker: str) -> Verdict:
        """Golden pairs were answered right by now. Beside the reranker that serves, or the encoder, or nobody."""
        serving, encoding = self.book.serving, self._encoding()
        if serving is None and encoding is None:
            return verdict([holds("golden", True)])
        kinds = self._outside.judged()
        texts = self._outside.texts({i for judged in kinds.values() for entry in judged for i in entry.items})

        def beside(judged: Sequence[Judged]) -> NDArray[np.float64]:
            if serving is not None:
                return figures_of_pairs(judged, texts, partial(self._scores, serving.encoder))
            assert encoding is not None
            return figures(judged, texts, encoding)

        return verdict(self._check(reranker, kind, judged, texts, beside) for kind, judged in kinds.items())

    def _check(
        self,
        reranker: str,
        kind: str,
        judged: Sequence[Judged],
        texts: dict[str, str],
        beside: Callable[[Sequence[Judged]], NDArray[np.float64]],
    ) -> Check:
        if len(judged) < self._bounds.queries:
            nothing = np.zeros(len(judged))
            return judge(kind, nothing, nothing, self._bounds)
        found = figures_of_pairs(judged, texts, partial(self._scores, reranker))
        check = judge(kind, found, beside(judged), self._bounds)
        return replace(check, detail=f"{check.detail}; as they came {as_shown(judged).mean():.4f}")

    def _scores(self, reranker: str, query: str, texts: Sequence[str]) -> Floats:
        """[n] of a query with each text; a few at a time, behind the searches that people wait for."""
        pairs = partial(self._tokens[reranker].pairs, query)
        return self._asking.ask(reranker, texts, pairs, 1)[:, 0]
