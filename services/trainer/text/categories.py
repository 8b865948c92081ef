"""Learns which category a query asks for: a softmax over its vector, from what was chosen after searches.

The encoder moves with every slice, so nothing is learned by steps: kept are the newest searches themselves, each with
the main category of what was chosen, and at a release their vectors by the very encoder that is released are fitted
anew. The newest fifth only judges: a fit that does not tell its categories surely better than how frequent each one
is, is left out, and the figures say so. What is fitted is a function of the searches and of the encoder.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from services.text.categories import OTHER, Categories
from services.trainer.text.searches import Search

Floats = NDArray[np.float32]

LEAST = 100
"""Searches below which nothing is fitted."""
JUDGED = 5
"""One of so many, the newest, judges."""
RARE, MOST = 5, 200
"""Searches of a category below which it has no class of its own, and classes at most."""
PULL = 0.1
"""Weight of half the squared weights, beside the sum of all searches' losses."""
SURE = 2.0
"""Standard errors by which a fit has to be better than frequencies."""
_STEPS = 200


@dataclass(frozen=True)
class Asked:
    """A search with the main category of what was chosen."""

    query: str
    owner: int
    """Key of the shopper."""
    category: str


def asked(search: Search, category_of: Callable[[str], str]) -> Asked | None:
    """The category that most chosen items are of, the first of equals; None when none of them has one.

    >>> asked(Search("tv", 7, 0, ("a", "b", "c"), (0, 1, 2)), {"a": "", "b": "x", "c": "y"}.__getitem__)
    Asked(query='tv', owner=7, category='x')
    """
    found = Counter(filter(None, (category_of(search.items[place]) for place in search.chosen)))
    return Asked(search.query, search.owner, found.most_common(1)[0][0]) if found else None


def fitted(
    kept: Sequence[Asked], encode: Callable[[Sequence[str]], Floats]
) -> tuple[Categories | None, dict[str, float]]:
    """The fit, if it may be used, and its figures; `kept`, the oldest first; `encode`: vectors of queries [n, dim]."""
    learned, judged = kept[: len(kept) - len(kept) // JUDGED], kept[len(kept) - len(kept) // JUDGED :]
    if len(kept) < LEAST:
        return None, {"category_searches": float(len(kept)), "category_used": 0.0}
    names = _names(learned)
    vectors, truth = _vectors(kept, encode), _classes(kept, names)
    counts = np.bincount(truth[: len(learned)], minlength=len(names)) + 1.0
    prior = np.log(counts / counts.sum())
    found = Categories(names, *_softmax(vectors[: len(learned)], truth[: len(learned)], prior))
    figures, better = _judged(found.probabilities(vectors[len(learned) :]), truth[len(learned) :], prior)
    used = better and len(names) > 2
    figures |= {
        "category_searches": float(len(judged)),
        "category_names": len(names) - 1.0,
        "category_used": float(used),
    }
    return found if used else None, figures


def _names(learned: Sequence[Asked]) -> list[str]:
    """The most frequent first, after `OTHER`."""
    counts = Counter(one.category for one in learned).most_common(MOST)
    return [OTHER, *(name for name, count in counts if count >= RARE)]


def _classes(kept: Sequence[Asked], names: Sequence[str]) -> NDArray[np.int64]:
    places = {name: place for place, name in enumerate(names)}
    return np.array([places.get(one.category, 0) for one in kept], np.int64)


def _vectors(kept: Sequence[Asked], encode: Callable[[Sequence[str]], Floats]) -> Floats:
    """[n, dim]; a query that was searched for often is encoded once."""
    places = {query: place for place, query in enumerate(dict.fromkeys(one.query for one in kept))}
    return encode(list(places))[[places[one.query] for one in kept]]


def _softmax(vectors: Floats, truth: NDArray[np.int64], prior: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Weights [C, dim] and bias [C] of multinomial logistic regression, by L-BFGS from the prior."""
    inputs, target = torch.from_numpy(vectors).double(), torch.from_numpy(truth)
    weights = torch.zeros(len(prior), inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(prior, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        wrong = F.cross_entropy(inputs @ weights.T + bias, target, reduction="sum")
        total = (wrong + PULL / 2 * (weights.square().sum() + (bias - torch.tensor(prior)).square().sum())) / len(truth)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach().numpy().astype(np.float32), bias.detach().numpy().astype(np.float32)


def _judged(found: Floats, truth: NDArray[np.int64], prior: NDArray[np.float64]) -> tuple[dict[str, float], bool]:
    """Log-loss and hits on searches [n] that were not fitted, beside those of frequencies; whether surely better."""
    losses = -np.log(np.maximum(found[np.arange(len(truth)), truth], 1e-12))
    gap = losses + prior[truth]
    error = float(gap.std(ddof=1)) / len(gap) ** 0.5
    figures = {
        "category_log_loss": float(losses.mean()),
        "category_prior_log_loss": float(-prior[truth].mean()),
        "category_hits": float((found.argmax(1) == truth).mean()),
        "category_prior_hits": float((prior.argmax() == truth).mean()),
    }
    return figures, bool(gap.mean() + SURE * error < 0)
