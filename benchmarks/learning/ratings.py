"""Ratings learned one at a time in time order: error and speed beside River's published matrix factorisation.

    python -m benchmarks.learning.ratings --data DIR --out ratings.json [--json] [--quick]

DIR holds ml-100k.inter, .user and .item. Every model predicts each rating before it learns it; predictions are cut to
1..5. Settings were chosen on the first 30 % of the log alone: `rest` is what was never looked at for that, `whole` what
is published. River runs with the settings of its notebook on matrix factorisation, from raw ids, as it is meant to be
called; ours from 64-bit keys in batches of 1,000 (any split gives the same bits), and once more from raw ids, hashing
included. Models take turns; samples per second are of processor time, as all are one thread and others on the
machine take wall time from each unequally. Compiling, once per process, is told apart.

River's model knows ids alone, and so do ours where the name says so; the others are told genre and year of items, age
and gender of users.

Before anything is timed, our plain factorisation, started from the rows that River draws, must predict the first 2,000
ratings as River does within 1e-6.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from river import optim, reco

from benchmarks.learning.movielens import Log, items_of, log_of, users_of
from benchmarks.machine import commit, load, machine, versions, write_json
from services.common.ids import keys_of
from services.trainer.ratings.blend import Blend, BlendConfig
from services.trainer.ratings.effects import Effects, EffectsConfig
from services.trainer.ratings.factorisation import FactorConfig, Factorisation
from services.trainer.ratings.keyed_rows import prefixed
from services.trainer.ratings.row_optimisers import SGD

Floats = NDArray[np.float64]
Run = Callable[[Log], tuple[Any, Floats]]
"""Makes a model, lets it predict and learn the log, and returns it with its predictions."""

TUNED = 0.3
BATCH, GATED, TOLERANCE = 1_000, 2_000, 1e-6
RIVER = "River BiasedMF"
SEEDS = (0, 1, 2)
PUBLISHED_SEED = 73
BAR = {"rmse": 0.9479, "mae": 0.7486, "times_river": 10.0}


class Model(Protocol):
    """What ours have in common."""

    def learn(
        self, users: NDArray[np.uint64], items: NDArray[np.uint64], ratings: Floats, times_us: NDArray[np.int64]
    ) -> Floats:
        """Predictions made before learning."""
        ...


def river(seed: int) -> reco.BiasedMF:
    """As in River's notebook, which uses seed 73."""
    return reco.BiasedMF(
        n_factors=10,
        bias_optimizer=optim.SGD(0.025),
        latent_optimizer=optim.SGD(0.05),
        weight_initializer=optim.initializers.Zeros(),
        latent_initializer=optim.initializers.Normal(mu=0.0, sigma=0.1, seed=seed),
        l2_bias=0.0,
        l2_latent=0.0,
    )


def plain(seed: int, dim: int = 10) -> Factorisation:
    """Ours with the same settings; its rows start from draws of its own."""
    return Factorisation(FactorConfig(dim=dim, optimiser=SGD(0.05), bias_share=0.5, sigma=0.1, seed=seed))


def run_river(model: reco.BiasedMF, log: Log) -> tuple[Any, Floats]:
    """One call to predict and one to learn per rating."""
    out = np.empty(len(log))
    for t, (user, item, rating) in enumerate(zip(log.users, log.items, log.ratings.tolist(), strict=True)):
        out[t] = model.predict_one(user=user, item=item)
        model.learn_one(user=user, item=item, y=rating)
    return model, out


def run_mean(log: Log) -> tuple[Any, Floats]:
    """The mean of all ratings before."""
    sums = np.cumsum(log.ratings) - log.ratings
    return None, sums / np.maximum(np.arange(len(log)), 1)


def run_ours(model: Model, log: Log, keys: tuple[NDArray[np.uint64], NDArray[np.uint64]] | None) -> tuple[Any, Floats]:
    """In batches; without keys they are hashed from the raw ids on the way."""
    out = np.empty(len(log))
    for begin in range(0, len(log), BATCH):
        part = slice(begin, begin + BATCH)
        users, items = (keys[0][part], keys[1][part]) if keys else (keys_of(log.users[part]), keys_of(log.items[part]))
        out[part] = model.learn(users, items, log.ratings[part], log.times_us[part])
    return model, out


class Makers:
    """Makes our models, told what is known of users and items."""

    def __init__(self, folder: Path) -> None:
        items, users = items_of(folder), users_of(folder)
        self._items, self._users = (keys_of(items[0]), items[1]), (keys_of(users[0]), users[1])
        self._config = EffectsConfig(item_features=items[1].shape[1], user_features=users[1].shape[1])

    def effects(self) -> Effects:
        """Known features alone."""
        return self._told(Effects(self._config))

    def blend(self, replay: int, seed: int) -> Blend:
        """Both; without replay every rating is learned once, with the steps of River's notebook."""
        optimiser, share = (SGD(0.02, 0.19), 1.65) if replay else (SGD(0.05), 0.5)
        factors = FactorConfig(optimiser=optimiser, bias_share=share, replay=replay, seed=seed)
        made = Blend(BlendConfig(effects=self._config, factors=factors))
        self._told(made.effects)
        return made

    def _told(self, effects: Effects) -> Effects:
        effects.describe_items(*self._items)
        effects.describe_users(*self._users)
        return effects


def models(make: Makers) -> dict[str, Callable[[int], Model]]:
    """Ours by name, from a seed."""
    return {
        "ours: biases": lambda seed: plain(seed, dim=0),
        "ours: plain, River's settings": plain,
        "ours: effects, ids alone": lambda _: Effects(),
        "ours: blend, ids alone": lambda seed: Blend(
            BlendConfig(factors=FactorConfig(optimiser=SGD(0.05), bias_share=0.5, seed=seed))
        ),
        "ours: effects": lambda _: make.effects(),
        "ours: blend, each rating once": lambda seed: make.blend(0, seed),
        "ours: blend, 10 replayed": lambda seed: make.blend(10, seed),
    }


def contestants(make: Makers, log: Log, hashed: bool) -> dict[str, Callable[[int], Run]]:
    """Ours by name, from a seed; `hashed` = from keys that are there already."""
    keys = (keys_of(log.users), keys_of(log.items)) if hashed else None
    return {
        name: lambda seed, of=of: lambda log: run_ours(of(seed), log, keys)  # type: ignore[misc]
        for name, of in models(make).items()
    }


def others() -> dict[str, Callable[[int], Run]]:
    """What ours are compared with. River's seeds count from its published one."""
    return {
        "running mean": lambda _: run_mean,
        RIVER: lambda seed: lambda log: run_river(river(PUBLISHED_SEED + seed), log),
    }


def gate(log: Log) -> dict[str, float]:
    """Largest differences between River and our plain model started from River's rows."""
    model = plain(0)
    starts = _river_rows(log)
    state = model.state()
    for side, rows in starts.items():
        state |= prefixed(side, {"keys": keys_of(rows), "rows": np.array([[0.0, *row] for row in rows.values()])})
        state |= prefixed(side, {name: np.zeros((len(rows), 0)) for name in ("squares", "sums")})
    model.load(state)
    ours = run_ours(model, log, None)[1]
    difference = np.abs(ours - run_river(river(PUBLISHED_SEED), log)[1])
    return {"first_2000": float(difference[:GATED].max()), "whole": float(difference.max())}


def _river_rows(log: Log) -> dict[str, dict[str, Floats]]:
    """What River's initialiser gives to users and items, which it does in the order of their first appearance."""
    drawn, rows = optim.initializers.Normal(mu=0.0, sigma=0.1, seed=PUBLISHED_SEED), {"users": {}, "items": {}}
    for user, item in zip(log.users, log.items, strict=True):
        for side, name in (("users", user), ("items", item)):
            if name not in rows[side]:
                rows[side][name] = drawn(shape=10)
    return rows


def errors(log: Log, predicted: Floats) -> dict[str, dict[str, float]]:
    """RMSE and MAE of the part used for tuning, the rest and the whole."""
    missed, cut = log.ratings - np.clip(predicted, 1, 5), int(TUNED * len(log))
    parts = {"tuned": missed[:cut], "rest": missed[cut:], "whole": missed}
    return {
        name: {"rmse": float(np.sqrt(np.mean(part**2))), "mae": float(np.mean(np.abs(part)))}
        for name, part in parts.items()
    }


def memory(run: Run, log: Log) -> int:
    """Bytes that a model holds after the log, as Python's allocator counts them."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    model, _ = run(log)
    del _
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    del model
    return held


def speeds(runs: dict[str, Run], log: Log, repetitions: int) -> dict[str, dict[str, Any]]:
    """Samples per second of each, taking turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            wall, used = time.perf_counter(), time.process_time()
            run(log)
            taken[name].append((time.process_time() - used, time.perf_counter() - wall))
    return {name: _speed(len(log), times) for name, times in taken.items()}


def _speed(count: int, times: list[tuple[float, float]]) -> dict[str, Any]:
    of_cpu, of_wall = ([round(count / max(pair[k], 1e-9)) for pair in times] for k in (0, 1))
    return {
        "median": statistics.median(of_cpu),
        "min": min(of_cpu),
        "all": of_cpu,
        "wall_median": statistics.median(of_wall),
    }


def compare(folder: Path, first: int | None, repetitions: int) -> dict[str, Any]:
    """The whole result; the gate comes first, and a failed one leaves the rest out."""
    log, make = log_of(folder, first), Makers(folder)
    began = time.perf_counter()
    for of in contestants(make, log, hashed=False).values():
        of(0)(Log(log.users[:2], log.items[:2], log.ratings[:2], log.times_us[:2]))
    result: dict[str, Any] = {"compile_s": round(time.perf_counter() - began, 1), "gate": gate(log)}
    result["correct"] = result["gate"]["first_2000"] <= TOLERANCE
    if not result["correct"]:
        return result
    runs = others() | contestants(make, log, hashed=True)
    raw = {f"{name} (raw ids)": of(0) for name, of in contestants(make, log, hashed=False).items()}
    speed = speeds({name: of(0) for name, of in runs.items()} | raw, log, repetitions)
    result["rows"] = [row(name, of, log, speed) for name, of in runs.items()]
    return result


def row(name: str, of: Callable[[int], Run], log: Log, speed: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All about one model: errors of each seed and their means, speed, memory, and whether it meets the bar."""
    each = [errors(log, of(seed)(log)[1]) for seed in SEEDS]
    mean = {
        part: {figure: float(np.mean([found[part][figure] for found in each])) for figure in ("rmse", "mae")}
        for part in each[0]
    }
    times = {
        f"times_river{at}": round(speed.get(name + mark, speed[name])["median"] / speed[RIVER]["median"], 2)
        for at, mark in (("", ""), ("_raw", " (raw ids)"))
    }
    met = all(found["whole"][figure] <= BAR[figure] for found in each for figure in ("rmse", "mae"))
    return {
        "name": name,
        "errors": mean,
        "errors_by_seed": each,
        "samples_per_s": speed[name],
        "samples_per_s_raw_ids": speed.get(f"{name} (raw ids)"),
        **times,
        "memory_bytes": memory(of(0), log),
        "meets_bar": bool(met and times["times_river"] >= BAR["times_river"]),
    }


def table(result: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{'':30} {'RMSE':>7} {'MAE':>7} {'rest':>7} {'rest':>7} {'k/s':>6} {'x River':>8} {'raw ids':>8} {'MB':>6} bar"
    ]
    for found in result["rows"]:
        speed, cells = found["samples_per_s"]["median"] / 1000, [found["name"].ljust(30)]
        cells += [f"{found['errors'][part][figure]:7.4f}" for part in ("whole", "rest") for figure in ("rmse", "mae")]
        cells += [f"{speed:6.0f} {found['times_river']:8.1f} {found['times_river_raw']:8.1f}"]
        cells += [f"{found['memory_bytes'] / 1e6:6.1f} {'met' if found['meets_bar'] else '-'}"]
        lines.append(" ".join(cells))
    return "\n".join(lines)


def main() -> int:
    """Exit status 1 when the gate fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with ml-100k.inter, .user and .item")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="10,000 ratings, one repetition: does it run?")
    asked = parser.parse_args()
    before = load()
    result = compare(asked.data, 10_000 if asked.quick else None, 1 if asked.quick else 7)
    result |= {"quick": asked.quick, "bar": BAR, "seeds": SEEDS, "river_seed": PUBLISHED_SEED, "batch": BATCH}
    result |= {"commit": commit(), "machine": machine(), "load": [before, load()]}
    result["versions"] = versions() | {name: version(name) for name in ("river", "numba")}
    result["threads"] = os.environ.get("OMP_NUM_THREADS", "unset; nothing here starts threads")
    write_json(asked.out, result)
    gap = result["gate"]
    print(f"gate: {gap['first_2000']:.1e} on the first 2,000, {gap['whole']:.1e} on all", file=sys.stderr)
    if not result["correct"]:
        return 1
    print(json.dumps(result) if asked.json else table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
