"""Scalars for TensorBoard, over examples learned."""

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from services.trainer.observe import Scalars


class TensorBoard(Scalars):
    """An observer that writes event files."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._writer = SummaryWriter(str(folder), flush_secs=30)

    def write(self, values: Mapping[str, float], learned: int) -> None:
        """See `Scalars`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, learned)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
