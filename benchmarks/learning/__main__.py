"""Repeats a part of docs/learning.md and checks that it agrees: `make bench-learning`.

    python -m benchmarks.learning [--examples <archive of trivago>] [--ratings <ml-100k>] [--sessions <diginetica>]

In at most an hour on two cores: of the planted shops two ways through a turn of tastes; where data is given, of the
ranking study four ways, of the ratings all rows, of the next item the counts of co-visits over all periods. A figure
agrees when it lies in the committed one's interval, or near it where there is none. Exit status 1 when one does not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "learning"
WAYS = ("online", "frozen", "replay 20 %", "model deepfm")
PLANTED = ("online", "frozen")
CLOSE = 0.002
"""Of errors of ratings."""
CLOSE_REGRET = 0.02
"""Of regrets before and at the end: what other sums of the same numbers move, on another processor."""
CLOSE_PERCENT = 0.05
"""Of Recall and MRR in percent, of counts."""


def main() -> int:
    """Run the planted part, and what data is given for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=Path, help="archive of examples that the ranking study is of")
    parser.add_argument("--ratings", type=Path, help="folder of ml-100k")
    parser.add_argument("--sessions", type=Path, help="folder of diginetica")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [line for study, lines in _studies(options, Path(folder)) for line in lines]
    for sentence, agrees in found:
        print(f"{'agrees ' if agrees else 'DIFFERS'}  {sentence}")
    return 0 if all(agrees for _, agrees in found) else 1


def _studies(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """Name and sentences of each study that there is data for."""
    asked = {
        "planted": (_planted, True, "--seeds", "1", "--only", "drift", "--ways", ",".join(PLANTED), "--shops", "taste"),
        "trivago": (_ranking, options.examples, "--examples", str(options.examples), "--only", ",".join(WAYS)),
        "ratings": (_ratings, options.ratings, "--data", str(options.ratings)),
        "diginetica": (_sessions, options.sessions, "--data", str(options.sessions), "--rows", "covisits"),
    }
    for name, (compare, wanted, *arguments) in asked.items():
        if wanted:
            out = folder / f"{name}.json"
            _run({"trivago": "ranking"}.get(name, name), "--out", str(out), *arguments)
            yield name, list(compare(_read(out), _read(RESULTS / f"{name}.json")))


def _planted(now: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    for name, found in now["results"].items():
        old = then["results"][name]
        for figure in ("before", "final"):
            sentence = f"{name}: regret {figure} {found[figure]:.3f}, was {old[figure]:.3f}"
            yield sentence, abs(found[figure] - old[figure]) <= CLOSE_REGRET


def _sessions(now: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    for name, row in now["rows"].items():
        was = {period["period"]: period for period in then["rows"][name]["periods"]}
        for figure in ("recall", "mrr"):
            values = [(period[figure], was[period["period"]][figure]) for period in row["periods"]]
            mean, old = (sum(column) / len(values) for column in zip(*values, strict=True))
            sentence = f"{name}: {figure} {mean:.2f}, was {old:.2f}, of {len(values)} periods"
            yield sentence, abs(mean - old) <= CLOSE_PERCENT


def _ranking(now: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    for name in WAYS:
        for figure in ("mrr", "auc"):
            value, old = now["results"][name][figure]["value"], then["results"][name][figure]
            sentence = f"{name}: {figure} {value:.4f}, was {old['value']:.4f} [{old['lower']:.4f}, {old['upper']:.4f}]"
            yield sentence, bool(old["lower"] <= value <= old["upper"])


def _ratings(now: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    before = {row["name"]: row["errors"]["whole"] for row in then["rows"]}
    for row in now["rows"]:
        rmse, old = row["errors"]["whole"]["rmse"], before[row["name"]]["rmse"]
        yield f"{row['name']}: RMSE {rmse:.4f}, was {old:.4f}", abs(rmse - old) <= CLOSE


def _run(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", f"benchmarks.learning.{name}", *arguments], cwd=ROOT, check=True)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


if __name__ == "__main__":
    sys.exit(main())
