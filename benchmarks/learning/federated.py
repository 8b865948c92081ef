"""Four shops that learn together, each alone, and all as one: planted shoppers dealt to shops in three ways.

    python -m benchmarks.learning.federated --out federated.json [--seeds 3] [--lists 8000]

`alike`: shoppers are dealt at random. `tastes apart`: each shop has two of eight tastes. `one large`: one shop has
seven shoppers of ten, three have one each. Every list is judged by its shop's learner before it is learned, in the
newer half of 20 rounds; differences are of the same lists, against the shop alone. Intervals are bootstraps over lists,
put together over the seeds. What a round costs is measured with messages that go from hand to hand: a network and a
process for each message come on top.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message

from benchmarks.machine import commit, load, machine, rounded, versions, write_json
from services.common.clock import WallClock
from services.trainer.archive_writer import Archive
from services.trainer.evaluation.planted.log import PlantedSource
from services.trainer.evaluation.planted.plan import Plan as Shop
from services.trainer.evaluation.planted.shop import Happened, happen
from services.trainer.federated import apps, shop
from services.trainer.federated.coordinator import Coordinator
from services.trainer.federated.grid import LocalGrid
from services.trainer.federated.rounds import Plan, federate
from services.trainer.federated.study import Federation, Options, study

SHOPS = 4
SETTINGS: dict[str, Any] = {"loss_weights": {"click": 1.0}, "max_rows": 5_000, "warmup_impressions": 100}
"""A shop has a few hundred lists to a few thousand: the trainer's rise over 1,000 would be most of what it learns."""
WAYS = (
    Federation("fedavg", SETTINGS),
    Federation("fedprox 0.01", {**SETTINGS, "strategy": "proximal(0.01)"}),
    Federation("fedavg, server's rate 2", SETTINGS, server_rate=2.0),
    Federation("fedavg, server's rate 4", SETTINGS, server_rate=4.0),
)
COST_ROUNDS = 3
Groups = Mapping[str, Collection[int]]
"""Shoppers by shop."""


class Counting(LocalGrid):
    """Counts the bytes of messages: of arrays, and of what secure aggregation sends."""

    up = down = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See `Grid`."""
        sent = list(messages)
        self.down += sum(map(_bytes, sent))
        return super().push_messages(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See `Grid`."""
        found = list(super().pull_messages(message_ids))
        self.up += sum(map(_bytes, found))
        return found


def dealt(happened: Happened) -> dict[str, Groups]:
    """Who shops where, by name of the way of dealing."""
    shoppers = np.random.default_rng(happened.plan.seed).permutation(happened.plan.shoppers)
    taste = happened.segment * SHOPS // happened.plan.segments
    large = np.split(shoppers, [int(len(shoppers) * share) for share in (0.7, 0.8, 0.9)])
    return {
        "alike": {f"shop {k}": shoppers[k::SHOPS].tolist() for k in range(SHOPS)},
        "tastes apart": {f"shop {k}": np.flatnonzero(taste == k).tolist() for k in range(SHOPS)},
        "one large": {f"shop {k}": group.tolist() for k, group in enumerate(large)},
    }


def archives(happened: Happened, groups: Groups, folder: Path) -> dict[str, Path]:
    """An archive of each shop."""
    for name, shoppers in groups.items():
        kept, source = Archive(folder / name), PlantedSource(happened, rows=16, shoppers=shoppers)
        while (batch := source.poll()) is not None:
            kept.add(batch)
        kept.describe(source.spec)
        kept.flush()
    return {name: folder / name for name in groups}


def cost(paths: Mapping[str, Path], items: tuple[str, ...], secure: bool, folder: Path) -> dict[str, float]:
    """Bytes and seconds of a round and a shop."""
    settings = WAYS[0].settings()
    places = {n: shop.Place(n, p, settings.model_copy(update={"store": folder / n})) for n, p in paths.items()}
    app = apps.client_app(lambda context: shop.Shop(places[str(context.node_config["shop"])]), lambda context: items)
    grid = Counting(app, {number: {"shop": name} for number, name in enumerate(paths, 2)})
    plan = Plan(COST_ROUNDS, 100, least=len(paths), secure=secure, catalogue=items if secure else ())
    began = time.process_time()
    federate(grid, Coordinator(settings.model_copy(update={"store": folder / "middle"})), plan, WallClock())
    each = COST_ROUNDS * len(paths)
    seconds = time.process_time() - began
    return rounded({"kib_down": grid.down / 1024 / each, "kib_up": grid.up / 1024 / each, "seconds": seconds / each})


def together(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of one way, with the interval that independent seeds give; shops one by one."""
    out: dict[str, Any] = {name: _mean([one[name] for one in found]) for name in ("auc", "mrr", "mrr_difference")}
    if "shops" in found[0]:
        out["shops"] = {name: together([one["shops"][name] for one in found]) for name in found[0]["shops"]}
    return out


def main() -> None:
    """Run all seeds and write means."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lists", type=int, default=8_000)
    options = parser.parse_args()
    base, runs, costs = Shop(lists=options.lists, shoppers=400, items=400, segments=8), dict[str, Any](), {}
    for seed in range(1, options.seeds + 1):
        happened = happen(replace(base, seed=seed))
        for name, groups in dealt(happened).items():
            with tempfile.TemporaryDirectory() as folder:
                paths = archives(happened, groups, Path(folder) / "archives")
                found = study(paths, WAYS, Options(), Path(folder) / "work")
                print(f"seed {seed}, {name}:", {way: found[way]["auc"]["value"] for way in found}, flush=True)
                if not costs:
                    items = tuple(f"item-{k}" for k in range(base.items))
                    costs = {w: cost(paths, items, w == "secure", Path(folder) / w) for w in ("open", "secure")}
            for way, result in found.items():
                runs.setdefault(f"{way}, {name}", []).append(result)
    results = {name: together(found) for name, found in runs.items()}
    about = {"machine": machine(), "versions": versions("flwr"), "commit": commit(), "load": load()}
    write_json(options.out, about | {"seeds": options.seeds, "lists": options.lists, "cost": costs, "results": results})
    print(json.dumps({name: found["auc"]["value"] for name, found in results.items()}, indent=1))


def _mean(figures: list[dict[str, Any]]) -> dict[str, float]:
    value = sum(one["value"] for one in figures) / len(figures)
    half = math.sqrt(sum(((one["upper"] - one["lower"]) / 2) ** 2 for one in figures)) / len(figures)
    lists = sum(one["lists"] for one in figures)
    plain = {"value": value, "lower": value - half, "upper": value + half}
    return {name: round(number, 4) for name, number in plain.items()} | {"lists": lists}


def _bytes(message: Message) -> int:
    if not message.has_content():
        return 0
    arrays = sum(len(array.data) for record in message.content.array_records.values() for array in record.values())
    masked = (value for record in message.content.config_records.values() for value in record.values())
    return arrays + sum(len(part) for value in masked if isinstance(value, list) for part in value if _raw(part))


def _raw(part: object) -> bool:
    return isinstance(part, bytes)


if __name__ == "__main__":
    main()
