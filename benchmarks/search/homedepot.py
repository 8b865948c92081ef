"""Queries of a home-improvement shop and titles that people judged: words, vectors, both, tuned, ranked.

    python -m benchmarks.search.homedepot --data DIR --out FILE [--state DIR] [--only rows|incremental] [--json]

DIR holds train.csv.zip of the Home Depot relevance competition. Five folds by query; every row is judged on queries
that nothing it learned from has. Only the title and the query are read. RMSE needs a number from 1 to 3: scores
without one are read as the mean relevance of their 30th part in the training folds. NDCG@10 is over a query's judged
titles, of queries with at least two that differ. Intervals: bootstrap over queries.

What is tuned and what is ranked learn from different queries: a cosine is worth less on queries that its encoder has
not seen, and the ranker has to know how much. The state folder keeps vectors and tuned folds, so a run goes on.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import commit, load, machine, versions, write_json
from benchmarks.search import encoders, incremental, ranker
from benchmarks.search.encoders import Tuned, Tuning
from benchmarks.search.judged import FOLDS, Floats, Judged, calibrated, figures, fused, lines, paired, read
from benchmarks.search.lexical import Features, bm25

SCORED = {
    "word overlap": "overlap",
    "BM25": "bm25",
    "vector, frozen": "frozen",
    "BM25 + vector, frozen": "fused frozen",
    "vector, tuned": "tuned",
    "BM25 + vector, tuned": "fused tuned",
}
"""Rows that are one score, read as relevance by its size."""
COMPARED = (
    ("vector, frozen", "BM25"),
    ("vector, tuned", "BM25"),
    ("BM25 + vector, frozen", "BM25"),
    ("BM25 + vector, tuned", "BM25"),
    ("vector, tuned", "vector, frozen"),
    ("all + tuned, network", "BM25"),
    ("all + tuned, network", "BM25 + vector, tuned"),
    ("all + tuned, network", "all, same pairs, network"),
)


def rows(judged: Judged, state: Path, tuning: Tuning, tell: Callable[[str], None]) -> dict[str, Any]:
    """Every row on every fold."""
    words = Features(list(dict.fromkeys(judged.titles)))
    scores = {"overlap": words.overlap(judged), "bm25": bm25(judged)}
    matrix = words.matrix(judged, scores["bm25"])
    tell("words are done")
    scores["frozen"] = encoders.frozen(judged, state, tuning)
    tell("vectors are done")
    folds = []
    for fold in range(FOLDS):
        folds.append(encoders.tuned(judged, fold, state, tuning))
        tell(f"fold {fold} is tuned: {folds[-1].train_s:.0f} s for {folds[-1].steps} steps")
    scores["tuned"] = np.zeros(len(judged))
    for fold, found in enumerate(folds):
        mine = judged.fold[found.places] == fold
        scores["tuned"][found.places[mine]] = found.cosines[mine]
    for kind in ("frozen", "tuned"):
        scores[f"fused {kind}"] = fused(judged, [scores["bm25"], scores[kind]])
    predicted = {"mean": _by_fold(judged, np.zeros(len(judged)))}
    predicted |= {name: _by_fold(judged, scores[kind]) for name, kind in SCORED.items()}
    ranked = _ranked(judged, matrix, scores["frozen"], folds)
    ordered = {name: scores[kind] for name, kind in SCORED.items()} | ranked
    found = {name: figures(judged, ordered.get(name, p), p) for name, p in (predicted | ranked).items()}
    del found["mean"]["ndcg10"]
    return {
        "rows": found,
        "differences": {f"{a} less {b}": paired(judged, ordered[a], ordered[b]) for a, b in COMPARED},
        "tuning": asdict(tuning) | {
            "train_wall_s": [round(f.train_s, 1) for f in folds], "train_cpu_s": [round(f.cpu_s, 1) for f in folds],
            "steps": [f.steps for f in folds],
        },
        "pairs": len(judged), "queries": len(judged.names), "folds": np.bincount(judged.fold).tolist(),
    }  # fmt: skip


def _by_fold(judged: Judged, scores: Floats) -> Floats:
    out = np.zeros(len(judged))
    for fold in range(FOLDS):
        test = judged.fold == fold
        out[test] = calibrated(scores, judged.relevance, ~test)[test]
    return out


def _ranked(judged: Judged, matrix: ranker.Matrix, frozen: Floats, folds: list[Tuned]) -> dict[str, Floats]:
    """Networks and trees, by what they are told."""
    methods: Mapping[str, Callable[..., Floats]] = {"network": ranker.network, "trees": ranker.trees}
    told = ("words", "all", "all, same pairs", "all + tuned")
    out = {f"{kind}, {name}": np.zeros(len(judged)) for kind in told for name in methods}
    plain = np.column_stack([matrix, frozen.astype(np.float32)])
    for fold, tuned in enumerate(folds):
        test = np.flatnonzero(judged.fold == fold)
        train = np.flatnonzero(judged.fold != fold)
        known = dict(zip(tuned.places.tolist(), tuned.cosines.tolist(), strict=True))
        some = tuned.places[judged.fold[tuned.places] != fold]
        both = [np.column_stack([plain[p], [known[k] for k in p.tolist()]]).astype(np.float32) for p in (some, test)]
        told_of = {
            "words": (train, matrix[train], matrix[test]),
            "all": (train, plain[train], plain[test]),
            "all, same pairs": (some, plain[some], plain[test]),
            "all + tuned": (some, *both),
        }
        for kind, (places, features, asked) in told_of.items():
            for name, method in methods.items():
                out[f"{kind}, {name}"][test] = method(features, judged.relevance[places], asked)
    return out


def main() -> int:
    """Write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv.zip")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--state", type=Path, help="folder that vectors and tuned folds are kept in")
    parser.add_argument("--only", choices=("rows", "incremental"), help="one part; the other stays as it is in --out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    judged, tuning = read(asked.data), Tuning()
    before, found = load(), json.loads(asked.out.read_text()) if asked.out.exists() else {}

    def tell(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        state = asked.state or Path(temporary)
        if asked.only != "incremental":
            found |= rows(judged, state, tuning, tell)
        if asked.only != "rows":
            found["incremental"] = incremental.study(judged, state, tuning, tell=tell)
    found |= {"commit": commit(), "machine": machine(), "load": [before, load()]}
    found["versions"] = versions("transformers", "peft", "tantivy", "tokenizers", "scikit-learn")
    found["threads"] = os.environ.get("OMP_NUM_THREADS", "1")
    write_json(asked.out, found)
    print(json.dumps(found) if asked.json else lines(found.get("rows", {})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
