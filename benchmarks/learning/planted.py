"""Ways of learning in shops whose truth is planted: what a change costs, what late labels cost, what triggers tell.

    python -m benchmarks.learning.planted --out FILE.json [--seeds 3] [--quick] [--only drift,delay]

Every list is a uniform draw of what is offered, so all ways see the same lists, and regret is exact: the expected
clicks that the first three of a list lose against the best order. Before and behind a change it is told as a share of
what a random order loses on the same lists, since a changed shop has more or less to lose. Four studies:

- `drift`: ways of learning before and behind a change of tastes (90 degrees, everybody) and of half the catalogue.
- `triggers`: one learner, released by each trigger; the change comes in the middle between two releases by time.
- `alarms`: a perfect model that does not learn; false alarms a day without drift, and log time until a shift of a
  share of the shoppers is told. Losses come when the click window ends; that wait is part of the delay.
- `delay`: ways to learn late labels, clicks 200 s behind their lists on average and windows of 600 s: in a steady
  shop, in one whose clicks and delays go in waves of an hour, and in one whose tastes shift.

A run that was broken off goes on where it was.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.learning.planted_results import Results, report
from services.trainer import expression
from services.trainer.evaluation import figures
from services.trainer.evaluation.deployments import Deployment, compare
from services.trainer.evaluation.planted import oracle
from services.trainer.evaluation.planted.log import PlantedSource
from services.trainer.evaluation.planted.oracle import Known
from services.trainer.evaluation.planted.plan import CatalogueChange, FeatureShift, Plan, TasteShift, Traffic
from services.trainer.evaluation.planted.shop import START_US, Happened, happen
from services.trainer.evaluation.rehearsal import Trial, rehearse

Floats = NDArray[np.float64]

DAY_S = 86_400
WINDOW_S = 600.0
"""Of moving means."""


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    lists: int = 12_000
    delay_lists: int = 8_000
    days: int = 3

    @property
    def change_s(self) -> float:
        """When the change comes, at one list a second."""
        return self.lists / 2


@dataclass(frozen=True)
class Task:
    """One result: its key, and what makes it."""

    key: str
    run: Callable[[], dict[str, Any]]


def ways(size: Size) -> list[Trial]:
    """The ways of the drift study; the first is what the others are compared with."""
    often: dict[str, Any] = {"trigger": f"time({size.lists / 20:g})"}
    return [
        Trial("online", often),
        Trial("sgd, slow", {**often, "optimiser": "sgd", "learning_rate": 0.01, "row_learning_rate": 0.05}),
        Trial("replay 50 %", {**often, "strategy": "replay(2000, 0.5)"}),
        Trial("ewc 100", {**often, "strategy": "ewc(100)"}),
        Trial("fusion 0.5", {**often, "strategy": "fusion(0.5)"}),
        Trial("drift step", {**often, "strategy": "drift_step()"}),
        Trial("hypergradient", {**often, "strategy": "hypergradient()"}),
        Trial("frozen", {"trigger": f"time({0.9 * size.change_s:g})"}, learns=False),
    ]


def triggers(size: Size) -> list[str]:
    """The triggers; the first is what the others are compared with, and the last three have it within them."""
    seldom = f"time({size.lists / 3:g})"
    return [
        seldom,
        f"time({size.lists / 20:g})",
        f"volume({3 * size.lists // 4})",
        f"any({seldom}, drift(adwin))",
        f"any({seldom}, drift(page_hinkley))",
        f"any({seldom}, performance(0.2, 500))",
    ]


def changed(size: Size, seed: int) -> dict[str, Plan]:
    """Shops by what changes in them."""
    plain, at = Plan(seed=seed, lists=size.lists), size.change_s
    return {
        "taste": replace(plain, changes=(TasteShift(at),)),
        "catalogue": replace(plain, changes=(CatalogueChange(at),)),
        "feature": replace(plain, changes=(FeatureShift(at),)),
        "nothing": plain,
    }


@lru_cache(maxsize=1)
def source_of(plan: Plan) -> PlantedSource:
    """The log of a shop; ways take turns at the one."""
    return PlantedSource(happen(plan))


def drift(size: Size, plan: Plan, trial: Trial) -> dict[str, Any]:
    """One way through one change."""
    source = source_of(plan)
    outcome = rehearse(trial, source, source.spec)
    found = oracle.known(source.happened, outcome.lists)
    return {
        **_through(size, found),
        "releases": outcome.releases,
        "seconds_per_1000": _pace(outcome.learn_seconds, size),
    }


def _pace(seconds: float, size: Size) -> float:
    return 1000 * seconds / size.lists


def _through(size: Size, found: Known) -> dict[str, Any]:
    """How lists were judged before and behind the change."""
    at, window = size.change_s, min(WINDOW_S, size.lists / 8)
    regrets, stakes = found.regret(), found.at_stake()
    excess = {
        name: float(oracle.excess_log_loss(part.labelled, part.scores).mean())
        for name, part in (("before", found.since(at - window, at)), ("behind", found.since(at)))
    }
    behind = found.seconds >= at
    return {
        **asdict(oracle.recovery(found.seconds, regrets, stakes, at, window)),
        "behind": float(regrets[behind].sum() / stakes[behind].sum()),
        "excess_log_loss": excess,
        "curve": [float(regrets[k].sum() / stakes[k].sum()) for k in np.array_split(np.arange(len(regrets)), 40)],
    }


def released(size: Size, plan: Plan) -> dict[str, Any]:
    """All triggers over one learner."""
    source = source_of(plan)
    found = compare(Trial("online"), {text: text for text in triggers(size)}, source)
    known = partial(oracle.known, source.happened)
    served = {
        name: {**_through(size, known(each.served.judge.lists)), **_told(size, each)}
        for name, each in found.deployments.items()
    }
    learner = known(found.learner.lists)
    happened = source.happened
    return {"served": served, "learner": _through(size, learner), "alarms": _alarmed(size, happened, learner)}


def _alarmed(size: Size, happened: Happened, learner: Known) -> dict[str, Any]:
    """What detectors make of the losses of a model that learns: alarms before the change, and the first behind it."""
    clicks = happened.in_time[np.searchsorted((happened.time_us - START_US) / 1e6, learner.seconds)]
    told, found = signals(learner.scores, clicks), {}
    for text, name in WATCHED:
        shown = np.array([learner.seconds[k] - size.change_s for k in alarms(text, told[name])])
        behind = shown[shown >= 0] + happened.plan.window_s
        first = float(behind[0]) if len(behind) else None
        found[f"{text} on {name}"] = {"before": int((shown < 0).sum()), "behind": len(behind), "after_s": first}
    return found


def _told(size: Size, deployment: Deployment) -> dict[str, Any]:
    """Releases; those among them that a loss made, before and behind the change; how soon the first of the latter."""
    made_by_losses = [each for each in deployment.releases if "drift" in each.reason or "performance" in each.reason]
    moments = [(each.log_us - START_US) / 1e6 - size.change_s for each in made_by_losses]
    behind = [moment for moment in moments if moment >= 0]
    return {
        "releases": len(deployment.releases),
        "told_before": len(moments) - len(behind),
        "told_behind": len(behind),
        "told_after_s": min(behind, default=None),
    }


WATCHED = (
    ("drift(adwin)", "loss"),
    ("drift(page_hinkley)", "loss"),
    ("performance(0.2, 500)", "loss"),
    ("drift(adwin)", "surplus"),
    ("drift(page_hinkley)", "surplus"),
)
"""Triggers, and what they look at; a trainer's `drift` looks at the surplus, its `performance` at the loss."""


def quiet(size: Size, seed: int, traffic: Traffic) -> dict[str, Any]:
    """False alarms a day of a perfect model: it predicts the truth."""
    shop = happen(Plan(seed=seed, lists=DAY_S * size.days, traffic=traffic))
    told = signals(shop.labelled, shop.in_time)
    return {f"{text} on {name}": len(alarms(text, told[name])) / size.days for text, name in WATCHED}


def noticed(size: Size, seed: int, share: float) -> dict[str, Any]:
    """Seconds until a perfect model that does not learn is known to be wrong: tastes shift after half a day.

    None: not within the other half. The model is the truth of the same shop without the shift.
    """
    plain, at = Plan(seed=seed, lists=DAY_S), DAY_S / 2
    shop = happen(replace(plain, changes=(TasteShift(at, share=share),)))
    told = signals(happen(plain).labelled, shop.in_time)
    shown_s = (shop.time_us - START_US) / 1e6 - at
    found = {}
    for text, name in WATCHED:
        behind = [shown_s[k] for k in alarms(text, told[name]) if shown_s[k] >= 0]
        found[f"{text} on {name}"] = float(behind[0] + shop.plan.window_s) if behind else None
    return found


def signals(scores: Floats, clicks: NDArray[np.bool_]) -> dict[str, Floats]:
    """What a detector can look at of each list, [n]; scores and clicks are [n, m].

    The mean log-loss of the items; and what of it lies above the loss that the scores themselves expect. While they
    are right the latter is 0 in the mean, however many clicks there are; the former rises with the click rate.
    """
    p = np.clip(scores, oracle.EPSILON, 1 - oracle.EPSILON)
    losses = -np.where(clicks, np.log(p), np.log1p(-p)).mean(axis=1)
    expected = -(p * np.log(p) + (1 - p) * np.log1p(-p)).mean(axis=1)
    return {"loss": losses, "surplus": losses - expected}


def alarms(text: str, losses: Floats) -> list[int]:
    """Lists after which a trigger was due; behind each alarm there is a release."""
    trigger, found = expression.parse(text), []
    for k, loss in enumerate(losses.tolist()):
        trigger.see([loss])
        if trigger.due(0, k):
            found.append(k)
            trigger.fired(0, k)
    return found


LABELS = ("flips", "waiting", "fake_negatives", "calibrated")
STEADY = Traffic(delay_s=200.0)
MOVING = Traffic(delay_s=200.0, swing=0.7, delay_swing=0.7)


def delayed(size: Size, seed: int) -> dict[str, Plan]:
    """Shops of the delay study; in the last one tastes shift as the half begins that is judged."""
    steady = Plan(seed=seed, lists=size.delay_lists, traffic=STEADY)
    shift = TasteShift(size.delay_lists / 2)
    return {"steady": steady, "moving": replace(steady, traffic=MOVING), "shifting": replace(steady, changes=(shift,))}


def delay(size: Size, plan: Plan, labels: str) -> dict[str, Any]:
    """One way to learn late labels; judged over the second half of the lists."""
    source = source_of(plan)
    outcome = rehearse(Trial(labels, {"labels": labels}), source, source.spec)
    every = oracle.known(source.happened, outcome.lists)
    found = every.since(float(every.seconds[len(every.seconds) // 2]))
    window = min(WINDOW_S, size.delay_lists / 8)
    parts = np.array_split(np.arange(len(found.seconds)), max(1, round(np.ptp(found.seconds) / window)))
    ratios = [oracle.calibration(found.labelled[part], found.scores[part]) for part in parts]
    return {
        "excess_log_loss": asdict(figures.mean(oracle.excess_log_loss(found.labelled, found.scores))),
        "regret": asdict(figures.mean(found.regret())),
        "calibration": oracle.calibration(found.labelled, found.scores),
        "calibration_of_all_clicks": oracle.calibration(found.clicks, found.scores),
        "calibration_error": float(np.mean(np.abs(np.log(ratios)))),
        "seconds_per_1000": 1000 * outcome.learn_seconds / size.delay_lists,
    }


def tasks(size: Size, seeds: int) -> Iterator[Task]:
    """Everything, seed by seed, so that what is broken off is complete for some; the quickest first."""
    for seed in range(1, seeds + 1):
        for name, traffic in (("steady", Traffic()), ("a day's wave", Traffic(swing=0.5, period_s=DAY_S))):
            yield Task(f"alarms/quiet, {name}/all/{seed}", partial(quiet, size, seed, traffic))
        for share in (0.1, 0.3, 1.0):
            yield Task(f"alarms/shift of {share:.0%}/all/{seed}", partial(noticed, size, seed, share))
        for name, plan in delayed(size, seed).items():
            for labels in LABELS:
                yield Task(f"delay/{name}/{labels}/{seed}", partial(delay, size, plan, labels))
        for shop, plan in changed(size, seed).items():
            yield Task(f"triggers/{shop}/all/{seed}", partial(released, size, plan))
            for trial in ways(size) if shop in ("taste", "catalogue") else ():
                yield Task(f"drift/{shop}/{trial.name}/{seed}", partial(drift, size, plan, trial))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, print all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON with the results so far; goes on from it")
    parser.add_argument("--seeds", type=int, default=3, help="shops of each kind")
    parser.add_argument("--quick", action="store_true", help="small shops: whether it runs, not what comes out")
    parser.add_argument("--only", default="", help="studies, apart by commas: drift, triggers, delay, alarms")
    parser.add_argument("--shops", default="", help="of these alone, apart by commas, such as taste")
    parser.add_argument("--ways", default="", help="of these alone, apart by commas, such as online")
    options = parser.parse_args(arguments)
    size = Size(lists=1_600, delay_lists=1_200, days=1) if options.quick else Size()
    try:
        results = Results(options.out, asdict(size))
    except ValueError as error:
        parser.error(str(error))
    wanted = [
        [name.strip() for name in line.split(",") if name.strip()]
        for line in (options.only, options.shops, options.ways)
    ]
    for task in tasks(size, options.seeds):
        asked = all(not names or part in names for names, part in zip(wanted, task.key.split("/"), strict=False))
        if task.key not in results.found and asked:
            results.add(task.key, task.run())
            print(f"{task.key} done", file=sys.stderr, flush=True)
    print("\n".join(report(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
