"""Runs the benchmarks one after the other and writes docs/benchmarks.md from what they found: `make bench`.

    python -m benchmarks [names...] [--quick] [--out results.json]

Each is a process of its own, writes JSON and is described by commit, machine, versions and load. Results lie in
benchmarks/results/, one file each, and are committed; the page is made of them alone. Exit status 1 when a benchmark
failed or found a wrong value. A figure that misses its bar is stated on the page and is no error.
`--quick` shows that everything runs; its figures are marked as such.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.machine import ROOT, commit, load, machine, versions, write_json

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Benchmark:
    """One of them: arguments of `python -m benchmarks.<name>`, and those added by --quick."""

    name: str
    out: str = "--out"
    quick: tuple[str, ...] = ("--quick",)
    data: str = ""
    """Folder of real data that it can use, below that of all data."""


BENCHMARKS = (
    Benchmark("feast_read", "--json", ("--rounds", "2", "--calls", "25")),
    Benchmark("feast_write", "--json", ("--rounds", "3", "--rows", "5000")),
    Benchmark("trainer"),
    Benchmark("streams"),
    Benchmark("rank"),
    Benchmark("search.latency", data="homedepot"),
    Benchmark("freshness"),
    Benchmark("releases"),
)


def run(benchmark: Benchmark, quick: bool, data: Path | None = None) -> dict[str, Any] | None:
    """Run one; its described result, None when it wrote none. `data`: folder of all real data."""
    at, before, began = commit(), load(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        words = [sys.executable, "-m", f"benchmarks.{benchmark.name}", benchmark.out, str(out)]
        if data is not None and benchmark.data:
            words += ["--data", str(data.absolute() / benchmark.data)]
        ended = subprocess.run(
            [*words, *(benchmark.quick if quick else ())], cwd=ROOT, stdout=subprocess.DEVNULL, check=False
        )
        if not out.exists():
            print(f"  {benchmark.name}: ended with {ended.returncode} and wrote nothing", flush=True)
            return None
        result = json.loads(out.read_text())
    return {
        "name": benchmark.name,
        "quick": quick,
        "commit": at,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began),
        "machine": machine(),
        "versions": versions(),
        "load_before": before,
        "load_after": load(),
        "correct": page.correct(benchmark.name, result),
        "result": result,
    }


def run_all(
    chosen: Sequence[Benchmark], quick: bool, results: Path, data: Path | None = None
) -> tuple[list[dict[str, Any]], bool]:
    """Run them in turn and keep each result; (results, whether all ran and all were correct)."""
    found, fine = [], True
    for number, benchmark in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {benchmark.name} (load {load()[0]})", flush=True)
        described = run(benchmark, quick, data)
        if described is None or not described["correct"]:
            fine = False
        if described is not None:
            found.append(described)
            write_json(results / f"{benchmark.name}.json", described)
            for row in page.rows(described):
                print(f"  {row.what}: {row.measured} (wanted: {row.wanted or 'no bar'})", flush=True)
            print(f"  {described['seconds']} s, correct: {described['correct']}", flush=True)
    return found, fine


def main() -> int:
    """Exit status 1 when one failed or was wrong."""
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"default: all of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="few repetitions: does it run?")
    parser.add_argument("--data", type=Path, help="folder with folders of real data, for those that can use some")
    parser.add_argument("--out", type=Path, help="one more file with all results of this run")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.names) - set(names)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(names)}")
    chosen = [b for b in BENCHMARKS if not asked.names or b.name in asked.names]
    found, fine = run_all(chosen, asked.quick, RESULTS, asked.data)
    if asked.out:
        write_json(asked.out, {"results": found})
    PAGE.write_text(page.write(page.read(RESULTS)))
    print(f"{PAGE.relative_to(ROOT)} is written; {'all correct' if fine else 'NOT all ran and were correct'}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
