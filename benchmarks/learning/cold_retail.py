"""New StockCodes with and without rows from their titles: one pass over online-retail, see benchmarks.learning.cold."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.learning.cold_figures import summary
from benchmarks.learning.cold_rows import BLEND, WAYS, Rowed, Shown, batch
from benchmarks.learning.cold_shop import SPEC, Shop, Visit, shown
from services.common.encode import encode
from services.trainer.evaluation.rehearsal import Trial
from services.trainer.factory import learner_of
from services.trainer.learner import Learner

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

FROM_DAY, TOP, TOGETHER, SHELF = 90, 20, 20, 5
"""Days before anything is told; length of a list; visits learned together; length of a shelf of new items."""
KEPT = 1_000
"""Newest lists by which the publisher's judgment is made, every month."""
AGES = (1, 7)
FIGURES = (
    "lists", "bought", "hits", "shelf", "shelf_hits",
    *(f"{what}_{days}" for days in AGES for what in ("shown", "hits", "bought", "place", "pairs", "wins")),
)  # fmt: skip
"""Sums over visits: items bought, and found among the first; places and hits of a shelf; then of items that are new by
so many days: shown, hits, bought, the share of the catalogue that stands before these, and pairs of a new item that is
bought and another that is not, with those in the right order."""


def replay(shop: Shop, texts: Floats, seed: int, every: int, tell: Callable[[int], None]) -> dict[str, Any]:
    """One pass: what FIGURES come to by way, and by month what the map was worth; every so many-th visit is ranked."""
    shop.start()
    chance = np.random.default_rng(seed)
    settings = Trial("cold", {"seed": seed, "max_rows": 20_000, "batch_impressions": TOGETHER}).settings()
    learner = learner_of(settings, SPEC, None)
    rowed = Rowed(learner)
    rowed.add(shop.ids, texts)
    days: dict[int, dict[str, Floats]] = {}
    kept: deque[Shown] = deque(maxlen=KEPT)
    maps, today, first = [], -1, shop.visits[0].day
    for start in range(0, len(shop.visits), TOGETHER):
        learned = []
        for number, visit in enumerate(shop.visits[start : start + TOGETHER], start):
            if visit.day != today:
                today = visit.day
                rowed.renew()
                if len(maps) < (today - first) // 30:
                    maps.append(rowed.judged(list(kept)))
                    tell(number)
            if today - first >= FROM_DAY and number % every == 0:
                sums = days.setdefault(today, {way: np.zeros(len(FIGURES), np.float32) for way in WAYS})
                items, scores = ranked(shop, learner, rowed, visit)
                for way in WAYS:
                    sums[way] += told(shop, visit, items, scores[way])
            items, bought = shown(shop, visit, chance)
            learned.append(Shown(shop.impression(number, visit, items), range(bought)))
            shop.sold(visit)
        kept.extend(learned)
        learner.apply(batch(start, learned))
    sums_of = [{way: sums.tolist() for way, sums in day.items()} for day in days.values()]
    told_of = np.sum([day["own"] for day in sums_of], axis=0)
    about = dict(zip(FIGURES, told_of.tolist(), strict=True))
    counted = {name: about[name] for name in ("lists", "bought", "bought_1", "bought_7", "pairs_1", "pairs_7")}
    return {**counted, "days": len(sums_of), "ways": summary(sums_of, FIGURES, TOP), "maps": maps}


@torch.no_grad()
def ranked(shop: Shop, learner: Learner, rowed: Rowed, visit: Visit) -> tuple[Ints, dict[str, Floats]]:
    """The catalogue, and its scores by each way."""
    items, own = shop.catalogue(visit.day), rowed.own()
    side = encode([shop.impression(0, visit, items[:1])], SPEC, learner.tables)
    shopper = {name: torch.from_numpy(array) for name, array in side.items()}
    features = shop.features(visit, items)

    def scores(places: Ints, rows: Floats) -> Floats:
        ones = np.ones((1, len(places)), np.float32)
        arrays = {"item": features[places][None], "content": shop.content[items[places]][None], "row": rows[None]}
        arrays |= {"row_mask": ones[:, :, None], "mask": ones}
        given = shopper | {name: torch.from_numpy(array) for name, array in arrays.items()}
        out: Floats = learner.strategy.served.logits(given)[0, :, 0].numpy()
        return out

    base = scores(np.arange(len(items)), own.rows[items])
    cold = np.flatnonzero(BLEND.little(own)[items])
    found = {"own": base}
    for way in WAYS[1:]:
        found[way] = base.copy()
        if len(cold):
            found[way][cold] = scores(cold, rowed.rows(way, own, items[cold]))
    return items, found


def told(shop: Shop, visit: Visit, items: Ints, scores: Floats) -> Floats:
    """What FIGURES name, of one visit."""
    bought, age = np.isin(items, visit.bought), visit.day - shop.first_day[items]
    order = np.argsort(-scores, kind="stable")
    place = np.empty(len(items))
    place[order] = np.arange(len(items)) / len(items)
    first, shelf = order[:TOP], order[age[order] < AGES[-1]][:SHELF]
    out = [1, bought.sum(), bought[first].sum(), len(shelf), bought[shelf].sum()]
    for days in AGES:
        new = age < days
        mine, others = scores[new & bought], scores[new & ~bought]
        wins = (mine[:, None] > others).sum() + 0.5 * (mine[:, None] == others).sum()
        out += [new[first].sum(), (new & bought)[first].sum(), len(mine), place[new & bought].sum()]
        out += [len(mine) * len(others), wins]
    return np.array(out, np.float32)
