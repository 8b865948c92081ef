"""A shop whose rows follow its texts, or do not: vectors and rows on a log, own rows in a table, labelled pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from freshrank.v1.models_pb2 import ItemRow
from numpy.typing import NDArray

from services.common.encode import RowLookup
from services.common.errors import TemporaryError
from services.publisher.audit import Audit
from services.publisher.book import Lane
from services.publisher.cold.rows import Blend, ColdRows
from services.publisher.cold.study import Study
from services.publisher.compression.rows import messages
from services.publisher.encoders.book import TextLane
from services.publisher.scores import Difference, log_loss, loss_difference
from services.publisher.table import Rows, SlotTables
from tests.publisher.encoders.parts import Log
from tests.publisher.fakes import SmallRowStore

Floats = NDArray[np.float32]

TEXT_DIM, DIM, ITEMS = 8, 4, 300
NONE = Rows.of([], np.zeros((0, DIM), np.float32), 0, 0)
TEXT = TextLane("t1", "ta", 3)


class Own(SlotTables):
    """Rows as the trainer made them, as the pump answers them."""

    def taken(self, ids: Sequence[str]) -> Rows:
        return self.item.take(ids)

    def seen(self) -> Rows:
        return self.item.all()


class Announcing(SmallRowStore):
    """A store that sends item rows to where gateways read them."""

    def __init__(self, shop: "Shop") -> None:
        super().__init__()
        self._shop = shop

    def push(self, lane: Lane, items: Rows, users: Rows) -> bool:
        self._shop.announce(lane, items)
        return super().push(lane, items, users)


class Shop:
    """`told`: how much of a row its text tells, 0 to 1."""

    def __init__(self, root: Path, told: float = 0.9, announced: bool = False) -> None:
        """`announced`: what is pushed goes to the topic, as the publisher's store sends it, and is not kept apart."""
        self.rng = np.random.default_rng(5)
        self.log, self.own, self.inner = Log(), Own(DIM), Announcing(self) if announced else SmallRowStore()
        self.lane, self.text, self.labelled, self.down = Lane(), TEXT, True, False
        self.ids = [f"i{k:03d}" for k in range(ITEMS)]
        self.vectors = self.rng.normal(size=(ITEMS, TEXT_DIM)).astype(np.float32)
        way = self.rng.normal(size=(TEXT_DIM, DIM)) / np.sqrt(TEXT_DIM)
        noise = self.rng.normal(size=(ITEMS, DIM))
        self.true = (np.sqrt(told) * self.vectors @ way + np.sqrt(1 - told) * noise).astype(np.float32)
        self.audit = Audit(root / "audit.jsonl")
        self.begin()
        for item, vector in zip(self.ids, self.vectors, strict=True):
            self.write(item, vector)

    def begin(self) -> None:
        """The publisher's part, in a new process."""
        self.figures: list[Any] = []
        self.cold = ColdRows(self.inner, self.announce, Blend(weight=10, enough=100), DIM)
        self.cold.own = self.own
        self.study = Study(
            self.cold, self.own, self.probe, lambda: self.text, lambda: self.lane, self.log.reader, self.audit,
            self.figures.append, 10, 300,
        )  # fmt: skip

    def write(self, item: str, vector: Floats | None) -> None:
        """What the publisher's leader puts on item_updates for a text."""
        row = None if vector is None else messages(vector[None], "int8")[0]
        if row is not None:
            row.epoch = self.text.epoch
        self.log.put(f"r|{self.text.slot}|{item}", row.SerializeToString() if row is not None else None)

    def announce(self, lane: Lane, rows: Rows) -> None:
        if self.down:
            raise TemporaryError("no broker")
        for at, item in enumerate(rows.ids):
            row = ItemRow(row=rows.rows[at], epoch=lane.epoch, seq=int(rows.seqs[at]),
                          learned_up_to_us=int(rows.times_us[at]))  # fmt: skip
            self.log.put(f"r|{lane.slot}|{item}", row.SerializeToString() if rows.present[at] else None)

    def learn(self, first: int, last: int, seen: int, seq: int = 1) -> Rows:
        """The trainer's rows of some items, through the pump's store and into its table."""
        count = np.full(last - first, seen, np.uint8)
        rows = Rows.of(self.ids[first:last], self.true[first:last].copy(), seq, seq * 1_000_000, count)
        self.cold.push(self.lane, rows, NONE)
        self.own.item.apply(rows)
        return rows

    def probe(self, new: RowLookup, old: RowLookup) -> tuple[Difference, float] | None:
        """A champion whose logit is the row's product with the shopper's, on labels that are true."""
        if not self.labelled:
            return None
        rng = np.random.default_rng(1)
        items = rng.integers(0, ITEMS, 4_000)
        shoppers = rng.normal(size=(4_000, DIM))
        labels = rng.random(4_000) < _sigmoid((self.true[items] * shoppers).sum(axis=1))
        ids = [self.ids[k] for k in items]
        one, other = (_sigmoid((rows.items(ids)[0] * shoppers).sum(axis=1)) for rows in (new, old))
        groups = np.arange(4_000) // 10
        return loss_difference(labels, one, other, groups), log_loss(labels, other)

    def settle(self, now_us: int) -> None:
        """Study, then send all that is due."""
        self.study.step(now_us)
        self.study.step(now_us)
        while self.cold.counts["due"]:
            self.cold.send(self.lane)

    def served(self) -> dict[str, Floats]:
        """Rows on the topic."""
        return {item: np.array(row.row, np.float32) for item, row in self.log.rows(self.lane.slot).items()}


def _sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    return 1 / (1 + np.exp(-x))
