"""What a wrong likeness costs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

POSITIVE = 0.65
"""A grade from here on counts as chosen."""


def contrastive(queries: Tensor, items: Tensor, wrong: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each query's own item among all items (van den Oord et al., 2018; Henderson et al., 2017).

    queries [B, D]; items [B + K, D], the first B each query's own and K others; wrong bool [B, B + K]: which of them
    are wrong answers, so that equal queries and items do not push each other away; weights [B] of the queries.

    >>> one = torch.ones(1, 2)
    >>> contrastive(one, one, torch.zeros(1, 1, dtype=torch.bool), torch.ones(1), 0.05).item()
    0.0
    """
    scores = queries @ items.T / temperature
    own = torch.arange(len(queries), device=scores.device)
    counted = wrong.clone()
    counted[own, own] = True
    each = F.cross_entropy(scores.masked_fill(~counted, float("-inf")), own, reduction="none")
    return (each * weights).sum() / weights.sum().clamp(min=1)


def wrong_answers(queries: Sequence[str], items: Sequence[str], others: Sequence[str]) -> Tensor:
    """bool [B, B + K]: whether the item of a column is a wrong answer to the query of a row, as far as is known.

    It is none when it answered the same query, wherever in the batch.

    >>> wrong_answers(["a", "a", "b"], ["x", "y", "x"], ["y", "z"]).int().tolist()
    [[0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 1, 0, 1, 1]]
    """
    right: dict[str, set[str]] = {}
    for query, item in zip(queries, items, strict=True):
        right.setdefault(query, set()).add(item)
    columns = [*items, *others]
    return torch.tensor([[item not in right[query] for item in columns] for query in queries], dtype=torch.bool)


def graded(cosines: Tensor, grades: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Squared error of grades read off the cosine by a line that is learned with them."""
    return (scale * cosines + shift - grades).square().mean()
