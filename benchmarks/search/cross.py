"""A cross-encoder on the first items of a ranking: what it adds on judged queries, and what a pair costs.

    python -m benchmarks.search.cross --data DIR --out FILE [--pairs N] [--queries N] [--seconds N] [--json]

DIR holds train.csv.zip of the Home Depot relevance competition. The Transformer of the packaged encoder gets a head
and learns grades of whole pairs (binary cross-entropy) in one pass over some of the training folds; the ranker,
boosted trees on words and the frozen cosine, learns from the same pairs. Both are asked about queries of the test
fold. Then the reranker is what it is in service: the exported file in onnxruntime on one thread, pairs of a query at
a time, its order fused with the ranker's by `services.gateway.search.reranker`.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.machine import commit, load, machine, spread, versions, write_json
from benchmarks.search import encoders, ranker
from benchmarks.search.judged import Floats, Judged, figures, lines, paired, read
from benchmarks.search.lexical import Features, bm25
from services.gateway.search.reranker import reranked
from services.text.reranker import OUTPUT, PairTokenizer
from services.trainer.champion import session
from services.trainer.text import reranker as rerankers
from services.trainer.text.load import folder_of, transformer_of
from services.trainer.text.load import load as load_encoder

Ints = NDArray[np.int64]

TEST = 0
"""Fold whose queries are asked."""
RATE, HEAD_RATE, BATCH, WARM = 1e-4, 1e-3, 32, 0.1
SHARES = (0.3, 0.5, 0.8)
"""Of the order that the reranker decides; the gateway's default is among them."""
FORMS: Mapping[str, bool] = {"reranker": False, "reranker, 8 bits": True}


@dataclass(frozen=True)
class Study:
    """How much of everything."""

    model: str = "default"
    max_tokens: int = 48
    pairs: int = 12_000
    """Of the training folds, whole queries drawn by hash: learned from by ranker and reranker, once."""
    queries: int = 600
    """Of the test fold."""
    seconds: float = 300.0
    """Of processor time after which the reranker's pass ends, wherever it is."""
    seed: int = 0


def study(
    judged: Judged, asked: Study, folder: Path, tell: Callable[[str], None], forms: Mapping[str, bool] = FORMS
) -> dict[str, Any]:
    """Every row; `folder`: for the exported files."""
    some, train = chosen(judged, asked)
    test = ~train
    tell(f"{train.sum()} pairs to learn from, {test.sum()} of {len(set(some.group[test]))} queries asked")
    words = Features(list(dict.fromkeys(some.titles)))
    text = load_encoder(asked.model, asked.max_tokens)
    lexical, frozen = bm25(some), encoders.cosines(text, some, np.arange(len(some)))
    features = np.column_stack([words.matrix(some, lexical), frozen]).astype(np.float32)
    ranked = np.zeros(len(some))
    ranked[test] = ranker.trees(features[train], some.relevance[train], features[test])
    tell("the ranker has learned")
    tuned, told = learn(some, np.flatnonzero(train), asked, folder / "model", tell)
    scores = {"BM25": lexical, "vector, frozen": frozen, "ranker": ranked}
    times: dict[str, Any] = {}
    for name, int8 in forms.items():
        rerankers.export(tuned, folder / name, int8)
        scores[name], times[name] = served(folder / name, some, test)
        tell(f"{name}: {times[name]['median']} ms of the processor a pair")
        for share in SHARES:
            scores[f"ranker + {name}, {share:g}"] = fused(some, ranked, scores[name], share, test)
    rows = {name: figures(some, values, None, test) for name, values in scores.items()}
    others = [name for name in scores if name.startswith(("ranker +", "reranker"))]
    return {
        "rows": rows,
        "differences": {f"{name} less ranker": _paired(some, scores[name], ranked, test) for name in others},
        "cpu_ms_a_pair": times, "training": told, "study": asdict(asked), "learned": int(train.sum()),
        "judged": int(test.sum()), "queries": len(set(some.group[test].tolist())),
    }  # fmt: skip


def chosen(judged: Judged, asked: Study) -> tuple[Judged, NDArray[np.bool_]]:
    """The pairs of the study, and which of them are learned from; a query is on one side with all of its pairs."""
    order = judged.order(f"cross {asked.seed}")
    drawn = np.lexsort((judged.group, order))
    learned = drawn[judged.fold[drawn] != TEST][: asked.pairs]
    judges = drawn[judged.fold[drawn] == TEST]
    names = list(dict.fromkeys(judged.group[judges].tolist()))[: asked.queries]
    judges = judges[np.isin(judged.group[judges], names)]
    places = np.concatenate([learned, judges])
    some = Judged([judged.queries[k] for k in places], [judged.titles[k] for k in places], judged.relevance[places])
    return some, np.arange(len(places)) < len(learned)


def learn(
    judged: Judged, places: Ints, asked: Study, folder: Path, tell: Callable[[str], None]
) -> tuple[rerankers.Reranker, dict[str, float]]:
    """One pass in an order of chance; the rate rises, then falls to the end of the pass or of the time."""
    made = rerankers.load(str(begun(asked.model, folder, asked.seed)), asked.max_tokens)
    model, chance = made.model.train(), np.random.Generator(np.random.PCG64(asked.seed))
    torch.manual_seed(asked.seed)  # dropout
    head = list(model.body.classifier.parameters())
    body = [value for name, value in model.named_parameters() if "classifier" not in name]
    optimiser = torch.optim.AdamW([{"params": body, "lr": RATE}, {"params": head, "lr": HEAD_RATE}], weight_decay=0.01)
    rates = [group["lr"] for group in optimiser.param_groups]
    order, losses, began = chance.permutation(places), [], time.process_time()
    wall = time.perf_counter()
    while len(losses) * BATCH < len(order):
        done = max(len(losses) * BATCH / len(order), (time.process_time() - began) / asked.seconds)
        if done >= 1:
            break
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * min(1, done / WARM + 0.01, (1 - done) / (1 - WARM))
        losses.append(_step(made, judged, order[len(losses) * BATCH :][:BATCH], optimiser))
        if not len(losses) % 50:
            tell(f"step {len(losses)}: loss {np.mean(losses[-50:]):.4f}, {time.process_time() - began:.0f} s")
    model.eval()
    told = {
        "steps": len(losses), "pairs": min(len(losses) * BATCH, len(order)),
        "cpu_s": round(time.process_time() - began, 1), "wall_s": round(time.perf_counter() - wall, 1),
        "loss_first": round(float(np.mean(losses[:20])), 4), "loss_last": round(float(np.mean(losses[-20:])), 4),
    }  # fmt: skip
    return made, told


def begun(model: str, folder: Path, seed: int) -> Path:
    """A classifier's folder of an encoder's Transformer with a head that knows nothing."""
    from transformers import AutoModelForSequenceClassification

    source = folder_of(model)[0]
    inside = source / transformer_of(source)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = AutoModelForSequenceClassification.from_pretrained(inside, num_labels=1, local_files_only=True)
    body.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((inside / "tokenizer.json").read_bytes())
    return folder


def _step(made: rerankers.Reranker, judged: Judged, places: Ints, optimiser: torch.optim.Optimizer) -> float:
    arrays = made.tokenizer.each([judged.queries[k] for k in places], [judged.titles[k] for k in places])
    grades = torch.from_numpy(((judged.relevance[places] - 1) / 2).astype(np.float32))
    found = made.model(*map(torch.from_numpy, arrays.values()))[:, 0]
    loss = F.binary_cross_entropy_with_logits(found, grades)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(made.model.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def served(folder: Path, judged: Judged, chosen: NDArray[np.bool_]) -> tuple[Floats, dict[str, float]]:
    """Scores by the exported file, a query at a time, and milliseconds of the processor a pair: tokens and model."""
    runtime, tokens = session((folder / "model.onnx").read_bytes()), PairTokenizer.of(folder)
    out, spent = np.full(len(judged), -np.inf), []
    for places in _by_query(judged, chosen):
        began = time.process_time()
        arrays = tokens.pairs(judged.queries[places[0]], [judged.titles[k] for k in places.tolist()])
        out[places] = runtime.run([OUTPUT], arrays)[0][:, 0]
        spent.append((time.process_time() - began) * 1e3 / len(places))
    return out, spread(spent)


def fused(judged: Judged, first: Floats, second: Floats, share: float, chosen: NDArray[np.bool_]) -> Floats:
    """A number for each pair that falls in the order of both, as the gateway puts them together."""
    out = np.zeros(len(judged))
    for places in _by_query(judged, chosen):
        order = places[np.argsort(-first[places], kind="stable")]
        both, _ = reranked(order, second[order].astype(np.float32), share)
        out[both] = -np.arange(len(both), dtype=np.float64)
    return out


def _by_query(judged: Judged, chosen: NDArray[np.bool_]) -> list[Ints]:
    places = np.flatnonzero(chosen)
    places = places[np.argsort(judged.group[places], kind="stable")]
    return np.split(places, np.flatnonzero(np.diff(judged.group[places])) + 1)


def _paired(judged: Judged, first: Floats, second: Floats, chosen: NDArray[np.bool_]) -> Mapping[str, float]:
    places = np.flatnonzero(chosen)
    asked = Judged([judged.queries[k] for k in places], [judged.titles[k] for k in places], judged.relevance[places])
    return paired(asked, first[places], second[places])


def main() -> int:
    """Write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv.zip")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--pairs", type=int, default=Study.pairs, help="learned from")
    parser.add_argument("--queries", type=int, default=Study.queries, help="of the test fold that are asked")
    parser.add_argument("--seconds", type=float, default=Study.seconds, help="processor time of the training")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    torch.set_num_threads(1)
    before = load()

    def tell(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    asked = Study(pairs=given.pairs, queries=given.queries, seconds=given.seconds)
    with tempfile.TemporaryDirectory() as folder:
        found = study(read(given.data), asked, Path(folder), tell)
    found |= {"commit": commit(), "machine": machine(), "load": [before, load()], "threads": 1}
    found["versions"] = versions("transformers", "tokenizers", "scikit-learn")
    write_json(given.out, found)
    print(json.dumps(found) if given.json else lines(found["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
