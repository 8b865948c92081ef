"""Private learning with noise on every public row, and on selected ones (docs/privacy.md), at equal epsilon.

    python -m benchmarks.learning.private_rows --out private_rows.json [--quick]

The shop of the tests: 6,000 shoppers with one impression of eight items each, of 40 items. Public are
those, in rounds of 300; or a catalogue of 20,000 of which nobody sees the others, in rounds of 1,000. Judged are the
newest 2,000 lists, each before it is learned. `rows` are those that a round moves and pushes. Selection takes a share
of the budget: its noise is `RATIO` times that of the one mechanism which is as dear as both. Equal seeds give equal
figures but seconds.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq

from benchmarks.machine import commit, machine, write_json
from services.trainer.examples import Batch
from services.trainer.privacy import accountant
from services.trainer.strategies.private import PrivateStrategy
from tests.trainer.privately import items_file
from tests.trainer.strategies.shop import learner
from tests.trainer.world import Shop

EPSILON, DELTA = 8.0, 1e-6
RATIO = 3.0
RATE = 0.03
"""Of the dense part, the same for all ways."""
JUDGED = 2_000
THRESHOLDS = (1.0, 3.0)
"""In deviations of the map's noise: of rows that nobody touches 16 and 0.13 % survive."""


def noise_for(rounds: int) -> float:
    """The noise multiplier with which so many rounds cost EPSILON."""
    return float(brentq(lambda noise: accountant.epsilon({noise: rounds}, DELTA) - EPSILON * 0.999, 0.2, 200))


def ways(rounds: int, size: int) -> Iterator[tuple[str, str]]:
    """Name and setting of each."""
    noise = noise_for(rounds)
    yield "all rows", f"private({EPSILON}, {DELTA}, {noise:.4f}, 1, 8, {size})"
    apart = RATIO * noise
    beside = 1 / np.sqrt(noise**-2 - apart**-2)
    for times in THRESHOLDS:
        text = f"private({EPSILON}, {DELTA}, {beside:.4f}, 1, 8, {size}), selected({apart:.4f}, {times * apart:.4f})"
        yield f"selected, threshold {times:g} deviations", text


def run(folder: Path, privacy: str, public: int, lists: int, seed: int) -> dict[str, Any]:
    """One way through the shop."""
    changes: dict[str, object] = {"store": folder, "privacy": privacy, "privacy_items": items_file(folder, public)}
    plain: dict[str, object] = {"max_rows": 50_000, "window": JUDGED, "learning_rate": RATE, "batch_impressions": 20}
    made = learner(**plain, **changes if privacy else {}, seed=seed)
    shop, moved, rounds, seconds = Shop(seed=seed, users=10**9), list[int](), 0, 0.0
    for k in range(0, lists, 20):
        messages = shop.messages(20)
        began = time.process_time()
        made.apply(Batch({0: (k, k + 20)}, {0: messages}))
        seconds += time.process_time() - began
        if isinstance(made.strategy, PrivateStrategy) and made.strategy.rounds > rounds:
            rounds = made.strategy.rounds
            moved.append(len(made.tables.item.changed()[0]))
    found = made.progress.metrics()
    epsilon = made.strategy.epsilon if isinstance(made.strategy, PrivateStrategy) else None
    return {
        "auc": found["auc"],
        "log_loss": found["log_loss"],
        "epsilon": epsilon,
        "rounds": rounds,
        "rows": float(np.mean(moved)) if moved else None,
        "seconds_per_1000": 1000 * seconds / lists,
    }


def main() -> int:
    """Run all, print all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seeds", type=int, default=2, help="shops of each kind")
    parser.add_argument("--quick", action="store_true", help="small shops: whether it runs, not what comes out")
    options = parser.parse_args()
    lists = 600 if options.quick else 6_000
    plans = [("without privacy", 0, 40, "")]
    for public, size in ((40, lists // 20), (20_000, lists // 6)):
        plans += [(name, size, public, text) for name, text in ways(lists // size, size)]
    results = []
    for name, size, public, text in plans:
        with tempfile.TemporaryDirectory() as folder:
            found = [_in(Path(folder) / str(seed), text, public, lists, seed) for seed in range(1, options.seeds + 1)]
        row = {"name": name, "round": size, "public": public, "privacy": text, "seeds": found}
        print(f"{name}, round {size}, {public} public: {line(found)}", flush=True)
        results.append(row)
        write_json(options.out, {"results": results, "lists": lists, "commit": commit(), "machine": machine()})
    return 0


def _in(folder: Path, text: str, public: int, lists: int, seed: int) -> dict[str, Any]:
    folder.mkdir()
    return run(folder, text, public, lists, seed)


def line(found: list[dict[str, Any]]) -> str:
    """Means of the seeds, and the least and most AUC."""
    mean = {name: np.mean([each[name] for each in found]) for name in ("auc", "log_loss", "seconds_per_1000")}
    aucs = [each["auc"] for each in found]
    rows = "" if found[0]["rows"] is None else f", {np.mean([each['rows'] for each in found]):,.0f} rows a round"
    spent = json.dumps(found[0]["epsilon"])
    return (
        f"AUC {mean['auc']:.3f} [{min(aucs):.3f}, {max(aucs):.3f}], log-loss {mean['log_loss']:.3f}{rows},"
        f" {found[0]['rounds']} rounds, epsilon {spent}, {mean['seconds_per_1000']:.1f} s per 1,000"
    )


if __name__ == "__main__":
    sys.exit(main())
