"""docs/learning.md: ways of learning against each other, from the JSON of benchmarks/results/learning."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docs import cold, planted, smaller, speed, summary, trials

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "learning"

HEAD = """# What each way of learning gains and costs

Written by `make docs` from `benchmarks/results/learning/*.json`; edit neither by hand. Each table names the command
that makes its figures, the machine they are of and how often they were taken. Differences are list by list against
the first way of the table, with bootstrap intervals of 95 %: what lies around zero is no difference that this log can
show.
"""

_RANKING = """## Ranking: {lists} lists of one day of a travel site

trivago's sample of the RecSys Challenge 2019 in the order of its log, every impression as it was shown, the newest
half judged, each list before it is learned; a release every 200 impressions and clicks. One pass, one seed.

    make demo DATA=<trivago> LOCKSTEP=1 ARGS="--folder DIR"
    python -m benchmarks.learning.ranking --examples DIR/store/arms/main/examples --out trivago.json

{about}

{table}

**Against deploy lag**, rows and features fresh, dense weights so many seconds old (AUC, MRR):

{lags}

**What to take from it.** {lesson}
"""

_LESSON = """Learning online is what pays: the first release, frozen, has an MRR of .561 where the plain step has
.617. On one day of a log whose features are fresh within the second, nothing beside the plain step improves the
order. No difference that this log can show: elastic weights, a light distillation, adversarial rows, co-clicks,
pseudo-labels, labels that are waited for or weighed (clicks come within seconds here), Adagrad, most of the
networks. Worse: whatever moves fewer weights or moves them less (chosen layers, LoRA, AdaLoRA, fusion with much of
the old, accumulation, SGD), and replay, the more the worse: tastes do not come back within a day, so there is
nothing to protect. Focal loss ranks as well and ruins the probabilities. Choose the plain step with `din`,
`two_tower` or `deepfm`, and look at `freshrank evaluate` on your own archive before anything else is switched on.
Dense weights may be minutes old while rows and features are fresh; features may not (README)."""

_RATINGS = """## Ratings: MovieLens 100K, tested, then learned, in the order of time

    python -m benchmarks.learning.ratings --data <ml-100k> --out ratings.json

{about} Seeds {seeds}; samples a second of processor time, the median of interleaved repetitions.

{table}

River's `BiasedMF` with its published settings was run beside, in turns. `effects` keeps a Gaussian of each user's and
film's taste for what is known (Kalman's filter) and meets both errors at more than ten times River's speed, without
learned factors; the blend with factors is the most exact and slower. Rows with features know genre, year, age and
gender, which River does not.
"""

_SEQUENCE = """## The next item of a session: diginetica, 16 periods

Train on period t-1 from the last weights, be asked every prefix of period t over all items so far (ADER's protocol;
Mi et al., 2020). One seed, one thread ({cpu}). The published figures are of their model; ours is another one.

    python -m benchmarks.learning.diginetica --data <diginetica> --out diginetica.json

{table}

The published rows of that protocol: fine-tune 47.28 / 16.01, dropout 49.07 / 16.86, EWC 47.66 / 16.28, full retrain
50.03 / 17.31, ADER 50.21 / 17.32. Rows of fewer periods were stopped. Settings of the network were chosen on test
scores of the first period, and that dropout belongs to the first and largest training alone (`base-dropout`) on
held-out sessions of periods 1 to 4; means over periods 5 to 16, which chose nothing, stand beside.

**What to take from it.** Count first. `covisits` is no network: items looked at near each other, counted in one pass
of a tenth of a second, and it is above every way of updating the network alone. What the network adds is what counts do
not reach: `base-fusion-covisits` mixes both half and half where counts know enough, and is above the published full
retrain and ADER in Recall and MRR, at the cost of an update of the network. Of the network's own ways fusion of old and
new weights after a base with dropout is the best. `ewc` and `sml` update with dropout throughout, as the row `dropout`
does: beside it elastic weights gain .2 of Recall and .1 of MRR, and learned gates between old and new weights 2.0 and
1.1, which is above plain fine-tuning too. The counts' settings (share, shrinkage, fading) were chosen on the
newest 15 % of sessions of training periods 0 to 4, which took part in no training:

| mixed with the network, means of periods 1-4 | Recall@20 / MRR@20 |
|---|---|
| nothing | 49.62 / 18.13 |
| counts that do not fade, share 0.4 | 52.60 / 18.73 |
| counts that fade to 0.7 a period, share 0.4 | 52.62 / 18.87 |
| the same, share 0.5 (kept) | 52.74 / 18.85 |
| counts that fade to 0.4 a period, share 0.4 | 52.47 / 18.76 |
{retrain}
**What else was tried**, by sessions that begin in the newest 15 % of a training period and take no part in it. They
come within a day of what was learned, where the test is a week long, so they favour what follows the newest clicks.
One seed; Recall@20 / MRR@20. Periods 1 to 4 have some 4,100 such sessions: some tenths say nothing.

| tried | was | gave |
|---|---|---|
| base, 14 passes over its held-out sessions that move all rows | 51.83 / 19.32 | 48.42 / 17.92 |
| base, the same with 4 passes | 51.83 / 19.32 | 51.63 / 19.17 |
| base, 14 passes that move only rows of items that training did not show (kept) | 51.83 / 19.32 | 52.20 / 19.36 |
| `base-fusion`, periods 1-4, passes over held-out sessions that move all rows | 49.41 / 18.12 | 50.55 / 18.35 |
| those passes, and items of which nothing new is known stay | 50.55 / 18.35 | 50.78 / 18.30 |
| those passes, with share 0.5 instead of 0.7 | 50.55 / 18.35 | 48.97 / 18.03 |
| those passes, with 4,000 replayed sessions, periods 1-2 | 51.83 / 18.34 | 50.51 / 17.75 |
| `base-ader` instead of `base-fusion`, period 1, five times the time | 52.47 / 18.71 | 52.31 / 18.33 |

Passes that move all rows help small updates and wear out a base, which has many epochs, so they are not kept. The kept
ones give 0.42 of Recall in periods 1 to 7 and nothing behind them.
"""


_GRAPH = """## Rows over the graph of actions: hidden groups, and films

`lightgcn(layers, 16, 64)` beside plain rows, plain rows at twice their rate, and `co_clicks(0.01)`. Communities:
{lists} lists of ten uniform draws in a shop whose shoppers and items fall into twelve groups that nothing but
clicks tells (0.35 inside the group, 0.03 outside).
ml-100k: every film rated four or more in the order of time, among nine that its shopper never rated, twice as many
lists. Newest half judged, each list before it is learned; {seeds} shops or first weights each, differences of MRR from
plain rows: mean [least, most].

    python -m benchmarks.learning.graph --out graph.json [--ratings <ml-100k>]

{table}

**What to take from it.** Where shoppers and items fall into groups and the model scores their rows against each
other (`factorisation`), smoothed rows find the groups with far fewer lists: MRR +.03 to +.07 with one layer, which
faster rows do not give. With `din` they gain a little, and on films about as much as plain
rows learned at twice the rate do, so there it may be the longer step and not the graph; with `factorisation` the
order of films gets no better, only AUC and log-loss. A second layer pays for few lists a shopper and not for many.
An update costs a quarter to two thirds more. Seconds are of a shared machine.
"""


def page() -> str:
    """The whole page; a study without results is left out."""
    studies = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    parts = [HEAD, summary.section(studies)]
    writers = (
        ("trivago", _ranking),
        ("ratings", _ratings),
        ("stars", smaller.stars),
        ("diginetica", _sequence),
        ("sequence_speed", speed.sequence),
        ("graph", _graph),
        ("planted", planted.section),
        ("drift", smaller.drift),
        ("distributed", speed.distributed),
        ("compression", smaller.compression),
        ("arms", trials.section),
        ("cold", cold.section),
    )
    for name, write in writers:
        if name in studies:
            parts.append(write(studies[name]))
    return "\n".join(parts)


def _ranking(study: Mapping[str, Any]) -> str:
    results = study["results"]
    first = next(iter(results.values()))
    rows = [
        "| way | MRR | difference | AUC | log-loss | calibration | s per 1,000 | peak MiB | settings |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in sorted(results.items(), key=lambda entry: -entry[1]["mrr"]["value"]):
        rows.append(_ranking_row(name, found))
    lags = ["| way | " + " | ".join(f"{float(lag):g} s" for lag in first["late"]) + " |"]
    lags.append("|---" * (1 + len(first["late"])) + "|")
    for name in [n for n in ("online", "frozen", "replay 50 %", "epochs at releases") if n in results]:
        cells = [_late(late) for late in results[name]["late"].values()]
        lags.append(f"| {name} | {' | '.join(cells)} |")
    return _RANKING.format(
        lists=f"{first['lists']:,}", about=_about(study), table="\n".join(rows), lags="\n".join(lags), lesson=_LESSON
    )


def _ranking_row(name: str, found: Mapping[str, Any]) -> str:
    change = found["mrr_difference"]
    told = "-" if not change["value"] else f"{change['value']:+.4f} [{change['lower']:+.4f}, {change['upper']:+.4f}]"
    hidden = ("update_interval", "update_examples")
    settings = ", ".join(f"`{k}={v}`" for k, v in found["settings"].items() if k not in hidden) or "-"
    cells = (
        name,
        f"{found['mrr']['value']:.4f}",
        told,
        f"{found['auc']['value']:.4f}",
        f"{found['log_loss']['value']:.4f}",
        f"{found['calibration']:.2f}",
        f"{found['seconds_per_1000']:.1f}",
        f"{found['peak_mib']:.0f}",
        settings,
    )
    return f"| {' | '.join(cells)} |"


def _late(found: Mapping[str, Any]) -> str:
    auc, mrr = found["auc"]["value"], found["mrr"]["value"]
    return "-" if auc is None or mrr is None else f"{auc:.4f}, {mrr:.4f}"


def _ratings(study: Mapping[str, Any]) -> str:
    rows = ["| way | RMSE | MAE | RMSE, last 70 % | thousand a second | times River |", "|---|---|---|---|---|---|"]
    for row in study["rows"]:
        whole, rest = row["errors"]["whole"], row["errors"]["rest"]
        cells = (
            row["name"],
            f"{whole['rmse']:.4f}",
            f"{whole['mae']:.4f}",
            f"{rest['rmse']:.4f}",
            f"{row['samples_per_s']['median'] / 1000:,.0f}",
            f"{row['times_river']:,.1f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return _RATINGS.format(about=_about(study), seeds=", ".join(map(str, study["seeds"])), table="\n".join(rows))


def _sequence(study: Mapping[str, Any]) -> str:
    rows = [
        "| way | periods | Recall@20 | MRR@20 | Recall@20, 5-16 | MRR@20, 5-16 | s an update |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in study["rows"].values():
        periods = found["periods"]
        late = [period for period in periods if period["period"] >= 5]
        trained = [period["train_s"]["cpu"] for period in periods if period["steps"] or found["row"] == "covisits"]
        cells = (
            found["row"],
            str(len(periods)) if len(periods) == 16 else f"{len(periods)} of 16",
            *(_mean(part, name) for part in (periods, late) for name in ("recall", "mrr")),
            _seconds(sum(trained) / len(trained)),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return _SEQUENCE.format(table="\n".join(rows), cpu=study["about"]["cpu"], retrain=_retrain(study["rows"]))


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 1 else f"{value:.1f}"


def _retrain(found: Mapping[str, Any]) -> str:
    """What an update costs of a full retrain, after the periods that have both; empty without a full retrain."""
    if not {"full-retrain-1", "fine-tune-1"} <= found.keys():
        return ""
    full, tuned = (
        {period["period"]: period["train_s"]["cpu"] for period in found[name]["periods"]}
        for name in ("full-retrain-1", "fine-tune-1")
    )
    both = sorted((full.keys() & tuned.keys()) - {1})
    if not both:
        return ""
    dear, cheap = (sum(seconds[period] for period in both) / len(both) for seconds in (full, tuned))
    when = ", ".join(map(str, both))
    scored = "; ".join(
        f"`{row['row']}` {_mean(same, 'recall')} / {_mean(same, 'mrr')}"
        for row in found.values()
        if len(same := [period for period in row["periods"] if period["period"] in both]) == len(both)
    )
    return (
        f"\nA full retrain takes {dear:.0f} s of processor time where an update of `fine-tune` takes {cheap:.0f} s: "
        f"{dear / cheap:.1f} times as long.\n"
        f"It was made for the questions of these periods alone: {when}. There: {scored}.\n"
    )


def _graph(study: Mapping[str, Any]) -> str:
    head = ("shop", "model", "way", "MRR", "difference", "AUC", "log-loss", "s per 1,000")
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    ways: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for key, found in study["results"].items():
        shop, _, rest = key.rpartition("/")[0].partition("/")
        model, _, way = rest.partition(", ")
        ways.setdefault((shop, model), {}).setdefault(way, []).append(found)
    for shop, model, way, seeds in ((*name, way, found) for name, each in ways.items() for way, found in each.items()):
        changes = [each["mrr_difference"]["value"] for each in seeds if "mrr_difference" in each]
        told = f"{sum(changes) / len(changes):+.4f} [{min(changes):+.4f}, {max(changes):+.4f}]" if changes else "-"
        figures = [f"{sum(each[k]['value'] for each in seeds) / len(seeds):.4f}" for k in ("mrr", "auc", "log_loss")]
        pace = f"{sum(each['seconds_per_1000'] for each in seeds) / len(seeds):.1f}"
        rows.append(f"| {' | '.join((shop, model, way, figures[0], told, *figures[1:], pace))} |")
    least = min(len(seeds) for each in ways.values() for seeds in each.values())
    return _GRAPH.format(lists=f"{study['size']['lists']:,}", seeds=least, table="\n".join(rows))


def _mean(periods: Sequence[Mapping[str, Any]], name: str) -> str:
    return f"{sum(period[name] for period in periods) / len(periods):.2f}" if periods else "-"


def _about(study: Mapping[str, Any]) -> str:
    return "Machine: " + ", ".join(f"{name.replace('_', ' ')} {v}" for name, v in study["machine"].items()) + "."
