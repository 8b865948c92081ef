"""The part of the learning page about shops whose truth is planted: what a change costs, what triggers tell."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]

_TEXT = """## Shops whose truth is planted: what a change costs

{lists:,} lists of ten uniform draws, one list a second; tastes turn by 90 degrees, or half the catalogue is others, at
half time. Regret is exact: the share of the clicks at stake that an order loses among its first three, against the best
order; mean [least, most] of shops. A way is back when the newest ten minutes lose at most 1.2 times what the ten
minutes before the change did; `never` counts the shops where it is not.
{shops}.

    python -m benchmarks.learning.planted --out planted.json --seeds {seeds}

{drift}

**One learner, released by each trigger.** All see the same learner, and what is served is its newest release on current
rows. Before and behind: releases that losses made on either side of the change.

{triggers}

**What detectors tell of a perfect model**, which predicts the truth and does not learn: false alarms a day without any
drift, at one list a second; then seconds from a shift of tastes of some of the shoppers to the first alarm, the click
window of ten minutes included. A trainer's `drift` looks at the surplus, its `performance` at the loss.

{alarms}

**Labels that come late**, 200 s in the mean, in windows of 600 s; judged on the second half of {delay_lists:,} lists.

{delay}
"""


_STUDIES = {"drift": "that change", "triggers": "of triggers", "alarms": "of alarms", "delay": "of late labels"}


def section(study: Found) -> str:
    """Everything there is so far."""
    found = _by_way(study["results"])
    seeds = {name: {key.rpartition("/")[2] for key in study["results"] if key.startswith(name)} for name in _STUDIES}
    size = study["size"]
    return _TEXT.format(
        lists=size["lists"],
        delay_lists=size["delay_lists"],
        shops="Shops of each kind: " + ", ".join(f"{len(seeds[name])} {of}" for name, of in _STUDIES.items()),
        seeds=max(map(len, seeds.values())),
        drift="\n".join(_drift(found)),
        triggers="\n".join(_triggers(found)),
        alarms="\n".join(_alarms(found)),
        delay="\n".join(_delay(found)),
    )


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Mean [least, most] of the seeds; None counts as never.

    >>> spread([1.0, 2.0], 1), spread([60.0, None], 0), spread([None])
    ('1.5 [1.0, 2.0]', '60, 1 never', 'never')
    """
    known = [value for value in values if value is not None]
    if not known:
        return "never"
    least, mean, most = (f"{value:,.{digits}f}" for value in (min(known), statistics.mean(known), max(known)))
    told = mean if least == most else f"{mean} [{least}, {most}]"
    missing = len(values) - len(known)
    return f"{told}, {missing} never" if missing else told


def _by_way(results: Mapping[str, Found]) -> dict[tuple[str, str, str], list[Found]]:
    """Results of all seeds by study, shop and way, in order."""
    out: dict[tuple[str, str, str], list[Found]] = {}
    for key, value in results.items():
        study, shop, way, _ = key.split("/")
        out.setdefault((study, shop, way), []).append(value)
    return out


def _table(head: str, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {head} |"
    yield "|---" * (head.count("|") + 1) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _of(found: Sequence[Found], name: str, digits: int = 3) -> str:
    return spread([each[name] for each in found], digits)


def _through(found: Sequence[Found]) -> list[str]:
    shares = [_of(found, name) for name in ("before", "jump", "final")]
    return [*shares, _of(found, "lost", 0), _of(found, "seconds", 0)]


def _drift(found: Mapping[tuple[str, str, str], list[Found]]) -> Iterator[str]:
    rows = [
        [shop, way, *_through(each), _of(each, "seconds_per_1000", 1)]
        for (study, shop, way), each in sorted(found.items(), key=lambda entry: entry[0][1] != "taste")
        if study == "drift"
    ]
    head = (
        "what changes | way | regret before",
        "ten minutes after | at the end | clicks lost | back after s | s per 1,000",
    )
    yield from _table(" | ".join(head), rows)


def _triggers(found: Mapping[tuple[str, str, str], list[Found]]) -> Iterator[str]:
    rows = []
    for (study, shop, _), each in found.items():
        if study != "triggers":
            continue
        for name in each[0]["served"]:
            served = [one["served"][name] for one in each]
            counts = [_of(served, key, 0) for key in ("releases", "told_before", "told_behind", "told_after_s")]
            losses = "-" if "drift" not in name and "performance" not in name else None
            told = [losses or count for count in counts[1:]]
            ends = (_of(served, "behind"), _of(served, "lost", 0), _of(served, "seconds", 0))
            rows.append([shop, f"`{name}`", counts[0], *told, *ends])
    head = (
        "what changes | trigger | releases | by losses before | behind | first after s | regret behind | clicks lost"
        " | back after s"
    )
    yield from _table(head, rows)


def _alarms(found: Mapping[tuple[str, str, str], list[Found]]) -> Iterator[str]:
    each = {shop: values for (study, shop, _), values in found.items() if study == "alarms"}
    signals = list(next(iter(each.values()))[0]) if each else []
    quiet = [shop for shop in each if shop.startswith("quiet")]
    shifts = [shop for shop in each if shop.startswith("shift")]
    rows = [
        [f"`{signal.partition(' on ')[0]}`", signal.partition(" on ")[2]]
        + [_of(each[shop], signal, 1) for shop in quiet]
        + [_of(each[shop], signal, 0) for shop in shifts]
        for signal in signals
    ]
    yield from _table(" | ".join(["trigger", "looks at", *quiet, *(f"{shop}, s" for shop in shifts)]), rows)


def _delay(found: Mapping[tuple[str, str, str], list[Found]]) -> Iterator[str]:
    rows = [
        [
            shop,
            f"`labels={way}`",
            spread([one["excess_log_loss"]["value"] for one in each], 4),
            spread([one["regret"]["value"] for one in each], 4),
            _of(each, "calibration", 2),
            _of(each, "calibration_error", 2),
        ]
        for (study, shop, way), each in found.items()
        if study == "delay"
    ]
    yield from _table("shop | labels | excess log-loss | regret, clicks a list | calibration | its error", rows)
