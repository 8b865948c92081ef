"""The section of docs/learning.md on items before their first click, from benchmarks/results/learning/cold.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.publisher.cold.study import helps

_TEXT = """## Items before their first click: rows made from texts

Rows of items with little evidence in three ways: `own`, theirs or none; `text`, the row that a ridge regression makes
of the title's vector (all-MiniLM-L6-v2, 8-bit) until there is an own one; `blended`, what the publisher serves
(docs/decisions/0021). `mean` takes one row for all, what a map that knows no text would say.

    python -m benchmarks.learning.cold --data <online-retail> --out cold.json

{retail}{world}
**What to take from it.** {lesson}
"""

_RETAIL = """**New StockCodes of a gift shop**, {how}:
{visits} of a year's visits ranked beforehand, the whole catalogue (about 3,500 items); {day} of the purchases are of
items new that day, {week} of items new that week. An item counts as offered from the day of its first sale on, which
favours new ones: that it will be sold is why it is there. One seed; intervals of 95 %: bootstrap over {days} days;
differences from `own` day by day.

{table}

The map, month by month, on items it was not fitted on: R² {r2}; log-loss saved against no rows, in thousandths
(standard error): {gains}.
The publisher would use it in {used} of {months} months.

"""

_WORLD = """**The simulator, closed** (`services/demo/world.py`): ten new items a day, what is shown is what is learned,
expected clicks by the planted truth; a shop of each way for {seeds} seeds, mean [least, most].

{table}

"""

LESSON = """Where rows alone know what is liked, a text tells about a fifth of what they differ in, and saves log-loss
on hidden items, 1.7 to ten standard errors in every month. What that gains in an order is smaller: new items are told
apart better (AUC of the week's new ones +.02), lists hold a little more of what is bought (+.1 points of 15.6 %). It
does **not** bring new items to the front: a whole catalogue's first twenty hardly hold one of the day either way, and
blended rows take most of the week's away again; those few were bought a fifth as often as the rest of the list, their
rows being of a few sightings. Who wants new items seen has the source `new` of Recommend, `BOOST_NEW` and
exploration. With streaming counts of what is sold, as a shop has them, rows carry little that a text could tell: the
saving is a twentieth, and no order changes that this log can show. In the simulator a title says no more than the
hashed words that every ranker reads: the map explains nothing, and the publisher's judgment all but never uses it. So
it is that judgment, on a shop's own clicks, that makes it safe to have."""

_COLUMNS = (
    ("share_1", "of the first 20 new that day", 100, "%"),
    ("share_7", "new that week", 100, "%"),
    ("hits_7", "bought of those", 100, "%"),
    ("shelf", "bought of the best 5 of the week's", 100, "%"),
    ("auc_1", "AUC among the day's new", 1, ""),
    ("auc_7", "AUC among the week's new", 1, ""),
    ("hits", "bought of the first 20", 100, "%"),
)
_HOW = {
    "rows alone": "without counts of what was sold, so that rows alone know what is liked",
    "with counts": "with streaming counts of what was sold, as the feature repository has them",
}


def section(study: Mapping[str, Any]) -> str:
    """The text with its tables; `study` is a file of results."""
    found = study["results"]
    retail = [_retail(how, _runs(found, f"retail/{how}")) for how in _HOW if _runs(found, f"retail/{how}")]
    ways = {way: _runs(found, f"world/{way}") for way in ("own", "blended")}
    return _TEXT.format(retail="".join(retail), world=_world(ways) if all(ways.values()) else "", lesson=LESSON)


def _runs(found: Mapping[str, Any], prefix: str) -> list[Mapping[str, Any]]:
    return [value for key, value in found.items() if key.rpartition("/")[0] == prefix]


def _retail(how: str, runs: Sequence[Mapping[str, Any]]) -> str:
    run = runs[0]
    head = "| rows | " + " | ".join(title for _, title, _, _ in _COLUMNS) + " |"
    rows = [head, "|---" * (1 + len(_COLUMNS)) + "|"]
    for way, figures in run["ways"].items():
        cells = [_cell(figures[name], scale, unit, way == "own") for name, _, scale, unit in _COLUMNS]
        rows.append(f"| `{way}` | {' | '.join(cells)} |")
    maps = [one for one in run["maps"] if one is not None]
    return _RETAIL.format(
        how=_HOW[how], visits=f"{run['lists']:,.0f}", day=f"{run['bought_1']:.0f}", week=f"{run['bought_7']:.0f}",
        days=run["days"], table="\n".join(rows), r2=", ".join(f"{one['r2']:.2f}" for one in maps),
        gains=", ".join(f"{1e3 * one['gain']:+.2f} ({1e3 * one['error']:.2f})" for one in maps),
        used=sum(helps(one["r2"], one["gain"], one["error"]) for one in maps), months=len(maps),
    )  # fmt: skip


def _cell(found: Mapping[str, Any], scale: float, unit: str, base: bool) -> str:
    if found["value"] is None:
        return "-"
    digits = 2 if scale > 1 else 3
    value, less = found["value"] * scale, found["less_own"]
    said = f"{value:.{digits}f}{unit}"
    if base or less["value"] is None or less["value"] == less["lower"] == less["upper"] == 0:
        return said
    low, high = (less[end] * scale for end in ("lower", "upper"))
    return f"{said} ({less['value'] * scale:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}])"


def _world(ways: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    figures = {
        "share of places, items new that day": lambda run: 100 * run["new"] / run["places"],
        "expected clicks per place of those, %": lambda run: 100 * run["new_expected"] / max(run["new"], 1),
        "expected clicks per list": lambda run: run["expected"] / run["lists"],
    }
    rows = ["| figure | `own` | `blended` | difference |", "|---|---|---|---|"]
    for name, of in figures.items():
        own, blended = ([of(run) for run in ways[way]] for way in ("own", "blended"))
        gaps = [one - other for one, other in zip(blended, own, strict=False)]
        rows.append(f"| {name} | {_spread(own)} | {_spread(blended)} | {_spread(gaps, '+')} |")
    days = [one["used"] for run in ways["blended"] for one in run["maps"]]
    rows.append(f"| days on which the map was used | - | {sum(days):.0f} of {len(days)} | |")
    return _WORLD.format(seeds=len(ways["own"]), table="\n".join(rows))


def _spread(values: Sequence[float], sign: str = "") -> str:
    numbers = (sum(values) / len(values), min(values), max(values))
    mean, least, most = (f"{number:{sign}.2f}" for number in numbers)
    return f"{mean} [{least}, {most}]"
