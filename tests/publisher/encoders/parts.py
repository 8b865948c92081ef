"""Encoders and a log of items for tests: the models are real and small, the log is a list."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from freshrank.v1.models_pb2 import CatalogueItem, ItemRow, TextRoute

from services.common.errors import TemporaryError
from services.common.kafka import Record
from services.publisher.audit import Audit
from services.publisher.book import Lane
from services.publisher.compression.rows import messages
from services.publisher.encoders.book import TextKeeper, TextLane
from services.publisher.encoders.encoders import Encoders
from services.publisher.encoders.models import TextModels
from services.publisher.encoders.rerankers import Rerankers
from services.publisher.encoders.store import EncoderStore
from services.publisher.encoders.watch import SearchBounds, SearchWatch
from services.publisher.files import Disk
from services.publisher.fleet import Fleet
from services.publisher.judgments import Judged, RelevanceBounds
from services.publisher.table import Rows
from services.publisher.triton import TritonServer
from services.text import folder as folders
from services.text import names
from services.text.categories import Categories
from services.text.folder import RERANKER
from services.text.item import item_text
from services.text.reranker import PairTokenizer
from services.trainer.text import reranker as rerankers
from services.trainer.text.export import export
from services.trainer.text.load import identity, load
from tests.publisher.fakes import SmallTriton
from tests.trainer.text import tiny

NOW = 1_750_000_000_000_000
NO_WATCH = SearchBounds(share=0)


class Made:
    """Small encoders, each exported once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def candidate(
        self,
        store: Path,
        seed: int = 0,
        day: int = 1,
        int8: bool = False,
        spoil: bool = False,
        told: Categories | None = None,
    ) -> str:
        """Put one where the trainer does; returns its name. `spoil`: one that cannot tell texts apart."""
        made = self._folder / f"{seed}-{int8}-{spoil}-{told and told.weights.shape}"
        if not made.exists():
            self._export(made, seed, int8, spoil, told)
        name = names.encoder_id(NOW + day * 86_400_000_000, folders.read(made).source)
        names.incoming(store).mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, names.incoming(store) / name)
        return name

    def _export(self, made: Path, seed: int, int8: bool, spoil: bool, told: Categories | None) -> None:
        folder = self._folder / f"model-{seed}"
        text = load(str(folder if folder.exists() else tiny.folder(folder, seed=seed)))
        if spoil:
            with torch.no_grad():
                for name, value in text.model.named_parameters():
                    value.fill_(1.0 if name.endswith("LayerNorm.bias") else 0.0)
        export(text, made, int8, categories=told)


class MadeRerankers:
    """Small rerankers, each exported once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def candidate(self, store: Path, seed: int = 0, day: int = 1, likes: bool = True) -> str:
        """Put one where people do; returns its name. `likes` False: its scores are the other way round."""
        made = self._folder / f"{seed}-{likes}"
        if not made.exists():
            reranker = rerankers.load(str(tiny.reranker(self._folder / f"model-{seed}", seed=seed)))
            if not likes:
                with torch.no_grad():
                    for value in reranker.model.body.classifier.parameters():
                        value.neg_()
            reranker = rerankers.Reranker(reranker.model, reranker.tokens, replace(
                reranker.about, source=identity(reranker.model, reranker.tokens)
            ))  # fmt: skip
            rerankers.export(reranker, made)
        name = names.encoder_id(NOW + day * 86_400_000_000, folders.read(made).source, RERANKER)
        shutil.copytree(made, names.incoming(store, RERANKER) / name)
        return name

    def scores(self, query: str, texts: Sequence[str], seed: int = 0) -> list[float]:
        """As the reranker that `likes` scores them."""
        data, tokens = (
            (self._folder / f"{seed}-True" / "model.onnx").read_bytes(),
            PairTokenizer.of(self._folder / f"{seed}-True"),
        )
        found: list[float] = rerankers.answers(data, tokens.pairs(query, texts))[:, 0].tolist()
        return found


class Log:
    """item_updates as a list; every reader has a place of its own."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, key: str, value: bytes | None) -> None:
        self.records.append((0, len(self.records), 0, key.encode(), value))

    def entries(self, *entries: CatalogueItem) -> None:
        for entry in entries:
            self.put(f"c|{entry.item_id}", entry.SerializeToString())

    def rows(self, slot: str) -> dict[str, ItemRow]:
        """The newest of each item."""
        found = {key.decode(): value for _, _, _, key, value in self.records if key}
        kept = {key.removeprefix(f"r|{slot}|"): value for key, value in found.items() if key.startswith(f"r|{slot}|")}
        return {item: ItemRow.FromString(value) for item, value in kept.items() if value}

    def reader(self) -> "Reader":
        return Reader(self)


class Reader:
    def __init__(self, log: Log, at_a_time: int = 1_000) -> None:
        self._log, self._at, self._end, self._most = log, 0, len(log.records), at_a_time
        self.closed = False

    @property
    def caught_up(self) -> bool:
        return self._at >= self._end

    def poll(self) -> list[Record]:
        found = self._log.records[self._at : self._at + self._most]
        self._at += len(found)
        return found

    def close(self) -> None:
        self.closed = True


class Outside:
    """What encoders reach outside for; can be told to fail."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.routes: list[TextRoute] = []
        self.judgments: Mapping[str, Sequence[Judged]] = {"clicks": (), "judged": ()}
        self.decisions: list[str] = []
        self.fails = False
        self.sent = 0

    def log(self) -> Reader:
        return self._log.reader()

    def rows(self, lane: Lane, rows: Rows) -> None:
        if self.fails:
            raise TemporaryError("no broker")
        for item, row, message, seq in zip(rows.ids, rows.rows, messages(rows.rows, "int8"), rows.seqs, strict=True):
            message.epoch, message.seq = lane.epoch, int(seq)
            self._log.put(f"r|{lane.slot}|{item}", message.SerializeToString() if row.any() else None)
            self.sent += 1

    def route(self, route: TextRoute) -> None:
        self.routes.append(route)

    def judged(self) -> Mapping[str, Sequence[Judged]]:
        return self.judgments

    def texts(self, items: set[str]) -> dict[str, str]:
        found = {key[2:].decode(): value for _, _, _, key, value in self._log.records if key and key[:2] == b"c|"}
        return {item: item_text(CatalogueItem.FromString(found[item] or b"")) for item in items if item in found}

    def filled(self, lane: TextLane, made: int, waiting: int) -> None:
        assert made >= 0
        assert waiting >= 0

    def decided(self, decision: str) -> None:
        self.decisions.append(decision)

    def watched(self, figures: Mapping[str, float]) -> None:
        self.figures = dict(figures)


class Stage:
    """A publisher's part for encoders over a folder, with one Triton: a small one, or the real one at an address."""

    def __init__(self, root: Path, log: Log, bounds: SearchBounds = NO_WATCH, address: str = "") -> None:
        self.root, self.log, self.bounds, self._address = root, log, bounds, address
        (root / "triton").mkdir(parents=True, exist_ok=True)
        self.triton, self.outside = SmallTriton(root / "triton"), Outside(log)
        self.again()

    def again(self, fence: Callable[[], None] = lambda: None) -> None:
        """A new process over the same folder, topic and Triton."""
        at, real = self._address or "one", bool(self._address)
        self.fleet = Fleet(lambda: [at], lambda address: TritonServer(address) if real else self.triton, fence)
        disk = Disk()
        self.watch = SearchWatch(self.bounds)
        self.rerankers_audit = Audit(self.root / "rerankers.jsonl", fence)
        self.audit = Audit(self.root / "audit.jsonl", fence)
        self.encoders = Encoders(
            TextKeeper(self.root / "encoders" / "book.json", disk),
            EncoderStore(self.root, "python", disk),
            self.fleet,
            self.audit,
            self.outside,
            RelevanceBounds(queries=10),
            self.watch,
            lambda: 3,
        )
        self.ranked = Outside(self.log)
        self.rerankers = Rerankers(
            TextKeeper(self.root / "rerankers" / "book.json", disk),
            EncoderStore(self.root, "python", disk, of=RERANKER),
            self.fleet,
            self.rerankers_audit,
            self.ranked,
            RelevanceBounds(queries=10),
            lambda: 3,
            self.encoders.encoding,
        )
        self.models = TextModels(self.encoders, self.rerankers)
        self.models.start()

    def steps(self, count: int = 5, at_us: int = NOW) -> None:
        """Steps, and looks at Triton between them."""
        for number in range(count):
            self.fleet.tend(self.models.wanted(), mark=False)
            self.models.step(at_us + number * 10_000_000, judging=True)
