"""The section of docs/learning.md on trials between arms, from benchmarks/results/learning/arms.json."""

from collections.abc import Mapping, Sequence
from typing import Any

_TEXT = """## Arms compared on shoppers: how often the trial is right

Trials of half the shoppers each, an error of 5 %, looked at after every period (docs/decisions/0012). *Shops*: planted
ones of 300 shoppers and 6,000 lists, a shopper stays ten minutes; both arms learn every list, a shopper clicks by the
planted truth in the order of his arm. `better`: the incumbent learns slowly; `worse`: the other way round; `equal`:
both are the same; `other seed`: the challenger begins with other weights, so one is better for a while, by luck.
*Crowds*: no learners, shoppers who differ in fondness and business, a fifth of them the challenger's, 16,000 at most.

    python -m benchmarks.learning.arms --out arms.json

{table}

Units are shoppers in periods. An equal arm was promoted in {false} of {null} trials of crowds, of at most 5 % that may
be. Those with other first weights that were promoted lie in the model's first hour, and were truly better by less than
0.02 clicks a list: twins in all but luck, of whom the error lets one in twenty pass. One of 5 % more clicks needs more
shoppers than these trials have, so that a trial has ended by time says little about its challenger.
"""


def section(study: Mapping[str, Any]) -> str:
    """The text with its table; `study` is a file of results."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for key, found in study["results"].items():
        kind, name = key.split("/")[:2]
        groups.setdefault((kind, name), []).append(found)
    rows = [
        "| trials | challenger | promoted | dropped | undecided | true lift, mean | units to the end, median |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [_row(kind, name, trials) for (kind, name), trials in groups.items()]
    null = groups.get(("crowds", "equal"), [])
    return _TEXT.format(table="\n".join(rows), false=_count(null, "promoted"), null=len(null))


def _row(kind: str, name: str, trials: Sequence[Mapping[str, Any]]) -> str:
    units = sorted(trial.get("units", 0) + trial.get("units_incumbent", 0) for trial in trials)
    true = [trial["true_lift"] for trial in trials if "true_lift" in trial]
    cells = (
        f"{len(trials)} {kind}",
        name,
        *(str(_count(trials, state)) for state in ("promoted", "dropped", "running")),
        f"{sum(true) / len(true):+.3f} clicks a list" if true else "-",
        f"{units[len(units) // 2]:,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _count(trials: Sequence[Mapping[str, Any]], state: str) -> int:
    return sum(trial["state"] == state for trial in trials)
