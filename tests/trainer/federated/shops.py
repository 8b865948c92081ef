"""Shops of a federation on the small world's logs, and a grid that reaches them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from services.trainer.archive_writer import Archive
from services.trainer.examples import Batch
from services.trainer.federated.apps import client_app
from services.trainer.federated.coordinator import Coordinator
from services.trainer.federated.grid import LocalGrid
from services.trainer.federated.shop import Place, Shop
from services.trainer.settings import TrainerSettings
from tests.trainer.arm import settings
from tests.trainer.world import SPEC
from tests.trainer.world import Shop as World

TASTE = 7


def world(seed: int, first: int, shared: bool = False) -> World:
    """A small shop whose impressions have numbers from `first` on; `shared`: shoppers have the taste of all shops."""
    made = World(seed=TASTE if shared else seed, items=20, listed=6, made=first)
    if shared:
        made.chance = np.random.default_rng(seed)
    return made


def archive(folder: Path, seed: int, messages: int = 60, shared: bool = False) -> Path:
    """An archive of a shop."""
    source = world(seed, 1_000 * seed, shared)
    kept = Archive(folder)
    for k in range(0, messages, 20):
        count = min(20, messages - k)
        kept.add(Batch({0: (k, k + count)}, {0: source.messages(count)}))
    kept.describe(SPEC)
    kept.flush()
    return folder


def chosen(store: Path, **changes: object) -> TrainerSettings:
    """Small and quick; rows from the first sighting."""
    return settings(store=store, arm="federated", admission=1, batch_impressions=5, **changes)


def place(folder: Path, name: str, seed: int, messages: int = 60, shared: bool = False, **changes: object) -> Place:
    """A shop with an archive of its own."""
    examples = folder / name / "examples"
    if not examples.exists():
        archive(examples, seed, messages, shared)
    return Place(name, examples, chosen(folder / name, **changes))


def grid_of(*places: Place, items: Sequence[str] = (), kind: type[LocalGrid] = LocalGrid) -> LocalGrid:
    """Nodes from 2 on, in this order; `items`: the catalogue of all."""
    named = {place.name: place for place in places}
    nodes = {number: {"shop": name} for number, name in enumerate(named, 2)}
    app = client_app(lambda context: Shop(named[str(context.node_config["shop"])]), lambda context: items)
    return kind(app, nodes)


def coordinator(folder: Path, **changes: object) -> Coordinator:
    """The middle."""
    return Coordinator(chosen(folder / "middle", **changes))
