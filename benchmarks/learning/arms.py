"""Two arms on shoppers whose truth is planted: how often the trial promotes a better arm, an equal one, a worse one.

    python -m benchmarks.learning.arms --out FILE.json [--seeds 20] [--quick] [--only shops,crowds]

- `shops`: real learners. Both arms learn every list of a planted shop's log, each in its own way; who is whose follows
  from the split, and a shopper clicks among the first three of the order that his arm gives, by the planted truth. The
  referee (services/publisher/arms) takes the lists as the joiner writes them. `better`: the incumbent learns slowly and
  the challenger as we do by default; `equal`: both the same; `other seed`: from other first weights, so better or worse
  by the luck of a cold start (`true_lift` tells which); `worse`: `better` turned round.
- `crowds`: no learners, shoppers of differing fondness and business, the comparison alone: error and power in numbers.

A run that was broken off goes on where it was.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from freshrank.v1.models_pb2 import StartTrialRequest
from numpy.typing import NDArray

from benchmarks.learning.planted_results import Results
from services.common.arms import Split
from services.publisher.arms.comparison import Comparison, Unit
from services.publisher.arms.referee import Referee
from services.publisher.audit import Audit
from services.trainer.evaluation.planted.log import PlantedSource, number_of
from services.trainer.evaluation.planted.plan import Plan
from services.trainer.evaluation.planted.shop import Happened, happen
from services.trainer.evaluation.rehearsal import Trial, rehearse
from tests.publisher.arms.labels import KEY, SECOND, Shown, messages

Floats = NDArray[np.float64]

TOP = 3
"""Places of a list that are looked at."""
STICKY_US = 600 * SECOND
ERROR = 0.05

SLOW: dict[str, Any] = {"optimiser": "sgd", "learning_rate": 0.0002, "row_learning_rate": 0.001}
USUAL: dict[str, Any] = {}
TRIALS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "better": (SLOW, USUAL),
    "equal": (USUAL, USUAL),
    "other seed": (USUAL, {"seed": 2}),
    "worse": (USUAL, SLOW),
}
"""Incumbent and challenger of each trial."""


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    lists: int = 6_000
    shoppers: int = 300
    crowds: int = 400
    """Of each kind."""
    periods: int = 80
    a_period: int = 200
    """Units."""


@dataclass(frozen=True)
class Task:
    """One result: its key, and what makes it."""

    key: str
    run: Callable[[], dict[str, Any]]


@lru_cache(maxsize=1)
def shop_of(size: Size, seed: int) -> Happened:
    """What happens in one shop."""
    return happen(Plan(seed=seed, lists=size.lists, shoppers=size.shoppers))


@lru_cache(maxsize=4)
def scores_of(size: Size, seed: int, way: tuple[tuple[str, Any], ...]) -> dict[int, list[float]]:
    """Scores of each list before it was learned, by its number."""
    source = PlantedSource(shop_of(size, seed))
    outcome = rehearse(Trial("arm", dict(way)), source, source.spec)
    return {number_of(each.impression_id): list(each.scores) for each in outcome.lists}


def shop(size: Size, seed: int, name: str) -> dict[str, Any]:
    """One trial of real learners: what became of the challenger, after how many shoppers and lists."""
    happened = shop_of(size, seed)
    ways = dict(zip(("main", "new"), TRIALS[name], strict=True))
    scores = {arm: scores_of(size, seed, tuple(sorted(way.items()))) for arm, way in ways.items()}
    start_us, end_us = int(happened.time_us[0]), int(happened.time_us[-1])
    with TemporaryDirectory() as folder:
        path = Path(folder)
        champions = {"main": "r1", "new": "r2"}
        referee = Referee(path / "arms.json", Audit(path / "audit.jsonl"), lambda split: None, lambda: champions)
        asked = StartTrialRequest(
            challengers=["new"], share=0.5, sticky_us=STICKY_US, most_us=10 * (end_us - start_us), error=ERROR
        )
        referee.start(asked, start_us)
        values = messages(shown(happened, scores, referee.book.split, seed))
        for offset, value in enumerate(values):
            referee.apply(0, offset, value, KEY)
            if offset % 200 == 199 or offset + 1 == len(values):
                referee.step(start_us + SECOND * (size.lists + 1), False, {0: offset + 1})
        standing = referee.book.standings[0]
        true = [expected(happened, scores[arm]) for arm in ("main", "new")]
        return {"state": standing.state, "reason": standing.reason, **standing.figures, "true_lift": true[1] - true[0]}


def expected(happened: Happened, scores: dict[int, list[float]]) -> float:
    """Clicks per list that an arm would have earned from everybody, by the truth."""
    orders = {number: np.argsort(-np.array(found), kind="stable")[:TOP] for number, found in scores.items()}
    return float(np.mean([happened.labelled[number, order].sum() for number, order in orders.items()]))


def shown(happened: Happened, scores: dict[str, dict[int, list[float]]], split: Split, seed: int) -> Iterator[Shown]:
    """Lists as each arm orders them, and the clicks that the truth gives among the first."""
    rng = np.random.default_rng(seed)
    chance = rng.random(happened.labelled.shape)
    for number, time_us in enumerate(happened.time_us.tolist()):
        user = f"shopper{happened.shopper[number]}"
        arm = split.arm_of(user, time_us)
        found = scores[arm].get(number)
        order = np.argsort(-np.array(found), kind="stable")[:TOP] if found is not None else np.arange(TOP)
        clicks = int((chance[number, order] < happened.labelled[number, order]).sum())
        items = tuple(f"i{item}" for item in happened.items[number, order].tolist())
        yield Shown(user, time_us, arm, clicks, items)


CROWDS = {"equal": 0.0, "5 % better": 0.05, "10 % better": 0.1, "20 % better": 0.2, "10 % worse": -0.1}


def crowd(size: Size, seed: int, lift: float, share: float = 0.2, rate: float = 0.1) -> dict[str, Any]:
    """One trial of shoppers alone; looked at after every period."""
    rng, comparison = np.random.default_rng(seed), Comparison("new", "old", share)
    reward = lists = 0.0
    for period in range(size.periods):
        units = [_unit(rng, lift, share, rate) for _ in range(size.a_period)]
        comparison.add(units, reward / lists if lists else 0.0)
        reward, lists = reward + sum(u.reward for u in units), lists + sum(u.impressions for u in units)
        if comparison.enough:
            low, high = comparison.bounds(ERROR)
            if low > 0 or high < 0:
                return {"state": "promoted" if low > 0 else "dropped", "units": (period + 1) * size.a_period}
    return {"state": "running", "units": size.periods * size.a_period}


def _unit(rng: np.random.Generator, lift: float, share: float, rate: float) -> Unit:
    arm, fond, lists = "new" if rng.random() < share else "old", rng.gamma(2.0, 0.5), 1 + int(rng.poisson(3))
    chance = min(0.95, rate * fond * (1 + lift * (arm == "new")))
    return Unit(arm, frozenset(), lists, float(rng.binomial(lists, chance)))


def tasks(size: Size, seeds: int) -> Iterator[Task]:
    """Everything; trials of one shop follow each other, for they share its learners."""
    for name, lift in CROWDS.items():
        for seed in range(size.crowds):
            yield Task(f"crowds/{name}/all/{seed}", partial(crowd, size, seed, lift))
    for seed in range(1, seeds + 1):
        for name in TRIALS:
            yield Task(f"shops/{name}/all/{seed}", partial(shop, size, seed, name))


def report(found: dict[str, dict[str, Any]]) -> list[str]:
    """What came of each kind of trial."""
    lines = []
    for kind in dict.fromkeys("/".join(key.split("/")[:2]) for key in found):
        trials = [each for key, each in found.items() if key.startswith(f"{kind}/")]
        states = [each["state"] for each in trials]
        counts = ", ".join(f"{state} {states.count(state)}" for state in ("promoted", "dropped", "running"))
        units = sorted(each.get("units", 0) + each.get("units_incumbent", 0) for each in trials)
        lines.append(f"{kind}: {len(trials)} trials, {counts}; units to the end {units[len(units) // 2]:.0f} (median)")
    return lines


def main() -> int:
    """Run what is missing, print all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON with the results so far; goes on from it")
    parser.add_argument("--seeds", type=int, default=20, help="shops of each kind")
    parser.add_argument("--quick", action="store_true", help="few of everything: whether it runs, not what comes out")
    parser.add_argument("--only", default="", help="studies, apart by commas: shops, crowds")
    options = parser.parse_args()
    size = Size(lists=1_500, crowds=5, periods=20) if options.quick else Size()
    try:
        results = Results(options.out, asdict(size))
    except ValueError as error:
        parser.error(str(error))
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    for task in tasks(size, options.seeds):
        if task.key not in results.found and (not wanted or task.key.partition("/")[0] in wanted):
            results.add(task.key, task.run())
            if task.key.startswith("shops"):
                print(f"{task.key}: {results.found[task.key]}", file=sys.stderr, flush=True)
    print("\n".join(report(results.found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
