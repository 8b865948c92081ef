"""What is done beside tuning: the catalogue is read first, and queries are learned in other forms.

One fold is asked, the same pairs of the others are learned from in every row. Each row is judged on the queries as they
were typed, and with a wrong letter in each: the kinds of typo are those that `varied` learns, their places are not.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.encoders import Tuning, cosines, learn, learned_from
from benchmarks.search.judged import Judged, figures, paired
from services.trainer.text import mlm
from services.trainer.text.learner import Learner, Objective
from services.trainer.text.load import load
from services.trainer.text.variations import mistyped

FOLD = 0


@dataclass(frozen=True)
class Row:
    """One way to an encoder."""

    way: str
    read: bool = False
    """Whether it has read the catalogue first."""


def rows(way: str) -> Mapping[str, Row]:
    """By name; each differs from another in one thing."""
    return {
        "frozen": Row("frozen()"),
        "tuned": Row(way),
        "tuned, varied": Row(f"{way}, varied(0.3)"),
        "catalogue read": Row("frozen()", read=True),
        "catalogue read, tuned": Row(way, read=True),
    }


COMPARED = (("tuned, varied", "tuned"), ("catalogue read", "frozen"), ("catalogue read, tuned", "tuned"))


def study(
    judged: Judged, state: Path, tuning: Tuning, read: int = 20_000, tell: Callable[[str], None] = print
) -> dict[str, Any]:
    """Every row, each kept in `state` when it is done. `read`: titles that are read, once."""
    test = np.flatnonzero(judged.fold == FOLD)
    typed = Judged([judged.queries[k] for k in test], [judged.titles[k] for k in test], judged.relevance[test])
    asked = {"typed": typed, "mistyped": _mistyped(typed)}
    places = learned_from(judged, FOLD, tuning)
    found: dict[str, Any] = {}
    scores: dict[str, dict[str, Any]] = {}
    for name, row in rows(tuning.way).items():
        path = state / f"beside-{len(judged)}-{name.replace(' ', '-').replace(',', '')}.json"
        if not path.exists():
            made = _made(judged, row, state, tuning, read, places, asked)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(made))
        kept = json.loads(path.read_text())
        scores[name] = {kind: np.array(values) for kind, values in kept.pop("scores").items()}
        found[name] = kept | {kind: figures(asked[kind], scores[name][kind], None)["ndcg10"] for kind in asked}
        tell(f"{name}: {found[name]['typed']['value']}, mistyped {found[name]['mistyped']['value']}")
    differences = {
        f"{a} less {b}": {kind: paired(asked[kind], scores[a][kind], scores[b][kind]) for kind in asked}
        for a, b in COMPARED
    }
    return {
        "rows": found,
        "differences": differences,
        "read": read,
        "learned": len(places),
        "queries": len(typed.names),
    }


def _made(
    judged: Judged, row: Row, state: Path, tuning: Tuning, read: int, places: Any, asked: Mapping[str, Judged]
) -> dict[str, Any]:
    model, read_s = (_read(judged, state, tuning, read)) if row.read else (tuning.model, 0.0)
    learner = Learner(load(model, tuning.max_tokens), row.way, Objective(), tuning.seed)
    began = time.process_time()
    if learner.moving:
        learn(learner, judged, places)
    spent, text = time.process_time() - began, learner.released()
    every = {kind: cosines(text, one, np.arange(len(one))).tolist() for kind, one in asked.items()}
    return {"way": row.way, "read_cpu_s": round(read_s, 1), "cpu_s": round(spent, 1), "scores": every}


def _read(judged: Judged, state: Path, tuning: Tuning, count: int) -> tuple[str, float]:
    """The encoder that has read titles, as a folder; and the processor's seconds that took."""
    out = state / f"read-{count}"
    if not (out / "read.json").exists():
        text, titles = load(tuning.model, tuning.max_tokens), list(dict.fromkeys(judged.titles))
        chance = np.random.Generator(np.random.Philox(key=[tuning.seed, 1]))
        some = [titles[k] for k in chance.permutation(len(titles))[:count]]
        began = time.process_time()
        mlm.pretrain(text, some, mlm.Plan(), lambda done: None)
        mlm.write(text, tuning.model, out)
        (out / "read.json").write_text(json.dumps(time.process_time() - began))
    return str(out), float(json.loads((out / "read.json").read_text()))


def _mistyped(judged: Judged) -> Judged:
    """Each query with a wrong letter, where it has a word long enough; two queries never become one."""
    chance = np.random.Generator(np.random.Philox(key=[7, 7]))
    forms: dict[str, str] = {}
    taken = set(judged.names)
    for name in judged.names:
        form = mistyped(name, chance)
        forms[name] = name if form in taken else form
        taken.add(form)
    return Judged([forms[query] for query in judged.queries], judged.titles, judged.relevance)
