"""The first table of the learning page: each way on each log it was tried on, what it costs, and when to use it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Studies = Mapping[str, Any]

_TEXT = """## Every way on every log

MRR against the plain step on a day of trivago, Recall@20 / MRR@20 over 16 weeks of diginetica, the regret at the end
of a planted shop whose tastes turned and the seconds until it was back; what an update costs on the first two. Empty:
not tried there, or the way means nothing there. Each figure with its interval and its command is in a table below.

{table}

Ways that are one model or one loss more are in the tables of their study alone and in [techniques.md](techniques.md).
"""

_HEAD = (
    "way",
    "trivago: MRR",
    "s per 1,000",
    "peak MiB",
    "diginetica: Recall / MRR",
    "s an update",
    "tastes turned: regret",
    "back after s",
    "when to use it",
)


@dataclass(frozen=True)
class Way:
    """Names of one way in three studies; empty where it has none."""

    name: str
    use: str
    trivago: str = ""
    diginetica: str = ""
    planted: str = ""


WAYS = (
    Way("plain step, online or by periods", "first, and mostly last", "online", "fine-tune", "online"),
    Way("nothing after the first release", "never: what learning is worth", "frozen", "frozen", "frozen"),
    Way("full retrain", "on a schedule, judged by the gate", diginetica="full-retrain"),
    Way("newest period alone, anew", "never", diginetica="last-period-only"),
    Way("at releases, in epochs", "labels come in batches", "epochs at releases"),
    Way("dropout", "in the base alone", diginetica="dropout"),
    Way("dropout in the base alone", "by periods", diginetica="base-dropout"),
    Way("fusion of old and new weights", "by periods, small updates", "fusion 0.7", "base-fusion", "fusion 0.5"),
    Way("the same beside counts of co-visits", "next item", diginetica="base-fusion-covisits"),
    Way("counts of co-visits alone", "next item, no network wanted", diginetica="covisits"),
    Way("replay", "tastes come back", "replay 50 %", "replay", "replay 50 %"),
    Way("herded exemplars, adaptive distillation", "by periods", diginetica="ader"),
    Way("elastic weights", "a fixed set of tasks", "ewc 10", "ewc", "ewc 100"),
    Way("distillation from the last model", "a teacher that knows more", "distillation 0.3", "distillation"),
    Way("learned transfer (SML)", "by many periods", diginetica="sml"),
    Way("LoRA", "few weights may move", "lora 4", "lora"),
    Way("AdaLoRA", "few weights may move", "adalora 8"),
    Way("last layers", "few weights may move", "top layers"),
    Way("hypergradient step", "tastes turn", "hypergradient", planted="hypergradient"),
    Way("longer steps after a drift", "tastes turn", "drift step", planted="drift step"),
    Way("SGD", "a rate is known", "sgd", planted="sgd, slow"),
    Way("adversarial rows", "-", "adversarial"),
    Way("co-click graph", "-", "co-clicks"),
    Way("pairs (RankNet) beside the loss", "order alone counts", "pairwise"),
    Way("lists (ListNet) beside the loss", "order alone counts", "listwise"),
    Way("labels waited for", "labels come late, tastes stand", "labels waited for"),
    Way("fake negatives weighed", "labels come late", "fake negatives weighed"),
)


def section(studies: Studies) -> str:
    """The table; ways that no study has yet are left out."""
    rows = [row for way in WAYS if any((row := _row(way, studies))[1:-1])]
    lines = [_HEAD, ["---"] * len(_HEAD), *rows]
    return _TEXT.format(table="\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def _row(way: Way, studies: Studies) -> tuple[str, ...]:
    cells = (*_trivago(way.trivago, studies), *_diginetica(way.diginetica, studies), *_planted(way.planted, studies))
    return (way.name, *cells, way.use)


def _trivago(way: str, studies: Studies) -> tuple[str, str, str]:
    found = studies.get("trivago", {}).get("results", {}).get(way)
    if not found:
        return "", "", ""
    change = found["mrr_difference"]["value"]
    told = f"{change:+.4f}" if way != "online" else f"{found['mrr']['value']:.4f}"
    return told, f"{found['seconds_per_1000']:.1f}", f"{found['peak_mib']:.0f}"


def _diginetica(way: str, studies: Studies) -> tuple[str, str]:
    rows = studies.get("diginetica", {}).get("rows", {})
    found = rows.get(f"{way}-1")
    if not found or not found["periods"]:
        return "", ""
    periods = found["periods"]
    recall, mrr = (sum(period[name] for period in periods) / len(periods) for name in ("recall", "mrr"))
    some = "" if len(periods) == 16 else f" ({len(periods)} of 16 periods)"
    spent = [period["train_s"]["cpu"] for period in periods if period["steps"] or way == "covisits"]
    return f"{recall:.2f} / {mrr:.2f}{some}", f"{sum(spent) / len(spent):.0f}"


def _planted(way: str, studies: Studies) -> tuple[str, str]:
    results = studies.get("planted", {}).get("results", {})
    found = [value for key, value in results.items() if key.rpartition("/")[0] == f"drift/taste/{way}"]
    if not found:
        return "", ""
    known = [one["seconds"] for one in found if one["seconds"] is not None]
    missing = len(found) - len(known)
    times = [f"{sum(known) / len(known):,.0f}"] if known else []
    back = ", ".join([*times, *([f"{missing} of {len(found)} never"] if missing else [])])
    return f"{sum(one['final'] for one in found) / len(found):.3f}", back
