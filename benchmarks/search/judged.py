"""Judged pairs of queries and titles, their folds by query, and what is measured on them."""

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.ids import share_of
from services.text.normal import normal_query

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDS = 5
DEPTH = 10
_DRAWS = 1000


@dataclass(frozen=True)
class Judged:
    """Pairs in the order of the file; relevance from 1 (nothing to do with it) to 3 (exactly this)."""

    queries: list[str]
    titles: list[str]
    relevance: Floats

    def __len__(self) -> int:
        return len(self.queries)

    @cached_property
    def names(self) -> list[str]:
        """Each query once, in order of appearance."""
        return list(dict.fromkeys(self.queries))

    @cached_property
    def group(self) -> Ints:
        """Number of each pair's query in `names`."""
        places = {name: place for place, name in enumerate(self.names)}
        return np.array([places[query] for query in self.queries])

    @cached_property
    def fold(self) -> Ints:
        """0 to 4 for each pair, by a hash of its query: all pairs of a query lie together."""
        of = np.array([int(share_of(name, "fold") * FOLDS) for name in self.names])
        return np.asarray(of[self.group])

    def order(self, salt: str) -> Floats:
        """A number of chance for each pair, equal for pairs of a query."""
        return np.asarray(np.array([share_of(name, salt) for name in self.names])[self.group])


def read(folder: Path) -> Judged:
    """train.csv.zip of the Home Depot competition; bytes are latin-1."""
    with zipfile.ZipFile(folder / "train.csv.zip") as archive, archive.open("train.csv") as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, "latin-1", newline="")))
    return Judged(
        [normal_query(row["search_term"]) or "" for row in rows],
        [" ".join(row["product_title"].split()) for row in rows],
        np.array([float(row["relevance"]) for row in rows]),
    )


def generated(queries: int = 60, seed: int = 0) -> Judged:
    """A shop made up: titles of a colour, a material and a thing; relevance counts what of the query they have.

    In half of the queries a letter of each longer word is missing.
    """
    chance = np.random.Generator(np.random.PCG64(seed))
    words = (["red", "blue", "green", "black", "white"], ["wood", "steel", "glass", "cotton", "leather"],
             ["chair", "lamp", "table", "shoe", "boot", "drill"])  # fmt: skip
    found: list[tuple[str, str, float]] = []
    for number in range(queries):
        asked = [str(chance.choice(kind)) for kind in words]
        typed = [word[:2] + word[3:] if number % 2 and len(word) > 4 else word for word in asked]
        for _ in range(6):
            given = [a if chance.random() < 0.5 else str(chance.choice(k)) for a, k in zip(asked, words, strict=True)]
            title = f"{' '.join(given)} no. {chance.integers(1000)}"
            same = sum(a == g for a, g in zip(asked, given, strict=True))
            found.append((f"{' '.join(typed)} {number}", title, 1 + 2 * same / 3))
    return Judged([f[0] for f in found], [f[1] for f in found], np.array([f[2] for f in found]))


def figures(judged: Judged, scores: Floats, predicted: Floats | None, chosen: NDArray[np.bool_] | None = None) -> Any:
    """NDCG@10 of `scores` and RMSE of `predicted`, with intervals of 95 % by bootstrap over queries."""
    chosen = np.ones(len(judged), bool) if chosen is None else chosen
    gains = ndcg(judged, scores, chosen)
    found: dict[str, Any] = {"ndcg10": _interval(gains, np.ones(len(gains)), lambda x: x)}
    if predicted is not None:
        miss = np.square(np.clip(predicted, 1, 3) - judged.relevance) * chosen
        count = np.bincount(judged.group, chosen.astype(float), len(judged.names))
        summed = np.bincount(judged.group, miss, len(judged.names))
        found["rmse"] = _interval(summed[count > 0], count[count > 0], np.sqrt)
    return found | {"queries": len(gains)}


def ndcg(judged: Judged, scores: Floats, chosen: NDArray[np.bool_]) -> Floats:
    """NDCG@10 of each query with at least two judged titles that differ in relevance; gain 2^(relevance - 1) - 1.

    Equal scores stand in an order of chance, by the hash of the title.
    """
    ties = np.array([share_of(title, "tie") for title in judged.titles])
    gains, out = np.exp2(judged.relevance - 1) - 1, []
    order = np.lexsort((ties, -scores, judged.group))
    order = order[chosen[order]]
    for places in np.split(order, np.flatnonzero(np.diff(judged.group[order])) + 1):
        if len(places) > 1 and np.ptp(gains[places]) > 0:
            best = np.sort(gains[places])[::-1]
            out.append(_gain(gains[places]) / _gain(best))
    return np.array(out)


def paired(judged: Judged, first: Floats, second: Floats) -> dict[str, float]:
    """Difference of NDCG@10, first less second, query by query."""
    every = np.ones(len(judged), bool)
    change = ndcg(judged, first, every) - ndcg(judged, second, every)
    return _interval(change, np.ones(len(change)), lambda x: x)


def _gain(gains: Floats) -> float:
    top = gains[:DEPTH]
    return float((top / np.log2(np.arange(len(top)) + 2)).sum())


def _interval(sums: Floats, counts: Floats, read_as: Any) -> dict[str, float]:
    """A ratio of sums over queries, and what it is in 1,000 draws of as many queries."""
    chance = np.random.Generator(np.random.PCG64(1))
    draws = []
    for _ in range(_DRAWS if len(sums) else 0):
        taken = chance.integers(len(sums), size=len(sums))
        draws.append(float(read_as(sums[taken].sum() / counts[taken].sum())))
    low, high = np.quantile(draws, (0.025, 0.975)) if draws else (np.nan, np.nan)
    value = float(read_as(sums.sum() / counts.sum())) if len(sums) else float("nan")
    return {"value": round(value, 5), "lower": round(float(low), 5), "upper": round(float(high), 5)}


def calibrated(scores: Floats, relevance: Floats, learned: NDArray[np.bool_], bins: int = 30) -> Floats:
    """Relevance read off a score: means of so many equally filled bins of the pairs that are learned from."""
    edges = np.unique(np.quantile(scores[learned], np.linspace(0, 1, bins + 1)[1:-1]))
    places = np.searchsorted(edges, scores)
    count = np.bincount(places[learned], minlength=len(edges) + 1)
    summed = np.bincount(places[learned], relevance[learned], len(edges) + 1)
    mean = float(relevance[learned].mean())
    return np.asarray(((summed + mean) / (count + 1))[places])


def fused(judged: Judged, lists: Sequence[Floats], depth: int = 60) -> Floats:
    """Reciprocal rank fusion (Cormack et al., 2009) of several scores within each query."""
    out = np.zeros(len(judged))
    for scores in lists:
        order = np.lexsort((-scores, judged.group))
        starts = np.flatnonzero(np.r_[True, np.diff(judged.group[order]) > 0])
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        out[order] += 1 / (depth + 1 + rank)
    return out


def lines(found: Mapping[str, Any]) -> str:
    """A table for people."""
    rows = [f"{'':34} {'RMSE':>22} {'NDCG@10':>22}"]
    for name, each in found.items():
        cells = [_cell(each.get("rmse")), _cell(each.get("ndcg10"))]
        rows.append(f"{name:34} {cells[0]:>22} {cells[1]:>22}")
    return "\n".join(rows)


def _cell(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else f"{found['value']:.4f} [{found['lower']:.4f}, {found['upper']:.4f}]"
