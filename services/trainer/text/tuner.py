"""An encoder that keeps learning from searches, with everything that makes it durable.

What is read from the log waits until it makes a slice. A slice gets its texts and is written down; lists of it are
judged; its pairs are learned in steps; a checkpoint follows. The weights are a function of the slices alone: whoever is
killed reads the newest checkpoint, learns the slice that was written down again and goes on reading where it ended,
with the same bits as if nothing had been.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.common.ids import key_of
from services.common.records import CLOSED, FLIP, FORGET
from services.text.categories import Categories
from services.trainer.examples import Batch, Example, Place, Reader, StepSize
from services.trainer.hooks import Hooks
from services.trainer.text.catalogue import Texts
from services.trainer.text.categories import Asked, asked, fitted
from services.trainer.text.checkpoint import TextCheckpoints
from services.trainer.text.judge import FIGURES, Tally, figures, spread
from services.trainer.text.learner import Learner
from services.trainer.text.model import Text
from services.trainer.text.replay import Pairs
from services.trainer.text.searches import Search, batches, search_of, told

KINDS = frozenset({CLOSED, FLIP, FORGET})


@dataclass(frozen=True)
class Learning:
    """How it learns."""

    way: str = "lora(8), replay(2000)"
    pairs: int = 500
    """Of a slice."""
    batch: int = 32
    negatives: int = 2
    judged: int = 100
    seed: int = 1
    asked: int = 4_000
    """Newest searches kept to tell categories by; 0 = none are told."""


@dataclass
class Progress:
    """What a checkpoint holds beside weights."""

    released_us: int
    """When an encoder was last exported; in the beginning, when learning began."""
    slices: int = 0
    learned: int = 0
    """Pairs."""
    unreleased: int = 0
    """Pairs learned since the last export."""
    learned_up_to_us: int = 0
    untold: int = 0
    """Searches dropped because no chosen item has a text."""
    positions: dict[int, int] = field(default_factory=dict)
    seen: dict[int, Place] = field(default_factory=dict)
    waiting: list[Search] = field(default_factory=list)
    early: list[Search] = field(default_factory=list)
    """The first lists that were judged, with their texts: what is forgotten shows in them."""
    tally: dict[str, float] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    """The newest searches that were learned, with the category of what was chosen."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; `Progress.of` gives an equal one."""
        lists = {name: [one.to_json() for one in getattr(self, name)] for name in ("waiting", "early")}
        pairs = {name: sorted(getattr(self, name).items()) for name in ("positions", "seen")}
        return asdict(self) | lists | pairs

    @staticmethod
    def of(data: Mapping[str, Any]) -> "Progress":
        """Of plain data."""
        lists = {name: [Search.of(one) for one in data[name]] for name in ("waiting", "early")}
        seen = {partition: (place[0], place[1]) for partition, place in data["seen"]}
        kept = [Asked(**one) for one in data.get("asked", ())]  # checkpoints of before have none
        return Progress(**{**data, **lists, "positions": dict(data["positions"]), "seen": seen, "asked": kept})


class Tuner:
    """State in memory and on disk; who calls decides when."""

    def __init__(
        self,
        folder: Path,
        load: Callable[[], Text],
        texts: Texts,
        learning: Learning,
        hooks: Hooks,
        now_us: int,
    ) -> None:
        """Goes on from the newest whole checkpoint in `folder`, or begins with what `load` gives.

        Raises CorruptState when there are checkpoints but none is whole, InvalidInput when they began from another
        encoder or learn another way.
        """
        self._texts, self._learning, self._hooks = texts, learning, hooks
        self.base = load()
        self.learner = Learner(load(), learning.way, seed=learning.seed)
        self.progress = Progress(released_us=now_us)
        self._checkpoints = TextCheckpoints(folder, hooks)
        self._work: deque[Pairs] = deque()
        self._forgot = False
        self._judged_early: tuple[list[Search], NDArray[np.float64]] = ([], figures(self.base, []))
        self._restore()
        self.reader = Reader(StepSize(), seen=self.progress.seen, kinds=KINDS)
        self.progress.seen = self.reader.seen

    @property
    def busy(self) -> bool:
        """Whether a slice is being learned: nothing is read then."""
        return bool(self._work)

    @property
    def waiting(self) -> int:
        """Pairs that wait."""
        return sum(len(one.chosen) for one in self.progress.waiting)

    def take(self, batch: Batch) -> None:
        """Read what has come; a shopper who is forgotten leaves what waits and what is kept."""
        for example in self.reader.examples(batch):
            self._take(example)
        self.progress.positions |= {partition: end for partition, (_, end) in batch.ranges.items()}
        if self._forgot:
            self.save(keep=1)  # so that no file holds them any more
            self._forgot = False

    def cut(self) -> bool:
        """Begin a slice with the oldest that wait; False when nothing of it has a text."""
        assert not self._work
        searches, rest = self._oldest()
        known = [found for one in searches if (found := told(one, self._texts.of)) is not None]
        self._ask(searches)
        self.progress.untold += len(searches) - len(known)
        self.progress.waiting = rest
        if known:
            body = {"searches": [one.to_json() for one in known], "progress": self.progress.to_json()}
            self._checkpoints.begin_slice(body)
            self._begin(known)
        return bool(known)

    def step(self) -> tuple[int, float]:
        """Learn the next pairs of the slice; how many, and their loss before. After the last ones all is saved."""
        pairs = self._work.popleft()
        loss = self.learner.learn(pairs)
        self._hooks.at("step.learned")
        self.progress.learned += len(pairs)
        self.progress.unreleased += len(pairs)
        if not self._work:
            self.progress.slices += 1
            self.save()
            self._checkpoints.end_slice()
            self._hooks.at("slice.ended")
        return len(pairs), loss

    def save(self, keep: int | None = None) -> None:
        """Write a checkpoint; not inside a slice."""
        meta = {"base": self.base.about.source, "way": self._learning.way, "progress": self.progress.to_json()}
        self._checkpoints.save(meta, self.learner.state(), keep)

    def metrics(self) -> dict[str, float]:
        """Figures of the lists judged since the last release, and of the early ones now."""
        out = Tally(self.progress.tally).means()
        early = self.progress.early
        if early:
            now, then = figures(self.learner.text, early), self._of_base(early)
            out |= {"early_lists": float(len(early))} | _means("early_", now) | _means("early_base_", then)
        return {name: round(value, 6) for name, value in out.items()} | {"pairs": float(self.progress.learned)}

    def categories(self, text: Text) -> tuple[Categories | None, dict[str, float]]:
        """What tells a query's category by the vectors of `text`, if it may be used, and its figures."""
        if not self._learning.asked:
            return None, {}
        found, told_of = fitted(self.progress.asked, text.queries)
        return found, {name: round(value, 6) for name, value in told_of.items()}

    def released(self, now_us: int) -> None:
        """An encoder was exported, or there was nothing new to export."""
        self.progress.released_us, self.progress.unreleased, self.progress.tally = now_us, 0, {}
        self.save()

    def _of_base(self, early: list[Search]) -> NDArray[np.float64]:
        """Figures of the early lists by the encoder that does not change: asked once for each set of them."""
        if self._judged_early[0] != early:
            self._judged_early = (list(early), figures(self.base, early))
        return self._judged_early[1]

    def _take(self, example: Example) -> None:
        if example.kind == FORGET:
            self._forget(key_of(example.user))
        elif (found := search_of(example)) is not None:
            self.progress.waiting.append(found)

    def _forget(self, owner: int) -> None:
        progress = self.progress
        before = len(progress.waiting) + len(progress.early) + len(progress.asked)
        progress.waiting = [one for one in progress.waiting if one.owner != owner]
        progress.early = [one for one in progress.early if one.owner != owner]
        progress.asked = [one for one in progress.asked if one.owner != owner]
        after = len(progress.waiting) + len(progress.early) + len(progress.asked)
        gone = before - after + self.learner.forget(owner)
        self._forgot = self._forgot or gone > 0

    def _ask(self, searches: Sequence[Search]) -> None:
        """Keep the newest searches with their categories; their items are still ids."""
        found = [one for search in searches if (one := asked(search, self._texts.category)) is not None]
        kept = [*self.progress.asked, *found]
        self.progress.asked = kept[max(0, len(kept) - self._learning.asked) :]

    def _oldest(self) -> tuple[list[Search], list[Search]]:
        """Whole searches with as many pairs as a slice has, and the rest."""
        pairs = 0
        for place, one in enumerate(self.progress.waiting):
            pairs += len(one.chosen)
            if pairs >= self._learning.pairs:
                return self.progress.waiting[: place + 1], self.progress.waiting[place + 1 :]
        return self.progress.waiting, []

    def _begin(self, known: Sequence[Search]) -> None:
        """Judge, then lay out the steps."""
        lists, learning, progress = spread(known, self._learning.judged), self._learning, self.progress
        tally = Tally(progress.tally)
        tally.add(figures(self.learner.text, lists), figures(self.base, lists))
        progress.tally = tally.sums
        progress.early += lists[: max(0, learning.judged - len(progress.early))]
        progress.learned_up_to_us = max(progress.learned_up_to_us, *(one.time_us for one in known))
        chance = np.random.Generator(np.random.Philox(key=[learning.seed, progress.slices + 1]))
        self._work = deque(batches(known, learning.batch, learning.negatives, chance))

    def _restore(self) -> None:
        saved = self._checkpoints.newest()
        if saved is None:
            self.save()
        else:
            self._same(saved.meta)
            self.learner.load(saved.state)
            self.progress = Progress.of(saved.meta["progress"])
        slice_ = self._checkpoints.slice()
        if slice_ is None:
            return
        progress = Progress.of(slice_["progress"])
        if progress.slices == self.progress.slices:
            self.progress = progress
            self._begin([Search.of(one) for one in slice_["searches"]])
        else:
            self._checkpoints.end_slice()  # it was learned already, or its checkpoint is broken

    def _same(self, meta: Mapping[str, Any]) -> None:
        if meta["base"] != self.base.about.source:
            detail = "the checkpoints began from another encoder; move <store>/encoders/training away to begin anew"
            raise InvalidInput("text_model", "changed", detail)
        if meta["way"] != self._learning.way:
            detail = f"the checkpoints learn by {meta['way']}; move <store>/encoders/training away to begin anew"
            raise InvalidInput("text_way", "changed", detail)


def _means(start: str, found: NDArray[np.float64]) -> dict[str, float]:
    return {f"{start}{name}": float(found[:, column].mean()) for column, name in enumerate(FIGURES)}
