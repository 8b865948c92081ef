"""Queries of a home-improvement shop and titles that people judged: words, vectors, both, tuned, ranked.

    python -m benchmarks.search.homedepot --data DIR --out FILE [--state DIR] [--only PART] [--ways NAME ...] [--json]

DIR holds train.csv.zip of the Home Depot relevance competition. Five folds by query; every row is judged on queries
that nothing it learned from has. Only the title and the query are read. RMSE needs a number from 1 to 3: scores
without one are read as the mean relevance of their 30th part in the training folds. NDCG@10 is over a query's judged
titles, of queries with at least two that differ. Intervals: bootstrap over queries.

What is tuned and what is ranked learn from different queries: a cosine is worth less on queries that its encoder has
not seen, and the ranker has to know how much. The state folder keeps vectors and tuned folds, so a run goes on.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import commit, load, machine, versions, write_json
from benchmarks.search import beside, encoders, incremental, ranker
from benchmarks.search.encoders import Tuned, Tuning
from benchmarks.search.judged import FOLDS, Floats, Judged, calibrated, figures, fused, lines, paired, read
from benchmarks.search.lexical import NAMES, Features, bm25

MEAN = "mean, order of chance"
PLAIN = {"word overlap": "overlap", "BM25": "bm25", "vector, frozen": "frozen", "BM25 + vector, frozen": "fused frozen"}
TUNED = {"vector, tuned": "tuned", "BM25 + vector, tuned": "fused tuned"}
"""Rows that are one score, read as relevance by its size."""
COMPARED = (
    ("vector, frozen", "BM25"),
    ("BM25 + vector, frozen", "BM25"),
    ("all, trees", "BM25"),
    ("all, trees", "words, trees"),
    ("vector, tuned", "vector, frozen"),
    ("BM25 + vector, tuned", "BM25"),
    ("all + tuned, trees", "BM25 + vector, tuned"),
    ("all + tuned, trees", "all, same pairs, trees"),
)
PARTS = ("plain", "rows", "incremental", "beside")
Task = tuple[NDArray[np.int64], ranker.Matrix, ranker.Matrix]
"""Of a fold: places learned from, their features, and those of the pairs that are asked."""
METHODS: Mapping[str, Callable[..., Floats]] = {"network": ranker.network, "trees": ranker.trees}


class Rows:
    """Every row on every fold; those of the tuned encoder when the folds are there."""

    def __init__(self, judged: Judged, state: Path, tuning: Tuning, tell: Callable[[str], None]) -> None:
        self._judged, self._state, self._tuning, self._tell = judged, state, tuning, tell
        words = Features(list(dict.fromkeys(judged.titles)))
        self._scores = {"overlap": words.overlap(judged), "bm25": bm25(judged)}
        self._matrix = words.matrix(judged, self._scores["bm25"])
        tell("words are done")
        frozen = encoders.frozen(judged, state, tuning)
        tell("vectors are done")
        self._scores |= {"frozen": frozen, "fused frozen": fused(judged, [self._scores["bm25"], frozen])}
        self._all = np.column_stack([self._matrix, frozen.astype(np.float32)])
        self._ordered: dict[str, Floats] = {}
        self._found: dict[str, Any] = {}

    def plain(self) -> dict[str, Any]:
        """Without tuning."""
        nothing = np.zeros(len(self._judged))
        self._found[MEAN] = figures(self._judged, nothing, _by_fold(self._judged, nothing))
        self._one_score(PLAIN)
        folds = [(np.flatnonzero(self._judged.fold != fold), fold) for fold in range(FOLDS)]
        for told, matrix in (("words", self._matrix), ("all", self._all)):
            self._rank(told, [(train, matrix[train], matrix[self._judged.fold == fold]) for train, fold in folds])
        return self._result()

    def tuned(self) -> dict[str, Any]:
        """With it, after `plain`."""
        judged, folds = self._judged, []
        for fold in range(FOLDS):
            folds.append(encoders.tuned(judged, fold, self._state, self._tuning))
            self._tell(f"fold {fold} is tuned: {folds[-1].train_s:.0f} s for {folds[-1].steps} steps")
        self._scores["tuned"] = np.zeros(len(judged))
        for fold, found in enumerate(folds):
            mine = judged.fold[found.places] == fold
            self._scores["tuned"][found.places[mine]] = found.cosines[mine]
        self._scores["fused tuned"] = fused(judged, [self._scores["bm25"], self._scores["tuned"]])
        self._one_score(TUNED)
        tasks = [self._with_tuned(fold, found) for fold, found in enumerate(folds)]
        self._rank("all, same pairs", [(places, rows[:, :-1], asked[:, :-1]) for places, rows, asked in tasks])
        self._rank("all + tuned", tasks)
        times = {
            "train_wall_s": [round(f.train_s, 1) for f in folds], "train_cpu_s": [round(f.cpu_s, 1) for f in folds],
            "steps": [f.steps for f in folds],
        }  # fmt: skip
        return self._result() | {"tuning": asdict(self._tuning) | times}

    def _one_score(self, names: Mapping[str, str]) -> None:
        for name, kind in names.items():
            self._ordered[name] = self._scores[kind]
            self._found[name] = figures(self._judged, self._scores[kind], _by_fold(self._judged, self._scores[kind]))

    def _rank(self, told: str, tasks: Sequence[Task]) -> None:
        for name, method in METHODS.items():
            out = np.zeros(len(self._judged))
            for fold, (places, rows, asked) in enumerate(tasks):
                out[self._judged.fold == fold] = method(rows, self._judged.relevance[places], asked)
            self._ordered[f"{told}, {name}"] = out
            self._found[f"{told}, {name}"] = figures(self._judged, out, out)
            self._tell(f"{told}, {name}: ranked")

    def _with_tuned(self, fold: int, found: Tuned) -> Task:
        """Pairs that the ranker learns from, their features with the tuned cosine last, and those of the test fold."""
        test = np.flatnonzero(self._judged.fold == fold)
        known = dict(zip(found.places.tolist(), found.cosines.tolist(), strict=True))
        some = found.places[self._judged.fold[found.places] != fold]
        rows, asked = (
            np.column_stack([self._all[places], [known[k] for k in places.tolist()]]).astype(np.float32)
            for places in (some, test)
        )
        return some, rows, asked

    def _result(self) -> dict[str, Any]:
        judged, ordered = self._judged, self._ordered
        compared = [(a, b) for a, b in COMPARED if a in ordered and b in ordered]
        return {
            "rows": self._found,
            "differences": {f"{a} less {b}": paired(judged, ordered[a], ordered[b]) for a, b in compared},
            "features": len(NAMES), "pairs": len(judged), "queries": len(judged.names),
            "folds": np.bincount(judged.fold).tolist(),
        }  # fmt: skip


def _by_fold(judged: Judged, scores: Floats) -> Floats:
    out = np.zeros(len(judged))
    for fold in range(FOLDS):
        test = judged.fold == fold
        out[test] = calibrated(scores, judged.relevance, ~test)[test]
    return out


def main() -> int:
    """Write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv.zip")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--state", type=Path, help="folder that vectors and tuned folds are kept in")
    parser.add_argument("--only", choices=PARTS, help="a part; others stay in --out")
    parser.add_argument("--ways", nargs="*", default=(), help="of the incremental study; all of them if left out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    judged, tuning = read(asked.data), Tuning()
    before, found = load(), json.loads(asked.out.read_text()) if asked.out.exists() else {}

    def tell(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    def keep(part: Mapping[str, Any]) -> None:
        about = {"commit": commit(), "machine": machine(), "load": [before, load()], "threads": 1}
        about["versions"] = versions("transformers", "peft", "tantivy", "tokenizers", "scikit-learn")
        found.update({**part, **about})
        write_json(asked.out, found)

    with tempfile.TemporaryDirectory() as temporary:
        state = asked.state or Path(temporary)
        if asked.only not in ("incremental", "beside"):
            rows = Rows(judged, state, tuning, tell)
            keep(rows.plain())
            tell(lines(found["rows"]))
            keep(rows.tuned() if asked.only != "plain" else {})
        if asked.only in (None, "incremental"):
            keep({"incremental": incremental.study(judged, state, tuning, tell=tell, only=asked.ways)})
        if asked.only in (None, "beside"):
            keep({"beside": beside.study(judged, state, tuning, tell=tell)})
    print(json.dumps(found) if asked.json else lines(found.get("rows", {})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
