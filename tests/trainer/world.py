"""A small shop for the trainer's tests: impressions, clicks that follow a rule, a file of examples."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from freshrank.v1.events_pb2 import Context, HistoryItem, Impression, ImpressionItem

from services.common import records
from services.common.records import CLOSED, EXAMPLES, FLIP, INITIAL
from services.common.spec import FeatureRef, ModelSpec
from services.trainer.examples import Batch, Ranges

SECOND = 1_000_000
START_US = 1_700_000_000 * SECOND

SPEC = ModelSpec(
    user_features=(FeatureRef(1, "clicks_1d", "user_stats"), FeatureRef(2, "views_1d", "user_stats")),
    item_features=(
        FeatureRef(10, "ctr_1d", "item_stats"),
        FeatureRef(11, "price", "cross"),
        FeatureRef(12, "rank", "cross"),
    ),
    row_dim=4,
    history_length=4,
)


@dataclass
class Shop:
    """Impressions of few items; who is clicked depends on the item and on its features."""

    seed: int = 0
    items: int = 40
    users: int = 12
    listed: int = 8
    spec: ModelSpec = SPEC
    made: int = 0
    price: float = 1.0
    """Factor on the prices that features tell."""
    taste: np.ndarray = field(init=False)  # type: ignore[type-arg]

    def __post_init__(self) -> None:
        self.chance = np.random.default_rng(self.seed)
        self.taste = self.chance.normal(size=self.items)

    def impression(self) -> tuple[Impression, list[int]]:
        """One list and the places clicked."""
        self.made += 1
        now = START_US + self.made * SECOND
        user = int(self.chance.integers(self.users))
        chosen = self.chance.choice(self.items, self.listed, replace=False)
        price = self.chance.gamma(2, 20, self.listed)
        rank = self.chance.permutation(self.listed) + 1.0
        logits = self.taste[chosen] * 1.5 - 0.02 * price - 0.3 * rank
        clicked = np.flatnonzero(self.chance.random(self.listed) < 1 / (1 + np.exp(-logits)))
        shown = Impression(
            impression_id=f"{self.made:032x}",
            user_id=f"user-{user}",
            time_us=now,
            context=Context(region="DE", device="phone"),
            user_feature_ids=[ref.id for ref in self.spec.user_features],
            user_features=[float(self.chance.poisson(3)) for _ in self.spec.user_features],
            item_feature_ids=[ref.id for ref in self.spec.item_features],
            items=[
                ImpressionItem(
                    item_id=f"item-{i}",
                    position=k,
                    features=self._features(float(price[k]) * self.price, float(rank[k])),
                    content=[int(i) * 7919 + t for t in range(3)],
                    shown=True,
                )
                for k, i in enumerate(chosen)
            ],
            history=[
                HistoryItem(item_id=f"item-{i}", kind=2, time_us=now - 60 * SECOND, content=[int(i) * 7919])
                for i in self.chance.choice(self.items, 2)
            ],
        )
        return shown, clicked.tolist()

    def _features(self, price: float, rank: float) -> list[float]:
        known = {10: float("nan") if self.chance.random() < 0.2 else float(self.chance.random()), 11: price, 12: rank}
        return [known.get(ref.id, float(self.chance.random())) for ref in self.spec.item_features]

    def rows(self, offset: int) -> list[dict[str, object]]:
        """Examples of one impression: it appears, its clicks flip, it closes."""
        impression, clicked = self.impression()
        every = list(range(len(impression.items)))
        out = [_row(offset, 0, INITIAL, impression, every, [0] * len(every), [1.0] * len(every))]
        for k in clicked:
            part = Impression()
            part.CopyFrom(impression)
            del part.items[:]
            part.items.append(impression.items[k])
            out.append(_row(offset, 1 + k, FLIP, part, [0], [1], [1.0]))
        labels = [int(k in clicked) for k in every]
        return [*out, _row(offset, 100, CLOSED, impression, every, labels, [0.0] * len(every))]

    def messages(self, impressions: int) -> list[bytes]:
        """One message per impression."""
        return [message(self.rows(self.made)) for _ in range(impressions)]


def _row(
    offset: int,
    index: int,
    kind: int,
    impression: Impression,
    items: list[int],
    labels: list[int],
    weights: list[float],
) -> dict[str, object]:
    return {
        "src_offset": offset,
        "src_index": index,
        "kind": kind,
        "time_us": impression.time_us + (60 * SECOND if kind == CLOSED else 0),
        "event_time_us": impression.time_us,
        "received_us": impression.time_us,
        "impression_id": impression.impression_id,
        "user": impression.user_id,
        "items": items,
        "labels": labels,
        "weights": weights,
        "impression": impression.SerializeToString(),
    }


def message(rows: Sequence[Mapping[str, object]]) -> bytes:
    """One message of example rows."""
    return records.encode(records.batch_of(EXAMPLES, {name: [row[name] for row in rows] for name in rows[0]}))


class FileSource:
    """Messages of each partition; how many make a batch depends on where it starts, so that runs can be compared."""

    def __init__(self, logs: Mapping[int, Sequence[bytes]], sizes: Sequence[int] = (2, 1, 3, 1)) -> None:
        self._logs, self._sizes = logs, sizes
        self._at: dict[int, int] = {}

    def seek(self, positions: Mapping[int, int]) -> None:
        self._at = {partition: positions.get(partition, 0) for partition in self._logs}

    def size(self) -> int:
        """Messages of each partition in the next batch."""
        return self._sizes[sum(self._at.values()) % len(self._sizes)]

    def poll(self, timeout_s: float) -> Batch | None:
        size = self.size()
        ends = {p: min(len(self._logs[p]), at + size) for p, at in self._at.items()}
        ranges = {p: (at, ends[p]) for p, at in self._at.items() if ends[p] > at}
        self._at = ends
        return self.read(ranges) if ranges else None

    def read(self, ranges: Ranges) -> Batch:
        return Batch(ranges, {p: self._logs[p][a:b] for p, (a, b) in ranges.items()})

    @property
    def read_so_far(self) -> int:
        """Messages before where it stands."""
        return sum(self._at.values())

    @property
    def done(self) -> bool:
        """True at the end of every partition."""
        return all(at >= len(self._logs[p]) for p, at in self._at.items())


def write_logs(path: Path, logs: Mapping[int, Sequence[bytes]]) -> None:
    """Keep messages in a file, so that another process can read them."""
    path.write_text(json.dumps({str(p): [value.hex() for value in values] for p, values in logs.items()}))


def read_logs(path: Path) -> dict[int, list[bytes]]:
    """The way back."""
    return {int(p): [bytes.fromhex(value) for value in values] for p, values in json.loads(path.read_text()).items()}
