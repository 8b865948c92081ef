"""Cosines of pairs by an encoder as it comes, and by one tuned on the other folds; kept, so a run goes on."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.judged import Floats, Judged
from services.trainer.text.learner import Learner, Objective
from services.trainer.text.load import load
from services.trainer.text.model import Text
from services.trainer.text.replay import Pairs

BATCH = 48
"""Pairs of a step; a query's titles stand together."""
TEXTS = 1_024
"""Texts encoded and kept at a time."""


@dataclass(frozen=True)
class Tuning:
    """How the encoder of a fold is made."""

    model: str = "default"
    max_tokens: int = 40
    way: str = "top(3, 0.0001)"
    pairs: int = 5_000
    """Learned from, of the training folds, whole queries drawn by hash; one pass."""
    ranked: int = 8_000
    """Other pairs of the training folds, which the ranker learns what the cosine is worth from."""
    seed: int = 0


@dataclass(frozen=True)
class Tuned:
    """A fold's encoder on the pairs that it was not tuned on."""

    places: NDArray[np.int64]
    """Of the pairs: those of the ranker, and those of the test fold."""
    cosines: Floats
    train_s: float
    cpu_s: float
    steps: int


def pairs_of(judged: Judged, places: NDArray[np.int64]) -> Pairs:
    """As the learner takes them: relevance 1 to 3 is a grade 0 to 1."""
    grades = ((judged.relevance[places] - 1) / 2).tolist()
    return Pairs([judged.queries[k] for k in places], [judged.titles[k] for k in places], grades)


def cosines(text: Text, judged: Judged, places: NDArray[np.int64], kept: Path | None = None) -> Floats:
    """Of the pairs at these places; each text is encoded once, and kept in a folder if one is named."""
    queries, titles = ([texts[k] for k in places] for texts in (judged.queries, judged.titles))
    asked = _once(queries, text.queries, kept and kept / "queries")
    given = _once(titles, text.items, kept and kept / "titles")
    return np.array([asked[q] @ given[t] for q, t in zip(queries, titles, strict=True)], np.float64)


def frozen(judged: Judged, state: Path, tuning: Tuning) -> Floats:
    """Cosine of every pair by the encoder as it comes."""
    path = state / f"frozen-{len(judged)}.npy"
    if not path.exists():
        text = load(tuning.model, tuning.max_tokens)
        _save(path, cosines(text, judged, np.arange(len(judged)), state / "frozen"))
    return np.asarray(np.load(path))


def tuned(judged: Judged, fold: int, state: Path, tuning: Tuning) -> Tuned:
    """The encoder tuned without a fold: its cosines of that fold, and of pairs for the ranker."""
    path = state / f"tuned-{len(judged)}-{fold}.npz"
    if not path.exists():
        found = _tune(judged, fold, tuning)
        _save(path, found)
    kept = np.load(path)
    return Tuned(kept["places"], kept["cosines"], *map(float, kept["seconds"]), int(kept["steps"]))


def learn(learner: Learner, judged: Judged, places: NDArray[np.int64], batch: int = BATCH) -> list[float]:
    """One pass in the order of `places`; returns the losses."""
    return [learner.learn(pairs_of(judged, places[k : k + batch])) for k in range(0, len(places), batch)]


def learned_from(judged: Judged, fold: int, tuning: Tuning) -> NDArray[np.int64]:
    """Places of the pairs that the encoder of a fold is tuned on."""
    return _whole_queries(judged, _drawn(judged, fold, tuning), tuning.pairs)[0]


def _drawn(judged: Judged, fold: int, tuning: Tuning) -> NDArray[np.int64]:
    drawn = np.lexsort((judged.group, judged.order(f"tune {tuning.seed}")))
    return np.asarray(drawn[judged.fold[drawn] != fold])


def _tune(judged: Judged, fold: int, tuning: Tuning) -> dict[str, NDArray[Any]]:
    mine, rest = _whole_queries(judged, _drawn(judged, fold, tuning), tuning.pairs)
    others, _ = _whole_queries(judged, rest, tuning.ranked)
    learner = Learner(load(tuning.model, tuning.max_tokens), tuning.way, Objective(), tuning.seed)
    wall, used = time.perf_counter(), time.process_time()
    learn(learner, judged, mine)
    seconds = np.array([time.perf_counter() - wall, time.process_time() - used])
    places = np.concatenate([others, np.flatnonzero(judged.fold == fold)])
    found = cosines(learner.released(), judged, places)
    return {"places": places, "cosines": found, "seconds": seconds, "steps": np.array(learner.steps)}


def _whole_queries(judged: Judged, drawn: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first pairs, to the end of a query at or before `count`, and the rest."""
    if len(drawn) <= count:
        return drawn, drawn[:0]
    ends = np.flatnonzero(np.diff(judged.group[drawn])) + 1
    at = int(ends[ends <= count].max(initial=0))
    return drawn[:at], drawn[at:]


def _once(texts: list[str], encode: Any, kept: Path | None) -> dict[str, NDArray[np.float32]]:
    each, parts = sorted(set(texts), key=lambda text: (len(text), text)), []
    for begin in range(0, len(each), TEXTS):
        path = kept / f"{len(each)}-{begin}.npy" if kept else None
        if path and path.exists():
            parts.append(np.load(path))
            continue
        parts.append(encode(each[begin : begin + TEXTS]))
        if path:
            _save(path, parts[-1])
    return dict(zip(each, np.concatenate(parts), strict=True))


def _save(path: Path, found: Any) -> None:
    """Whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (staging := path.with_suffix(".part")).open("wb") as file:
        np.savez(file, **found) if isinstance(found, dict) else np.save(file, found)
    staging.rename(path)
