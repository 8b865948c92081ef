"""How well encoders order what was shown: each list before anything is learned from it. Pure but for the encoder."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from services.trainer import scores
from services.trainer.text.model import Text
from services.trainer.text.searches import Search

FIGURES = ("ndcg10", "mrr")


def figures(text: Text, lists: Sequence[Search]) -> NDArray[np.float64]:
    """NDCG@10 and reciprocal rank of the first chosen item, [lists, 2], where items stand by their cosine."""
    if not lists:
        return np.zeros((0, len(FIGURES)))
    places = {item: k for k, item in enumerate(dict.fromkeys(item for one in lists for item in one.items))}
    queries, items = text.queries([one.query for one in lists]), text.items(list(places))
    found = []
    for one, query in zip(lists, queries, strict=True):
        cosines = items[[places[item] for item in one.items]] @ query
        chosen = np.isin(np.arange(len(one.items)), one.chosen)
        first = int(np.argmax(chosen[np.argsort(-cosines, kind="stable")]))
        found.append((scores.ndcg(chosen, cosines), 1 / (1 + first)))
    return np.array(found)


def spread(lists: Sequence[Search], most: int) -> list[Search]:
    """At most so many of those that can be judged, evenly over all."""
    able = [one for one in lists if one.judged]
    return able if len(able) <= most else [able[k * len(able) // most] for k in range(most)]


class Tally:
    """Sums of figures since the last release, of the encoder that learns and of the one it began from."""

    def __init__(self, sums: Mapping[str, float] | None = None) -> None:
        self.sums: dict[str, float] = dict(sums or {})

    def add(self, own: NDArray[np.float64], base: NDArray[np.float64]) -> None:
        """Figures [n, 2] of the same lists by both."""
        if not len(own):
            return
        self._count("lists", float(len(own)))
        for column, name in enumerate(FIGURES):
            self._count(name, float(own[:, column].sum()))
            self._count(f"base_{name}", float(base[:, column].sum()))

    def means(self) -> dict[str, float]:
        """Means of each figure and `lists`, how many they are over; empty without any."""
        lists = self.sums.get("lists", 0.0)
        if not lists:
            return {}
        return {name: value if name == "lists" else value / lists for name, value in self.sums.items()}

    def _count(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value
