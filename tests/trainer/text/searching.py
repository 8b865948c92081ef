"""A small shop that is searched, and a worker over its examples: in a test, or in a process that is killed."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from freshrank.v1.events_pb2 import Impression, ImpressionItem
from freshrank.v1.models_pb2 import CatalogueItem

from services.common.records import CLOSED, FLIP, FORGET, INITIAL
from services.trainer.hooks import Hooks, NoHooks
from services.trainer.settings import TrainerSettings
from services.trainer.text.app import build
from services.trainer.text.catalogue import Texts
from services.trainer.text.loop import TextLoop
from tests.trainer.arm import KillAt
from tests.trainer.world import SECOND, START_US, FileSource, message, read_logs

COLOURS, THINGS = ("red", "blue", "green", "black"), ("shoe", "lamp", "table", "chair")
ITEMS = {f"{colour}-{thing}": f"new {thing} {colour} wood" for colour in COLOURS for thing in THINGS}
SAID = {
    **{"red": "cheap", "blue": "fine", "green": "small", "black": "large"},
    **{"shoe": "boot", "lamp": "tap", "table": "window", "chair": "rug"},
}
"""What shoppers call it: words that no title has."""
CLICK, CART, PURCHASE = 1, 2, 4


@dataclass
class Searches:
    """Searches of a colour and a thing in the shoppers' words; what is meant is clicked wherever it stands."""

    seed: int = 0
    users: int = 12
    listed: int = 6
    made: int = 0
    chance: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.chance = np.random.default_rng(self.seed)

    def rows(self) -> list[dict[str, object]]:
        """Examples of one search: it appears, its click flips, now and then its purchase, it closes."""
        self.made += 1
        meant = list(ITEMS)[int(self.chance.integers(len(ITEMS)))]
        others = [item for item in ITEMS if item != meant]
        shown = [str(item) for item in self.chance.permutation(self.chance.choice(others, self.listed - 1, False))]
        shown.insert(int(self.chance.integers(self.listed)), meant)
        whole = impression(
            shown,
            " ".join(SAID[word] for word in meant.split("-")),
            f"user-{self.chance.integers(self.users)}",
            self.made,
        )
        place, every = shown.index(meant), list(range(len(shown)))
        only = impression([meant], whole.query, whole.user_id, self.made)
        bought = [row(self.made, 2, FLIP, only, [0], [PURCHASE])] if self.made % 5 == 0 else []
        labels = [CLICK * (k == place) for k in every]
        return [
            row(self.made, 0, INITIAL, whole, every, [0] * len(every)),
            row(self.made, 1, FLIP, only, [0], [CLICK]),
            *bought,
            row(self.made, 100, CLOSED, whole, every, labels),
        ]

    def messages(self, searches: int) -> list[bytes]:
        """One message for each search."""
        return [message(self.rows()) for _ in range(searches)]

    def forget(self, user: str) -> bytes:
        """A shopper asks to be forgotten."""
        self.made += 1
        return message([row(self.made, 0, FORGET, impression([], "", user, self.made), [], [])])


def impression(items: Sequence[str], query: str, user: str, number: int = 1, **more: Any) -> Impression:
    """An answered search."""
    return Impression(
        impression_id=f"{number:032x}",
        user_id=user,
        time_us=START_US + number * SECOND,
        query=query,
        items=[ImpressionItem(item_id=item, position=k, shown=True) for k, item in enumerate(items)],
        **more,
    )


def row(
    offset: int, index: int, kind: int, shown: Impression, items: list[int], labels: list[int]
) -> dict[str, object]:
    """One row of examples."""
    return {
        "src_offset": offset,
        "src_index": index,
        "kind": kind,
        "time_us": shown.time_us,
        "event_time_us": shown.time_us,
        "received_us": shown.time_us,
        "impression_id": shown.impression_id,
        "user": shown.user_id,
        "items": items,
        "labels": labels,
        "weights": [1.0] * len(items),
        "impression": shown.SerializeToString(),
    }


def catalogue() -> Texts:
    """The shop's items."""
    texts = Texts()
    for item, title in ITEMS.items():
        entry = CatalogueItem(item_id=item, title=title, categories=[item.split("-")[1]])
        texts.apply(b"c|" + item.encode(), entry.SerializeToString())
    return texts


class LogClock:
    """Time passes as the log is read."""

    def __init__(self, source: FileSource) -> None:
        self._source = source

    def now_us(self) -> int:
        return START_US + self._source.read_so_far * SECOND


class Recorder:
    """Remembers what happened."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.releases: list[dict[str, float]] = []
        self.failures: list[tuple[str, Exception]] = []

    def learned(self, pairs: int, loss: float, seconds: float) -> None:
        self.losses.append(loss)

    def released(self, name: str, metrics: dict[str, float], seconds: float) -> None:
        self.releases.append(metrics)

    def failed(self, what: str, error: Exception) -> None:
        self.failures.append((what, error))


def settings(store: Path, model: Path, **changes: object) -> TrainerSettings:
    """Small and quick."""
    values: dict[str, object] = {
        "text_way": "lora(4, 8, 0.01), replay(40)",
        "text_pairs": 24,
        "text_batch": 8,
        "text_interval": 100,
        "text_judged": 10,
        "text_max_tokens": 16,
        "device": "cpu",
        **changes,
    }
    return TrainerSettings(store=store, text_model=str(model), **values)  # type: ignore[arg-type]


def quick(store: Path, model: Path) -> TrainerSettings:
    """Several slices and releases in a hundred searches, some slices begun early."""
    return settings(store, model, text_interval=35)


def worker(
    chosen: TrainerSettings, source: FileSource, hooks: Hooks | None = None, texts: Texts | None = None
) -> tuple[TextLoop, Recorder]:
    """A loop over a source, on the source's clock."""
    torch.set_num_threads(1)
    recorder = Recorder()
    known = catalogue() if texts is None else texts
    loop = build(chosen, source, known, lambda: None, recorder, LogClock(source), hooks)
    return loop, recorder


def run(loop: TextLoop, source: FileSource) -> None:
    """To the end of the source, and down in good order."""
    while not source.done or loop.tuner.busy:
        loop.turn()
    loop.close()


def digest(loop: TextLoop) -> str:
    """Hash of everything that learning has made."""
    found = hashlib.sha256(json.dumps(loop.tuner.progress.to_json()).encode())
    for name, value in sorted(loop.tuner.learner.state().items()):
        found.update(name.encode() + np.ascontiguousarray(value.numpy()).tobytes())
    return found.hexdigest()


def main(arguments: Sequence[str]) -> None:
    """<store> <model> <logs.json> [<point> <times>]: run to the end and leave the digest in the store.

    With a point, the process kills itself (SIGKILL) when it passes it that many times.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    hooks = KillAt(arguments[3], int(arguments[4])) if len(arguments) > 3 else NoHooks()
    source = FileSource(read_logs(Path(arguments[2])))
    loop, _ = worker(quick(Path(arguments[0]), Path(arguments[1])), source, hooks)
    run(loop, source)
    (Path(arguments[0]) / "digest").write_text(digest(loop))
