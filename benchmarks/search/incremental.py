"""An encoder fed judged queries in ten slices: what each way of updating gains on the next slice, costs, and forgets.

Slices are queries by hash. Of each, whole queries are learned from (`LEARNED` pairs) and others are only judged
(`JUDGED` pairs). After the update on slice t, slice t + 1 is judged, which nothing was learned from yet, and slice 0.
RMSE reads relevance off the cosine by a line that is fitted on the judged pairs of slice t.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.encoders import Tuning, cosines, learn
from benchmarks.search.judged import Floats, Judged, ndcg
from services.trainer.text.learner import Learner
from services.trainer.text.load import load

SLICES = 10
LEARNED, JUDGED = 480, 720
WAYS: Mapping[str, str] = {
    "frozen": "frozen()",
    "lora": "lora(8, 16, 0.001)",
    "full": "full(0.00005)",
    "top layers": "top(2, 0.0001)",
    "lora, replay": "lora(8, 16, 0.001), replay(2000, 0.5)",
    "adalora": "adalora(8, 0.5, 0.001, 90)",
}
RETRAIN = "full retrain"
"""One encoder from the start on slices 0 to 8 in a single pass, judged on the last: what a step could at best know."""


@dataclass(frozen=True)
class Slice:
    """Places of its pairs."""

    learned: NDArray[np.int64]
    judged: NDArray[np.int64]


def slices(judged: Judged, learned: int = LEARNED, asked: int = JUDGED) -> list[Slice]:
    """The same for every way."""
    order = np.lexsort((judged.group, judged.order("slice")))
    where = (judged.order("slice")[order] * SLICES).astype(int)
    found = []
    for number in range(SLICES):
        mine = order[where == number]
        at = _to_end(judged, mine, learned)
        found.append(Slice(mine[:at], mine[at : at + _to_end(judged, mine[at:], asked)]))
    return found


def study(
    judged: Judged, state: Path, tuning: Tuning, cut: tuple[int, int] = (LEARNED, JUDGED),
    tell: Callable[[str], None] = print, only: Collection[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Every way, or some of them, each kept in `state` when it is done."""
    parts, found = slices(judged, *cut), {}
    every = {**WAYS, RETRAIN: WAYS["full"]}
    for name, way in {name: way for name, way in every.items() if not only or name in only}.items():
        path = state / f"incremental-{len(judged)}-{name.replace(' ', '-').replace(',', '')}.json"
        if not path.exists():
            learner = Learner(load(tuning.model, tuning.max_tokens), way, seed=tuning.seed)
            steps = _at_once(learner, judged, parts) if name == RETRAIN else _one_by_one(learner, judged, parts, tell)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"way": way, "moving": learner.moving, "steps": steps}))
        found[name] = json.loads(path.read_text())
        found[name] |= summary(found[name]["steps"])
        tell(f"{name}: {found[name]['next']}, forgets {found[name].get('forgotten')}")
    return {"slices": SLICES, "learned": cut[0], "judged": cut[1], "ways": found}


def summary(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over steps; `forgotten` is slice 0 right after it was learned less at the end (NDCG@10 and RMSE)."""
    found: dict[str, Any] = {
        "next": {kind: round(float(np.mean([s["next"][kind] for s in steps])), 5) for kind in ("ndcg10", "rmse")},
        "update_cpu_s": round(float(np.median([s["cpu_s"] for s in steps])), 2),
        "update_wall_s": round(float(np.median([s["wall_s"] for s in steps])), 2),
    }
    if len(steps) > 1:
        first, last = steps[0]["first"], steps[-1]["first"]
        found["forgotten"] = {
            "ndcg10": round(first["ndcg10"] - last["ndcg10"], 5), "rmse": round(last["rmse"] - first["rmse"], 5)
        }  # fmt: skip
    return found


def _one_by_one(
    learner: Learner, judged: Judged, parts: list[Slice], tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    out = []
    for number in range(SLICES - 1):
        spent = _update(learner, judged, parts[number].learned)
        out.append({"slice": number, **spent, **_looked(learner, judged, parts, number)})
        tell(json.dumps(out[-1]))
    return out


def _at_once(learner: Learner, judged: Judged, parts: list[Slice]) -> list[dict[str, Any]]:
    every = np.concatenate([part.learned for part in parts[:-1]])
    spent = _update(learner, judged, every)
    return [{"slice": SLICES - 2, **spent, **_looked(learner, judged, parts, SLICES - 2)}]


def _update(learner: Learner, judged: Judged, places: NDArray[np.int64]) -> dict[str, float]:
    wall, used = time.perf_counter(), time.process_time()
    losses = learn(learner, judged, places)
    return {
        "cpu_s": round(time.process_time() - used, 2),
        "wall_s": round(time.perf_counter() - wall, 2),
        "loss": round(float(np.mean(losses)), 4),
    }


def _looked(learner: Learner, judged: Judged, parts: list[Slice], number: int) -> dict[str, Any]:
    text = learner.text
    now = cosines(text, judged, parts[number].judged)
    line = np.polyfit(now, judged.relevance[parts[number].judged], 1)
    first = now if number == 0 else cosines(text, judged, parts[0].judged)
    after = cosines(text, judged, parts[number + 1].judged)
    return {
        "next": _quality(judged, parts[number + 1].judged, after, line),
        "first": _quality(judged, parts[0].judged, first, line),
    }


def _quality(judged: Judged, places: NDArray[np.int64], found: Floats, line: Floats) -> dict[str, float]:
    scores, chosen = np.zeros(len(judged)), np.zeros(len(judged), bool)
    scores[places], chosen[places] = found, True
    miss = np.clip(np.polyval(line, found), 1, 3) - judged.relevance[places]
    return {"ndcg10": float(ndcg(judged, scores, chosen).mean()), "rmse": float(np.sqrt(np.square(miss).mean()))}


def _to_end(judged: Judged, places: NDArray[np.int64], count: int) -> int:
    """How many pairs to take for `count` at most and no query in halves."""
    if len(places) <= count:
        return len(places)
    ends = np.flatnonzero(np.diff(judged.group[places])) + 1
    return int(ends[ends <= count].max(initial=0))
