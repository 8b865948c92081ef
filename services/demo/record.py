"""What the driver saw: acknowledgements for the ledger, answers and clicks for the figures.

Kept in memory as columns and written as Parquet at the end; the oracle reads only these files, the log and the stores.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass
class Answer:
    """One answered request as the shopper saw it."""

    at_us: int
    release: str
    degradation: int
    token: str
    items: list[str]
    scores: list[float]
    latency_ms: float
    ages_ms: tuple[float, float, float, float]
    clicked: set[str] = field(default_factory=set)
    expected_clicks: float = 0.0
    wanted: str = ""


class Record:
    """Collects what was sent and answered; gives running figures."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.acks: dict[str, list[object]] = defaultdict(list)
        self.refused: dict[str, int] = defaultdict(int)
        self.failed: dict[str, int] = defaultdict(int)
        self.events = 0
        self._recent: deque[Answer] = deque(maxlen=600)

    def answered(self, answer: Answer) -> None:
        """Keep an answer."""
        self.answers.append(answer)
        self._recent.append(answer)

    def acknowledged(self, event_id: str, user_id: str, kind: int, partition: int, offset: int, at_us: int) -> None:
        """Keep the place of an event that the gateway acknowledged."""
        self.events += 1
        for name, value in zip(
            ("event_id", "user_id", "kind", "partition", "offset", "at_us"),
            (event_id, user_id, kind, partition, offset, at_us),
            strict=True,
        ):
            self.acks[name].append(value)

    def auc(self) -> float:
        """AUC of the last 600 answers' scores against clicks; NaN without both labels."""
        return auc_of(list(self._recent))

    def write(self, folder: Path) -> None:
        """Write acks.parquet and answers.parquet."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(dict(self.acks)), folder / "acks.parquet")
        rows = [{**vars(a), "clicked": sorted(a.clicked), "ages_ms": list(a.ages_ms)} for a in self.answers]
        pq.write_table(pa.Table.from_pylist(rows), folder / "answers.parquet")


def auc_of(answers: Sequence[Answer]) -> float:
    """Area under the ROC curve over all shown items, label = clicked; ties count half (Mann-Whitney)."""
    scores = np.array([s for a in answers for s in a.scores])
    labels = np.array([i in a.clicked for a in answers for i in a.items], dtype=bool)
    return auc(scores, labels)


def auc(
    scores: "np.ndarray[tuple[int], np.dtype[np.float64]]", labels: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
) -> float:
    """P(score of a positive > score of a negative) + half of the ties.

    >>> round(auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])), 2)
    0.75
    """
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))
