"""How soon each trigger tells a change, and how often it tells one that is none.

    python -m benchmarks.learning.drift [--out FILE.json]

Simulated shops: 2,000 shoppers who come unequally often, lists of four candidates, a served model that was right
until the change and does not learn, so that what is measured is the trigger alone. Losses come when labels are final,
`--delay` impressions behind (600 are ten minutes at one a second); features come at once, clicks after 30 impressions
on average. There is a release every 5,000 impressions whatever happens, as `time` makes them, and the change comes
3,000 behind one: what is found within the 2,000 to the next is found in time. Quiet shops count false alarms; behind
each one there is a release, as in life.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import commit, load, machine, versions, write_json
from services.trainer import scores
from services.trainer.distributions import Sample
from services.trainer.expression import parse
from services.trainer.triggers import Trigger

Floats = NDArray[np.float64]

TRIGGERS = (
    "drift(adwin)",
    "drift(page_hinkley)",
    "performance(0.1, 1000)",
    "performance(0.2, 500)",
    "shift(0.1, 2000)",
    "shift(0.2, 2000)",
    "shift(0.2, 1000)",
    "shift(0.2, 500)",
)
NAMES = ("age", "visits", "price", "ctr", "affinity", "place")
LIST, STEP, SHOPPERS = 4, 20, 2_000
RELEASE, BEFORE, AFTER = 5_000, 8_000, 2_000


@dataclass(frozen=True)
class World:
    """What may change: what is true, and what the features say about it."""

    price: float = 1.0
    """Factor on true prices."""
    told: float = 1.0
    """Factor on the prices that features tell, beside that."""
    missing: float = 0.1
    """Share of candidates without a click rate."""
    affinity: float = 1.0
    """What the affinity is worth in a click's logit."""
    season: float = 0.0
    """Added to every logit."""


USUAL = World()
CHANGES: Mapping[str, World] = {
    "prices double, and shoppers mind": replace(USUAL, price=2.0),
    "the feed tells doubled prices": replace(USUAL, told=2.0),
    "half the click rates go missing": replace(USUAL, missing=0.5),
    "taste turns round": replace(USUAL, affinity=-1.0),
    "clicks double": replace(USUAL, season=0.9),
    "clicks halve": replace(USUAL, season=-0.8),
}


@dataclass(frozen=True)
class Told:
    """What a trigger is told in one step."""

    sample: Sample
    losses: list[float]


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x)."""
    out: Floats = 1 / (1 + np.exp(-x))
    return out


def logits(price: Floats, ctr: Floats, affinity: Floats, worth: float) -> Floats:
    """Of a click on each candidate [n, LIST]; a click rate that is not known counts as the usual one."""
    known = np.where(np.isnan(ctr), 0.06, ctr)
    out: Floats = -2.3 + worth * affinity - 0.6 * np.log(price / 40) + 8 * (known - 0.06)
    return out


def stream(seed: int, parts: Sequence[tuple[World, int]], delay: int) -> list[Told]:
    """A shop's steps; `parts`: each world and its impressions."""
    chance = np.random.default_rng(seed)
    n = sum(count for _, count in parts)
    of = [np.repeat([getattr(w, name) for w, _ in parts], [c for _, c in parts])[:, None] for name in vars(USUAL)]
    price_by, told_by, missing, worth, season = of
    who = chance.choice(SHOPPERS, n, p=chance.dirichlet(np.full(SHOPPERS, 2.0)))
    user = np.stack([chance.gamma(4, 10, SHOPPERS), chance.poisson(3, SHOPPERS)], 1)[who].astype(np.float32)
    price, ctr = chance.gamma(2, 20, (n, LIST)) * price_by, chance.beta(2, 30, (n, LIST))
    affinity, place = chance.normal(size=(n, LIST)), chance.integers(1, 20, (n, LIST))
    shopper, unknown = chance.normal(0, 0.5, SHOPPERS)[who][:, None], chance.normal(0, 0.2, (n, LIST))
    clicks = chance.random((n, LIST)) < sigmoid(logits(price, ctr, affinity, worth) + shopper + unknown + season)
    told_ctr = np.where(chance.random((n, LIST)) < missing, np.nan, ctr)
    predicted = sigmoid(logits(price * told_by, told_ctr, affinity, USUAL.affinity)).astype(np.float32)
    losses = [scores.log_loss(c, p) for c, p in zip(clicks, predicted, strict=True)]
    item = np.stack([price * told_by, told_ctr, affinity, place], 2).astype(np.float32)
    clicked = np.flatnonzero(clicks.any(axis=1))
    seen = clicked + chance.exponential(30, len(clicked))
    return _steps(user, item, losses, (clicked, seen), delay)


def _steps(
    user: NDArray[np.float32], item: NDArray[np.float32], losses: list[float], clicks: tuple[Any, Any], delay: int
) -> list[Told]:
    clicked, seen = clicks
    order = np.argsort(seen)
    out = []
    for a, b in pairwise(range(0, len(user) + 1, STEP)):
        first, last = np.searchsorted(seen[order], [a, b])
        ids = frozenset(map(str, clicked[order[first:last]].tolist()))
        sample = Sample(NAMES, user[a:b], item[a:b].reshape(-1, item.shape[2]), ids)
        out.append(Told(sample, losses[max(0, a - delay) : max(0, b - delay)]))
    return out


def alarms(trigger: Trigger, steps: Sequence[Told]) -> list[tuple[int, str]]:
    """Impressions after which it was due, and why; each time, and every RELEASE impressions, there is a release."""
    out = []
    for k, told in enumerate(steps, 1):
        trigger.see(told.losses)
        trigger.watch(told.sample)
        reason = trigger.due(0, k * STEP)
        if reason:
            out.append((k * STEP, reason))
        if reason or k * STEP % RELEASE == 0:
            trigger.fired(0, k * STEP)
    return out


def quiet(streams: int, impressions: int, delay: int) -> dict[str, float]:
    """False alarms per 100,000 impressions of shops where nothing changes."""
    told = [stream(seed, [(USUAL, impressions)], delay) for seed in range(streams)]
    counts = {text: sum(len(alarms(parse(text), steps)) for steps in told) for text in TRIGGERS}
    return {text: round(count * 100_000 / (streams * impressions), 2) for text, count in counts.items()}


def planted(world: World, streams: int, delay: int) -> dict[str, dict[str, Any]]:
    """Of each trigger: streams where it was due between the change and the next release, impressions it took, why."""
    found: dict[str, list[tuple[int, str]]] = {text: [] for text in TRIGGERS}
    for seed in range(1_000, 1_000 + streams):
        steps = stream(seed, [(USUAL, BEFORE), (world, AFTER)], delay)
        for text in TRIGGERS:
            after = [(at - BEFORE, why) for at, why in alarms(parse(text), steps) if at > BEFORE]
            found[text] += after[:1]
    return {
        text: {
            "found": len(cases),
            "impressions": statistics.median(at for at, _ in cases) if cases else None,
            "most": max((at for at, _ in cases), default=None),
            "why": statistics.mode([why.partition("psi of ")[2].rpartition(" ")[0] for _, why in cases])
            if cases
            else "",
        }
        for text, cases in found.items()
    }


def table(found: Mapping[str, Any], streams: int) -> str:
    """Markdown: a line per trigger, a column per change: median impressions, and of how many streams if not of all."""
    head = ["trigger", "false per 100,000", *found["changes"]]
    lines = [head, ["---"] * len(head)]
    for text in TRIGGERS:
        cells = [change[text] for change in found["changes"].values()]
        lines.append([f"`{text}`", f"{found['quiet'][text]:g}", *(_cell(cell, streams) for cell in cells)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(cell: Mapping[str, Any], streams: int) -> str:
    if not cell["found"]:
        return "-"
    share = "" if cell["found"] == streams else f" ({cell['found']} of {streams})"
    return f"{cell['impressions']:g}{share}"


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=20, help="of each change; half as many quiet ones")
    parser.add_argument("--quiet", type=int, default=50_000, help="impressions of a quiet stream")
    parser.add_argument("--delay", type=int, default=600, help="impressions after which labels are final")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = {"machine": machine(), "versions": versions(), "commit": commit(), "load": load(), **vars(given)}
    found["quiet"] = quiet(max(1, given.streams // 2), given.quiet, given.delay)
    found["changes"] = {name: planted(world, given.streams, given.delay) for name, world in CHANGES.items()}
    if given.out:
        write_json(given.out, {**found, "out": given.out.name})
    print(f"{found['machine']}, commit {found['commit']}", file=sys.stderr)
    print(table(found, given.streams))


if __name__ == "__main__":
    main()
