"""Rows smoothed over the graph of actions, beside plain ones: on shops of hidden groups, and on ml-100k.

    python -m benchmarks.learning.graph --out graph.json [--ratings <ml-100k>] [--seeds 3] [--quick]

`communities` draws shoppers and items that belong to one of some groups, which nothing but clicks tells: there is no
content and no feature. A list is ten uniform draws, and what is of the shopper's group is clicked more often. Few lists
a shopper is where neighbours could help, many where a row of one's own is enough. `ml-100k` takes ratings of four and
five in the order of time; each film stands in a list with nine draws of those that its shopper never rated. The newest
half is judged, each list before it is learned, list by list against plain rows. A step on smoothed rows moves all of a
neighbourhood, so plain rows that are learned at twice the rate stand beside. A run that was broken off goes on.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.movielens import log_of
from benchmarks.learning.planted_results import Results
from services.trainer.evaluation import figures
from services.trainer.evaluation.planted.log import PlantedSource
from services.trainer.evaluation.planted.plan import Plan
from services.trainer.evaluation.planted.shop import START_US, Catalogue, Floats, Happened, Ints
from services.trainer.evaluation.rehearsal import Outcome, Trial, rehearse

LISTED, GROUPS, ITEMS = 10, 12, 600
INSIDE, OUTSIDE = 0.35, 0.03
"""Chance of a click on an item of the shopper's own group, and of another."""
LIKED = 4.0

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, rows twice as fast": {"row_learning_rate": 0.4},
    "co-clicks": {"strategy": "co_clicks(0.01)"},
    "lightgcn 1": {"strategy": "lightgcn(1, 16, 64)"},
    "lightgcn 2": {"strategy": "lightgcn(2, 16, 64)"},
}
MODELS = ("factorisation", "din")


def communities(seed: int, lists: int, each: int) -> Happened:
    """So many lists of a shop with hidden groups, `each` of them a shopper in the mean."""
    chance = np.random.default_rng(seed)
    shoppers = max(1, lists // each)
    of_shopper, of_item = chance.integers(0, GROUPS, shoppers), chance.integers(0, GROUPS, ITEMS)
    shopper = chance.integers(0, shoppers, lists)
    items = np.argsort(chance.random((lists, ITEMS)), axis=1)[:, :LISTED]
    clicks = np.where(of_item[items] == of_shopper[shopper][:, None], INSIDE, OUTSIDE)
    return _happened(shopper, items, clicks, chance.random(items.shape) < clicks, ITEMS)


def films(folder: Path, seed: int, lists: int) -> Happened:
    """Films that were liked, in the order of time, each among nine that its shopper never rated."""
    log, chance = log_of(folder), np.random.default_rng(seed)
    users, shopper = np.unique(log.users, return_inverse=True)
    names, film = np.unique(log.items, return_inverse=True)
    rated = np.zeros((len(users), len(names)), np.bool_)
    rated[shopper, film] = True
    liked = np.flatnonzero(log.ratings >= LIKED)[:lists]
    items = np.array([_among(int(film[k]), np.flatnonzero(~rated[shopper[k]]), chance) for k in liked])
    clicked = items == film[liked][:, None]
    return _happened(shopper[liked], items, clicked.astype(float), clicked, len(names))


def _among(film: int, others: Ints, chance: np.random.Generator) -> Ints:
    out: Ints = chance.permutation(np.append(chance.choice(others, LISTED - 1, replace=False), film))
    return out


def _happened(shopper: Ints, items: Ints, clicks: Floats, clicked: Any, count: int) -> Happened:
    """A list a second, each click a second later, of items without content and shoppers without region."""
    n, shoppers = len(shopper), int(shopper.max()) + 1
    plan = Plan(lists=n, listed=LISTED, shoppers=shoppers, items=count, window_s=60.0)
    nothing = Catalogue(np.zeros((count, 1)), np.zeros(count), np.zeros(count), [[] for _ in range(count)])
    return Happened(
        plan=plan,
        catalogue=nothing,
        time_us=START_US + 1_000_000 * np.arange(n),
        shopper=shopper,
        segment=np.zeros(shoppers, np.int64),
        items=items,
        price_factor=np.ones(n),
        clicks=clicks,
        labelled=clicks,
        clicked=clicked,
        delay_us=np.full(items.shape, 1_000_000),
    )


def described(outcome: Outcome, base: dict[str, Floats] | None) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Figures of the newest half, and their differences from plain rows list by list."""
    tail = outcome.lists[len(outcome.lists) // 2 :]
    found = figures.table(tail)
    known = ("mrr", "ndcg_at_10", "log_loss")
    out: dict[str, Any] = {name: asdict(figures.mean(found[name])) for name in known}
    out["auc"] = asdict(figures.pooled_auc(tail))
    if base is not None:
        out |= {f"{name}_difference": asdict(figures.mean(found[name] - base[name])) for name in known}
    return out | {"seconds_per_1000": 1000 * outcome.learn_seconds / len(outcome.lists)}, found


@lru_cache(maxsize=1)
def source_of(name: str, seed: int, lists: int, folder: Path | None) -> PlantedSource:
    """The log of a shop; ways take turns at the one."""
    if folder is not None:
        return PlantedSource(films(folder, seed, lists))
    return PlantedSource(communities(seed, lists, int(name.split()[1])))


def shops(lists: int, ratings: Path | None) -> Iterator[tuple[str, int, Path | None]]:
    """Name, lists and folder of each."""
    for each in (16, 64, 250):
        yield f"communities, {each} lists a shopper", lists, None
    if ratings is not None:
        yield "ml-100k", 2 * lists, ratings


def study(results: Results, shop: tuple[str, int, Path | None], model: str, seed: int) -> None:
    """All ways that have no result yet; plain rows again, for they are compared with."""
    name, lists, folder = shop
    keys = {way: f"{name}/{model}, {way}/{seed}" for way in WAYS}
    if all(key in results.found for key in keys.values()):
        return
    source, base = source_of(name, seed, lists, folder), None
    for way, key in keys.items():
        if base is not None and key in results.found:
            continue
        trial = Trial(way, {**WAYS[way], "model": model, "admission": 1, "seed": seed})
        found, table = described(rehearse(trial, source, source.spec), base)
        base = table if base is None else base
        results.add(key, found)
        print(f"{key}: {line(found)}", flush=True)


def line(found: dict[str, Any]) -> str:
    """One result for people."""
    change = found.get("mrr_difference")
    told = f" ({change['value']:+.4f} [{change['lower']:+.4f}, {change['upper']:+.4f}])" if change else ""
    figures_ = f"MRR {found['mrr']['value']:.4f}{told}, AUC {found['auc']['value']:.4f}"
    return f"{figures_}, log-loss {found['log_loss']['value']:.4f}, {found['seconds_per_1000']:.2f} s per 1,000"


def main() -> int:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON with the results so far; goes on from it")
    parser.add_argument("--ratings", type=Path, help="folder of ml-100k; none = communities alone")
    parser.add_argument("--seeds", type=int, default=3, help="shops, and first weights, of each kind")
    parser.add_argument("--quick", action="store_true", help="small shops: whether it runs, not what comes out")
    options = parser.parse_args()
    lists = 600 if options.quick else 10_000
    try:
        results = Results(options.out, {"lists": lists, "items": ITEMS, "groups": GROUPS})
    except ValueError as error:
        parser.error(str(error))
    for seed in range(1, options.seeds + 1):
        for shop in shops(lists, options.ratings):
            for model in MODELS:
                study(results, shop, model, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
