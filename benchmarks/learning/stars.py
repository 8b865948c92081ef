"""Stars expected by the ranker's own loop: ml-100k in the order of time, each rating expected, then learned.

    python -m benchmarks.learning.stars --data <ml-100k> --out stars.json [--ratings N]

Every rating is a list of one film that was shown and rated at once. The ranker reads what streaming features tell (the
mean and the number of ratings of shopper and film so far), age, gender, year, genres as content, and the five films
rated last; its heads are those of a rating (`services/trainer/scale.py`). `benchmarks.learning.ratings` has models of
ratings alone. A run that was broken off goes on where it was.
"""

import argparse
import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from freshrank.v1.events_pb2 import EventKind, HistoryItem, Impression, ImpressionItem
from numpy.typing import NDArray

from benchmarks.learning.movielens import log_of, read, users_of
from benchmarks.learning.planted_results import Results
from services.common import records
from services.common.content import tokens_of
from services.common.records import CLOSED, EXAMPLES, FLIP, INITIAL
from services.common.spec import FeatureRef, ModelSpec
from services.trainer.evaluation.rehearsal import Trial, rehearse
from services.trainer.examples import Batch

STEPS = ("rated", "two", "three", "four", "five")
SPEC = ModelSpec(
    user_features=tuple(
        FeatureRef(k, name, "user_stats") for k, name in enumerate(("mean", "count", "age", "woman"), 1)
    ),
    item_features=tuple(FeatureRef(k, name, "item_stats") for k, name in enumerate(("mean", "count", "year"), 10)),
    heads=STEPS,
    history_length=5,
)
BASE: dict[str, Any] = {
    "loss_weights": dict.fromkeys(STEPS, 1.0),
    "rating": dict.fromkeys(STEPS, 1.0),
    "update_interval": 86_400,
    "batch_items": 40,
    "admission": 1,
    "expiry_days": 10_000,
    "warmup_impressions": 200,
}
WAYS = ("din", "two_tower", "factorisation", "logistic")
MESSAGE = 60
"""Ratings in one."""


class Stars:
    """The messages of one partition, made as they are read: features are folds over what came before."""

    def __init__(self, folder: Path, first: int | None) -> None:
        self.spec, self._log = SPEC, log_of(folder, first)
        films = read(folder / "ml-100k.item")
        self._year = dict(zip(films["item_id"], map(_number, films["release_year"]), strict=True))
        words = [tokens_of(text.split(), "", "") for text in films["class"]]
        self._content = dict(zip(films["item_id"], words, strict=True))
        self._about = dict(zip(*users_of(folder), strict=True))
        self._made: Iterator[tuple[int, bytes]] = iter(())

    @property
    def messages(self) -> int:
        """Messages in all."""
        return -(-len(self._log) // MESSAGE)

    def seek(self, positions: Mapping[int, int]) -> None:
        """To the beginning; nothing else is asked of a rehearsal."""
        self._made = enumerate(self._messages())

    def poll(self) -> Batch | None:
        """See `Log`."""
        found = next(self._made, None)
        return None if found is None else Batch({0: (found[0], found[0] + 1)}, {0: [found[1]]})

    def _messages(self) -> Iterator[bytes]:
        rows: list[tuple[Any, ...]] = []
        for row in self._rows():
            rows.append(row)
            if len(rows) == 3 * MESSAGE:
                yield _message(rows)
                rows = []
        if rows:
            yield _message(rows)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        log, sums = self._log, defaultdict(lambda: np.zeros(2))
        seen: dict[str, deque[HistoryItem]] = defaultdict(lambda: deque(maxlen=SPEC.history_length))
        for k, (user, film, stars, time_us) in enumerate(
            zip(log.users, log.items, log.ratings, log.times_us.tolist(), strict=True)
        ):
            shown = self._impression(k, user, film, time_us, sums)
            shown.history.extend(seen[user])
            payload, bits = shown.SerializeToString(), (1 << int(stars)) - 1
            for place, (kind, label, weight) in enumerate(((INITIAL, 0, 1.0), (FLIP, bits, 1.0), (CLOSED, bits, 0.0))):
                times = (time_us, time_us, time_us)
                yield k, place, kind, *times, shown.impression_id, user, [0], [label], [weight], payload
            kind = EventKind.EVENT_KIND_RATE
            seen[user].appendleft(
                HistoryItem(item_id=film, kind=kind, time_us=time_us, content=self._content.get(film, []))
            )
            for key in (f"u{user}", f"i{film}"):
                sums[key] += (stars, 1)

    def _impression(
        self, k: int, user: str, film: str, time_us: int, sums: Mapping[str, NDArray[np.float64]]
    ) -> Impression:
        item = ImpressionItem(
            item_id=film,
            features=[*_stats(sums[f"i{film}"]), self._year.get(film, float("nan"))],
            content=self._content.get(film, []),
            shown=True,
        )
        return Impression(
            impression_id=f"{k:032x}",
            user_id=user,
            time_us=time_us,
            user_feature_ids=[ref.id for ref in SPEC.user_features],
            user_features=[*_stats(sums[f"u{user}"]), *self._about[user].tolist()],
            item_feature_ids=[ref.id for ref in SPEC.item_features],
            items=[item],
        )


def errors(pairs: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    """RMSE and MAE over everything, and over the last 70 %."""
    off = np.subtract(*np.array(pairs).T)
    parts = {"whole": off, "rest": off[int(0.3 * len(off)) :]}
    return {
        name: {"rmse": float(np.sqrt((part**2).mean())), "mae": float(np.abs(part).mean())}
        for name, part in parts.items()
    }


def measured(source: Stars, model: str, seed: int) -> dict[str, Any]:
    """One model through the whole log."""
    outcome = rehearse(Trial(model, {**BASE, "model": model, "seed": seed}), source, source.spec)
    return {"errors": errors(outcome.ratings), "ratings_per_second": len(outcome.ratings) / outcome.learn_seconds}


def main() -> int:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of ml-100k")
    parser.add_argument("--out", type=Path, required=True, help="JSON with the results so far; goes on from it")
    parser.add_argument("--ratings", type=int, help="so many of the first; all without it")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--models", default=",".join(WAYS), help="apart by commas")
    options = parser.parse_args()
    source = Stars(options.data, options.ratings)
    try:
        results = Results(options.out, {"messages": source.messages})
    except ValueError as error:
        parser.error(str(error))
    for seed in range(1, options.seeds + 1):
        for model in options.models.split(","):
            if (key := f"stars/{model}/{seed}") not in results.found:
                results.add(key, measured(source, model, seed))
                print(key, results.found[key], flush=True)
    return 0


def _stats(found: NDArray[np.float64]) -> list[float]:
    total, count = found.tolist()
    return [total / count if count else float("nan"), count]


def _number(text: str) -> float:
    return float(text) if text.isdigit() and int(text) > 1900 else float("nan")


def _message(rows: list[tuple[Any, ...]]) -> bytes:
    columns: dict[str, object] = dict(zip(EXAMPLES.names, zip(*rows, strict=True), strict=True))
    return records.encode(records.batch_of(EXAMPLES, columns))


if __name__ == "__main__":
    sys.exit(main())
