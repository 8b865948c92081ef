"""Scalars for TensorBoard, over examples learned."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from services.trainer.examples import Batch
from services.trainer.observe import Nobody
from services.trainer.strategies.base import Learned


class TensorBoard(Nobody):
    """An observer that writes event files."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder), flush_secs=30)
        self._loss = self._weight = 0.0

    def learned(self, batch: Batch, steps: Sequence[Learned], seconds: float) -> None:
        """Gathers the loss; it is written with the next release, not with every batch."""
        self._loss += sum(step.loss for step in steps)
        self._weight += sum(step.weight for step in steps)

    def delta(self, seq: int, rows: int, oldest_received_us: int) -> None:
        """Not of interest."""

    def released(self, name: str, metrics: Mapping[str, float], learned: int, seconds: float) -> None:
        """Training loss since the last release, and the progressive figures."""
        if self._weight:
            self._writer.add_scalar("training/loss", self._loss / self._weight, learned)
        self._loss = self._weight = 0.0
        self._writer.add_scalar("training/release_seconds", seconds, learned)
        for figure, value in metrics.items():
            self._writer.add_scalar(f"progressive/{figure}", value, learned)

    def held(self, why: str) -> None:
        """Not of interest."""

    def failed(self, what: str, error: Exception) -> None:
        """Not of interest."""

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
