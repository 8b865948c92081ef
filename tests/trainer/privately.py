"""A private learner on the small shop, and what its tests look at."""

import shutil
from pathlib import Path

import numpy as np
import torch
from freshrank.v1.events_pb2 import Impression

from services.common import records
from services.common.clock import ManualClock
from services.trainer.examples import Example
from services.trainer.learner import Learner
from services.trainer.loop import Loop
from services.trainer.settings import TrainerSettings
from services.trainer.strategies.private import PrivateStrategy
from services.trainer.triggers import VolumeTrigger
from tests.trainer.arm import TURN_US, arm, settings
from tests.trainer.strategies.shop import learner, step_of
from tests.trainer.world import FileSource, Shop, message

SECRET = bytes(range(32))


def items_file(folder: Path, count: int = 40) -> Path:
    """The first items of the shop, one a line."""
    path = folder / f"items-{count}.txt"
    path.write_text("".join(f"item-{k}\n" for k in range(count)))
    return path


def chosen(folder: Path, privacy: str = "private(100, 1e-6, 2, 1, 4, 5)", **changes: object) -> TrainerSettings:
    """Settings of a private arm whose store is the folder."""
    listed = {"privacy_items": items_file(folder), **changes}
    return settings(admission=1, row_dropout=0.0, store=folder, privacy=privacy, **listed)


def private(folder: Path, privacy: str = "private(100, 1e-6, 2, 1, 4, 5)", **changes: object) -> Learner:
    """A private learner; always with the same secret."""
    made = learner(**{"store": folder, "privacy": privacy, "privacy_items": items_file(folder), **changes})
    strategy(made).secret = SECRET
    return made


def strategy(made: Learner) -> PrivateStrategy:
    """Its strategy, by its class."""
    assert isinstance(made.strategy, PrivateStrategy)
    return made.strategy


def opened(folder: Path, source: FileSource, settings: TrainerSettings) -> tuple[Loop, ManualClock]:
    """A private arm over a source; it saves when it is told to."""
    return arm(folder, source, chosen=settings, trigger=VolumeTrigger(10**9))


def examples(shop: Shop, messages: int) -> list[Example]:
    """What appears and what flips in some messages of the shop."""
    step = step_of(shop.messages(messages))
    return [*step.initial, *step.flips]


def public(made: Learner) -> np.ndarray:  # type: ignore[type-arg]
    """All that others than a shopper see: dense weights, statistics, retrieval matrices and rows of items."""
    modules = (made.strategy.ranker, made.strategy.served, made.strategy.towers)
    tensors = [value.reshape(-1).double() for module in modules for value in module.state_dict().values()]
    return np.concatenate([torch.cat(tensors).numpy(), made.tables.item.rows.reshape(-1)])


def started(folder: Path, source: FileSource) -> tuple[Path, Path]:
    """Two stores with the same first checkpoint, and so with the same secret."""
    first, second = folder / "first", folder / "second"
    first.mkdir()
    gone(opened(first, source, chosen(first))[0])
    shutil.copytree(first, second)
    return first, second


def until(loop: Loop, clock: ManualClock, position: int) -> None:
    """Learn so far."""
    while sum(loop.arm.learner.positions.values()) < position:
        loop.turn()
        clock.advance_to(clock.now_us() + TURN_US)


def gone(loop: Loop) -> None:
    """Nothing is saved, as when the process was killed; its file is given back."""
    assert loop.arm._journal is not None
    loop.arm._journal.close()


def epsilon_of(loop: Loop) -> float:
    """What the loop's arm has spent."""
    return strategy(loop.arm.learner).epsilon


def rounds_of(loop: Loop) -> int:
    """Rounds that the loop's arm has learned from."""
    return strategy(loop.arm.learner).rounds


def with_other_features(value: bytes, user: str) -> bytes:
    """A message of the shop, with other features of one shopper in as many examples of the same size."""
    rows = records.decode(value).to_pylist()
    for row in rows:
        if row["user"] == user:
            impression = Impression.FromString(row["impression"])
            impression.user_features[:] = [99.0 for _ in impression.user_features]
            row["impression"] = impression.SerializeToString()
    return message(rows)
