"""Smaller parts of the learning page: stars expected by the ranker, and how soon each trigger tells a change."""

from collections.abc import Mapping, Sequence
from typing import Any

_STARS = """## Stars by the ranker's own loop: MovieLens 100K

The same log as above through the trainer's fold: each rating a list of one film, its stars expected before they are
learned, by the heads of a rating (`rated`, `two`, ... `five`). The ranker reads streaming means and counts of shopper
and film, age, gender, year, genres and the five films rated last. {seeds} seed; ratings a second of processor time.

    python -m benchmarks.learning.stars --data <ml-100k> --out stars.json [--models din]

{table}

Models of ratings alone (table above) are nearer and quicker; biases alone are, too. Nothing was searched for here:
rates are the defaults but for a shorter start. The heads are for shops that order lists by several things at once.
"""

_DRIFT = """## How soon each trigger tells a change, and how often one that is none

A served model that was right until the change and does not learn, so that the trigger alone is measured: lists of
four candidates, labels final {delay} lists behind. Impressions from the change to the trigger, median of {streams}
streams, and how many were found before the release that comes 2,000 impressions later anyway (where not all; - none);
false alarms in 500,000 quiet impressions. At one impression a second a day has 86,400.

    python -m benchmarks.learning.drift --out drift.json

{table}

What each is good for is in the trainer's README.
"""

_COMPRESSION = """## Compression of a release: what it saves and costs

A release of 36 features, rows of 16 and layers of 64 and 32, learned from 6,000 simulated impressions of 24 candidates;
AUC and log-loss as changes on the {impressions:,} that came after, from the exported file's (AUC {auc:.4f}). Times are
the fastest of all runs, all ways in turn, one thread, on a busy machine (load {load:.0f}). *Alone*: how far the scores
of one request move when others are in the call.

    python -m tests.publisher.trained DIR
    python -m benchmarks.learning.compression --release DIR/arms/main/exports/<release> --examples DIR/examples.json \\
        --deltas DIR/arms/main/deltas --out compression.json

{ways}

Rows of items that went through a codec:

{rows}

What pays is said in the publisher's README.
"""


def compression(study: Mapping[str, Any]) -> str:
    """Files by plan, rows by codec."""
    ways = [
        (
            found["way"] if found["way"] == "as exported" else f"`{found['way']}`",
            f"{found['bytes']:,}",
            f"{found['gzip_bytes']:,}",
            f"{found['batch_ms']:.2f}",
            f"{found['request_ms']:.3f}",
            f"{found['error']:.2g}",
            f"{found['alone']:.2g}",
            f"{found['auc_change']:+.5f}",
            f"{found['log_loss_rise']:+.2%}",
        )
        for found in study["ways"]
    ]
    head = (
        "way",
        "bytes",
        "gzip",
        "batch 64 x 32, ms",
        "request of 128, ms",
        "score error",
        "alone",
        "AUC",
        "log-loss",
    )
    rows = [
        (
            found["rows"],
            str(found["bytes_a_row"]),
            f"{found['error']:.2g}",
            f"{found['auc_change']:+.1e}",
            f"{found['log_loss_rise']:+.5%}",
        )
        for found in study["rows"]
    ]
    return _COMPRESSION.format(
        impressions=study["impressions"],
        auc=study["ways"][0]["auc"],
        load=study["load"][0],
        ways=_table(head, ways),
        rows=_table(("rows", "bytes a row of 16", "score error", "AUC", "log-loss"), rows),
    )


def stars(study: Mapping[str, Any]) -> str:
    """Errors of the rankers' rating, by model."""
    rows = []
    for key, found in study["results"].items():
        whole, rest = found["errors"]["whole"], found["errors"]["rest"]
        figures = (f"{whole['rmse']:.4f}", f"{whole['mae']:.4f}", f"{rest['rmse']:.4f}", f"{rest['mae']:.4f}")
        rows.append((f"`model={key.split('/')[1]}`", *figures, f"{found['ratings_per_second']:,.0f}"))
    head = ("model", "RMSE", "MAE", "RMSE, last 70 %", "MAE, last 70 %", "ratings a second")
    seeds = len({key.rpartition("/")[2] for key in study["results"]})
    return _STARS.format(seeds="One" if seeds == 1 else seeds, table=_table(head, rows))


def drift(study: Mapping[str, Any]) -> str:
    """A line per trigger, a column per change."""
    head = ("trigger", "false per 100,000", *study["changes"])
    rows = [
        (f"`{text}`", f"{false:g}", *(_cell(change[text], study["streams"]) for change in study["changes"].values()))
        for text, false in study["quiet"].items()
    ]
    return _DRIFT.format(delay=study["delay"], streams=study["streams"], table=_table(head, rows))


def _cell(found: Mapping[str, Any], streams: int) -> str:
    if not found["found"]:
        return "-"
    share = "" if found["found"] == streams else f" ({found['found']} of {streams})"
    return f"{found['impressions']:g}{share}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
