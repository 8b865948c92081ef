"""Examples as the joiner writes them: an impression when it appears, and its final labels when its window has ended."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from freshrank.v1.events_pb2 import DEGRADATION_NONE, Context, Impression, ImpressionItem

from services.common import records
from services.common.arms import Split

KEY = records.heads_key(("click", "cart", "purchase"))
SECOND = 1_000_000
WINDOW_US = 20 * SECOND
"""How long clicks are waited for."""


@dataclass(frozen=True)
class Shown:
    """One list that a shopper was shown."""

    user: str
    time_us: int
    arm: str
    clicks: int = 0
    items: tuple[str, ...] = ("a", "b", "c", "d")
    weight: float = 1.0
    degradation: int = DEGRADATION_NONE
    known: bool = False

    @property
    def name(self) -> str:
        """Its impression id."""
        return f"{self.user}@{self.time_us}"

    @property
    def impression(self) -> bytes:
        """As on the log."""
        items = [
            ImpressionItem(item_id=item, position=place, shown=True, category=f"c{place % 2}")
            for place, item in enumerate(self.items)
        ]
        found = Impression(
            impression_id=self.name, user_id=self.user, time_us=self.time_us, arm=self.arm, items=items,
            placement="home", context=Context(device="phone"), degradation=self.degradation,
        )  # fmt: skip
        if self.known:
            found.history.add()
        return found.SerializeToString()


def messages(shown: Iterable[Shown]) -> list[bytes]:
    """Values of the topic in order: each impression when it appears, its labels a window later."""
    shown = list(shown)
    at = [(s.time_us, records.INITIAL, s) for s in shown] + [(s.time_us + WINDOW_US, records.CLOSED, s) for s in shown]
    return [_row(number, kind, time_us, s) for number, (time_us, kind, s) in enumerate(sorted(at, key=lambda a: a[:2]))]


def _row(number: int, kind: int, time_us: int, shown: Shown) -> bytes:
    labels = [int(place < shown.clicks) if kind == records.CLOSED else 0 for place in range(len(shown.items))]
    weight = shown.weight if kind == records.INITIAL else 0.0
    columns: dict[str, object] = {
        "src_offset": [number],
        "src_index": [0],
        "kind": [kind],
        "time_us": [time_us],
        "event_time_us": [shown.time_us],
        "impression_id": [shown.name],
        "user": [shown.user],
        "items": [list(range(len(shown.items)))],
        "labels": [labels],
        "weights": [[weight] * len(shown.items)],
        "impression": [shown.impression],
    }
    return records.encode(records.batch_of(records.EXAMPLES, columns))


@dataclass(frozen=True)
class Crowd:
    """Shoppers who come again and again, some of them fond of clicking: what makes comparing hard."""

    split: Split
    rates: dict[str, float]
    """Clicks per list of each arm."""
    shoppers: int = 400
    every_us: int = 2 * SECOND
    seed: int = 1

    def lists(self, start_us: int, seconds: int) -> list[Shown]:
        """What all of them are shown in that time."""
        rng = np.random.default_rng(self.seed)
        fond = rng.gamma(2.0, 0.5, self.shoppers)
        found = []
        for time_us in range(start_us, start_us + seconds * SECOND, self.every_us):
            for number in rng.permutation(self.shoppers)[: self.shoppers // 4].tolist():
                user, moment = f"user{number}", time_us + int(rng.integers(self.every_us))
                arm = self.split.arm_of(user, moment)
                clicks = int(rng.random() < min(0.95, self.rates[arm] * fond[number]))
                found.append(Shown(user, moment, arm, clicks, known=number % 2 == 0))
        return found
