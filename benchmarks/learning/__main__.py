"""Repeats a part of docs/learning.md and checks that it agrees: `make bench-learning`.

    python -m benchmarks.learning --examples <archive of trivago> --ratings <ml-100k>

Of the ranking study four ways, of the ratings all rows, in at most an hour on two cores. A figure agrees when it lies
in the committed one's interval, or within 0.002 where there is none. Exit status 1 when one does not.
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
CLOSE = 0.002


def main() -> int:
    """Run what data is given for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=Path, help="archive of examples that the ranking study is of")
    parser.add_argument("--ratings", type=Path, help="folder of ml-100k")
    options = parser.parse_args()
    if not options.examples and not options.ratings:
        parser.error("needs --examples or --ratings")
    found: list[tuple[str, bool]] = []
    with tempfile.TemporaryDirectory() as folder:
        if options.examples:
            out = Path(folder) / "trivago.json"
            _run("ranking", "--examples", str(options.examples), "--out", str(out), "--only", ",".join(WAYS))
            found += _ranking(_read(out), _read(RESULTS / "trivago.json"))
        if options.ratings:
            out = Path(folder) / "ratings.json"
            _run("ratings", "--data", str(options.ratings), "--out", str(out))
            found += _ratings(_read(out), _read(RESULTS / "ratings.json"))
    for sentence, agrees in found:
        print(f"{'agrees ' if agrees else 'DIFFERS'}  {sentence}")
    return 0 if all(agrees for _, agrees in found) else 1


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
