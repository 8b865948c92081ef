"""What a demo shows: a live line while it runs, tables at the end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from freshrank.v1.models_pb2 import Arms
from rich.console import Console
from rich.table import Table

from services.demo.record import Answer, Record
from services.demo.studies import Cost
from services.demo.turns import Turn

FILE_WIDTH = 140
"""Columns when the output goes into a file."""


@dataclass(frozen=True)
class Moment:
    """One second of the demo, as the live line shows it and the report plots it."""

    at_s: float
    events_per_s: float
    answers_per_s: float
    feature_age_ms: float
    row_age_ms: float
    release_age_ms: float
    release: str
    auc: float
    click_rate: float
    lag: int
    memory_mib: float


def moment(record: Record, before: tuple[int, int], at_s: float, seconds: float, lag: int, memory_mib: float) -> Moment:
    """Figures of the last `seconds`; `before` = events and answers counted at their beginning."""
    events, answers = record.events - before[0], record.answers[before[1] :]
    shown = sum(len(a.items) for a in answers)
    return Moment(
        at_s,
        events / seconds,
        len(answers) / seconds,
        _median([a.ages_ms[0] for a in answers if a.ages_ms[0] >= 0]),
        _median([a.ages_ms[2] for a in answers if a.ages_ms[2] >= 0]),
        _median([a.ages_ms[3] for a in answers if a.ages_ms[3] >= 0]),
        answers[-1].release if answers else "",
        record.auc(),
        sum(len(a.clicked) for a in answers) / shown if shown else math.nan,
        lag,
        memory_mib,
    )


def line(now: Moment) -> str:
    """The live line."""
    return (
        f"{now.at_s:5.0f} s  {now.events_per_s:6.0f} events/s  {now.answers_per_s:5.1f} answers/s  "
        f"feature age {duration(now.feature_age_ms)}  row age {duration(now.row_age_ms)}  "
        f"release {now.release or '-'}  AUC {figure(now.auc)}  lag {now.lag}  {now.memory_mib / 1024:.1f} GiB"
    )


_UNITS = (("d", 86_400_000, 2), ("h", 3_600_000, 2), ("s", 1000, 1))
"""Name, milliseconds, and from how many of them on it is used."""


def duration(ms: float) -> str:
    """Milliseconds for people.

    >>> duration(12.3), duration(4500), duration(9e6), duration(1e9), duration(float("nan"))
    ('12 ms', '4.5 s', '2.5 h', '11.6 d', '-')
    """
    if math.isnan(ms):
        return "-"
    for name, size, least in _UNITS:
        if ms >= least * size:
            return f"{ms / size:.1f} {name}"
    return f"{ms:.0f} ms"


def figure(value: float, digits: int = 3) -> str:
    """A figure, or a dash when there is none."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def counts(found: Mapping[str, int]) -> str:
    """Numbers by reason, most first; 0 when there are none.

    >>> counts({"late": 2, "malformed": 3}), counts({})
    ('malformed 3, late 2', '0')
    """
    return ", ".join(f"{name} {n}" for name, n in sorted(found.items(), key=lambda pair: -pair[1])) or "0"


def by_release(answers: Sequence[Answer]) -> list[dict[str, object]]:
    """For each release in the order of serving: answers, AUC, click-through and the click-through without luck."""
    from services.demo.record import auc_of

    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.release, []).append(answer)
    out: list[dict[str, object]] = []
    for release, group in groups.items():
        shown = max(1, sum(len(a.items) for a in group))
        out.append(
            {
                "release": release or "(none yet)",
                "answers": len(group),
                "auc": auc_of(group),
                "ctr": sum(len(a.clicked) for a in group) / shown,
                "expected_ctr": sum(a.expected_clicks for a in group) / shown,
                "latency_p50_ms": float(np.percentile([a.latency_ms for a in group], 50)),
                "latency_p99_ms": float(np.percentile([a.latency_ms for a in group], 99)),
            }
        )
    return out


def release_table(answers: Sequence[Answer]) -> Table:
    """The releases as a table."""
    table = Table("release", "answers", "AUC", "CTR", "CTR without luck", "p50", "p99", title="Releases")
    for row in by_release(answers):
        table.add_row(
            str(row["release"]),
            str(row["answers"]),
            figure(float(str(row["auc"]))),
            figure(float(str(row["ctr"]))),
            figure(float(str(row["expected_ctr"]))),
            duration(float(str(row["latency_p50_ms"]))),
            duration(float(str(row["latency_p99_ms"]))),
        )
    return table


def cost_table(title: str, costs: Sequence[Cost]) -> Table:
    """What freshness or an input is worth, a line each."""
    table = Table("what", "requests", "MRR", "difference", "95 %", "list AUC", "difference", title=title)
    for cost in costs:
        bounds = f"{cost.lower:+.4f} to {cost.upper:+.4f}"
        aucs = (f"{cost.auc:.4f}", f"{cost.auc_difference:+.4f}")
        table.add_row(cost.what, str(cost.requests), f"{cost.mrr:.4f}", f"{cost.difference:+.4f}", bounds, *aucs)
    return table


def facts_table(title: str, facts: Mapping[str, str]) -> Table:
    """Name and value, a line each."""
    table = Table("what", "value", title=title)
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def turns_table(turns: Sequence[Turn]) -> Table:
    """Strategies in turn: releases that passed every gate, and those that did not."""
    table = Table("strategy", "seconds", "served", "refused", title="Strategies in turn")
    for turn in turns:
        name = turn.strategy or "plain"
        table.add_row(name, f"{turn.seconds:.0f}", str(len(turn.promoted)), str(len(turn.refused)))
    return table


def trial_table(arms: Arms) -> Table:
    """The trial: each challenger against the incumbent."""
    title = f"Arms; {arms.incumbent} answers everybody now"
    table = Table(
        "arm", "state", "shoppers", "clicks per list", "incumbent's", "lift, surely between", "why", title=title
    )
    for c in arms.challengers:
        f = c.figures
        names = ("reward", "reward_incumbent")
        between = " and ".join(figure(f[name]) if name in f else "-" for name in ("lift_low", "lift_high"))
        table.add_row(c.arm, c.state, f"{f['units']:.0f}", *(figure(f[name]) for name in names), between, c.reason)
    return table


def ranking_table(title: str, columns: Mapping[str, Sequence[str]]) -> Table:
    """Rankings side by side, one column each."""
    table = Table("place", *columns, title=title)
    for place, row in enumerate(zip(*columns.values(), strict=False), start=1):
        table.add_row(str(place), *row)
    return table


def console() -> Console:
    """Where tables go: colours only on a terminal; elsewhere lines are as long as they are."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=FILE_WIDTH)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan
