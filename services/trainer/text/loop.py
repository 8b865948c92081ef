"""The loop of the text worker: read searches, learn a slice in steps, now and then release an encoder. One thread."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from services.common.clock import Clock
from services.common.errors import CorruptState, InvalidInput
from services.text.categories import Categories
from services.text.names import encoder_id, incoming, kept
from services.trainer import control
from services.trainer.arm import Source
from services.trainer.files import remove_staging
from services.trainer.hooks import Hooks
from services.trainer.text import export as exports
from services.trainer.text.model import Text
from services.trainer.text.tuner import Tuner

CONTROL_EVERY_US = 250_000
"""How often control.json is looked at."""


@dataclass(frozen=True)
class When:
    """When it learns and releases."""

    pairs: int = 500
    batch: int = 32
    interval_us: int = 3_600_000_000
    poll_s: float = 0.1
    int8: bool = False


class Observer(Protocol):
    """Told after the fact; must not raise."""

    def learned(self, pairs: int, loss: float, seconds: float) -> None:
        """A step was made."""
        ...

    def released(self, name: str, metrics: dict[str, float], seconds: float) -> None:
        """An encoder was exported."""
        ...

    def failed(self, what: str, error: Exception) -> None:
        """Something was given up and the loop goes on: "export", "control"."""
        ...


class TextLoop:
    """One encoder's worker."""

    def __init__(
        self,
        tuner: Tuner,
        source: Source,
        follow: Callable[[], None],
        store: Path,
        controls: Path,
        when: When,
        clock: Clock,
        observer: Observer,
        hooks: Hooks,
    ) -> None:
        """`follow` brings the catalogue up to now, `controls` is the control.json of the arm that it freezes with."""
        self.tuner, self._source, self._follow, self._store = tuner, source, follow, store
        self._controls, self._when, self._clock = controls, when, clock
        self._observer, self._hooks = observer, hooks
        self.frozen = False
        self._looked_us = -math.inf
        self._saved_us = clock.now_us()
        remove_staging(incoming(store))
        source.seek(tuner.progress.positions)

    def turn(self) -> None:
        """One round: a step of the slice that is learned, or what has come, a new slice, a release."""
        self._obey()
        if self.frozen:
            return
        if self.tuner.busy:
            self._step()
            return
        self._follow()
        batch = self._source.poll(self._when.poll_s)
        if batch is not None:
            self.tuner.take(batch)
        due = self._clock.now_us() - self.tuner.progress.released_us >= self._when.interval_us
        if due and self.tuner.progress.unreleased:
            self.release()
        elif self.tuner.waiting >= (self._when.batch if due else self._when.pairs):
            self.tuner.cut()
        elif self._clock.now_us() - self._saved_us >= self._when.interval_us:
            self._save()  # of a shop that searches little: its log is not to be read again from far back

    def release(self) -> None:
        """Export the encoder as it is, unless it is in the store already."""
        began_us = self._clock.now_us()
        text, metrics = self.tuner.learner.released(), self.tuner.metrics()
        name = encoder_id(began_us, text.about.source)
        if not self._there(text.about.source):
            categories, figures = self.tuner.categories(text)
            metrics |= figures
            try:
                self._export(text, categories, name, began_us, metrics)
                self._observer.released(name, metrics, (self._clock.now_us() - began_us) / 1e6)
            except CorruptState as error:
                self._observer.failed("export", error)
        self.tuner.released(began_us)
        self._saved_us = began_us

    def close(self) -> None:
        """Save what was read, unless a slice is being learned: that one is on disk."""
        if not self.tuner.busy:
            self.tuner.save()

    def _export(
        self, text: Text, categories: Categories | None, name: str, now_us: int, metrics: dict[str, float]
    ) -> None:
        about = replace(
            text.about,
            created_us=now_us,
            parent=self.tuner.base.about.source,
            learned_up_to_us=self.tuner.progress.learned_up_to_us,
            metrics=metrics,
        )
        dated, out = Text(text.model, text.tokens, about), incoming(self._store) / name
        exports.export(dated, out, self._when.int8, self._hooks, categories)

    def _there(self, source: str) -> bool:
        """Whether these weights were exported before: nothing moved, or the process ended right after the export."""
        mark = f"t*-{source[:8]}"
        return any(found for folder in (incoming, kept) for found in folder(self._store).glob(mark))

    def _step(self) -> None:
        began_us = self._clock.now_us()
        pairs, loss = self.tuner.step()
        self._observer.learned(pairs, loss, (self._clock.now_us() - began_us) / 1e6)
        self._saved_us = began_us

    def _save(self) -> None:
        self.tuner.save()
        self._saved_us = self._clock.now_us()

    def _obey(self) -> None:
        now_us = self._clock.now_us()
        if now_us - self._looked_us < CONTROL_EVERY_US:
            return
        self._looked_us = now_us
        try:
            self.frozen = control.read(self._controls).freeze_learning
        except (CorruptState, InvalidInput) as error:
            self._observer.failed("control", error)
