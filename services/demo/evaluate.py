"""How well a replay ranked, against a rule that needs no learning: mean reciprocal rank, with paired bootstrap.

The rule: what was touched last in this session first, then as shown. It is hard to beat where shoppers come back to
what they looked at a minute ago, and it falls with every second that features are late.

    python -m services.demo.evaluate --data trivago --answers demo-report/answers.parquet [--json]
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from freshrank.v1 import events_pb2, ranking_pb2
from numpy.typing import NDArray

from services.common.errors import NotFound
from services.demo import loaders
from services.demo.loaders.steps import Ask, Stock, Tell
from services.demo.record import auc

DRAWS = 5_000


class RecentlyTouched:
    """The rule: takes a session's events in order, orders candidates by the last one that named them."""

    def __init__(self) -> None:
        self._touched: dict[str, dict[str, int]] = defaultdict(dict)
        self._turn = 0

    def tell(self, events: Iterable[events_pb2.Event]) -> None:
        """Remember what was touched."""
        for event in events:
            self._turn += 1
            if event.item_id:
                self._touched[event.session_id][event.item_id] = self._turn

    def order(self, session: str, candidates: Sequence[ranking_pb2.Candidate]) -> list[str]:
        """Candidates by the rule."""
        touched = self._touched.get(session, {})
        return sorted((c.item_id for c in candidates), key=lambda item: -touched.get(item, 0))


@dataclass(frozen=True)
class Comparison:
    """Figures over the second half of the requests whose answer was taken from the list."""

    requests: int
    auc: float
    mrr: float
    mrr_rule: float
    mrr_shown: float
    difference: float
    """MRR minus that of the rule."""
    lower: float
    upper: float
    """95 % bounds of the difference: paired bootstrap over requests (Efron, 1979)."""


def compare(steps: Iterable[Ask | Tell | Stock], answers: Sequence[Mapping[str, object]]) -> Comparison:
    """Match answers with the requests of a log. Raises NotFound when no request of the log was answered."""
    found = {(a["wanted"], a["at_us"], frozenset(a["items"])): a for a in answers}  # type: ignore[call-overload]
    rule = RecentlyTouched()
    ranks: list[tuple[float, float, float]] = []
    judged: list[Mapping[str, object]] = []
    for step in steps:
        if isinstance(step, Stock):
            continue
        if isinstance(step, Ask) and step.candidates:
            shown = [candidate.item_id for candidate in step.candidates]
            answer = found.get((step.wanted, step.time_us, frozenset(shown)))
            if answer is not None and step.wanted in shown:
                ordered = rule.order(step.shopper.session_id, step.candidates)
                lists = (list(answer["items"]), ordered, shown)  # type: ignore[call-overload]
                ranks.append(tuple(reciprocal(step.wanted, items) for items in lists))  # type: ignore[arg-type]
                judged.append(answer)
        rule.tell(step.events)
    if not ranks:
        raise NotFound("no request of this log is among the answers")
    half = len(ranks) // 2
    return _compared(np.array(ranks[half:]), judged[half:])


def _compared(ranks: NDArray[np.float64], answers: Sequence[Mapping[str, object]]) -> Comparison:
    model, rule, shown = ranks.T
    scores = np.concatenate([np.asarray(a["scores"], float) for a in answers])
    labels = np.concatenate([np.array([i == a["wanted"] for i in a["items"]]) for a in answers])  # type: ignore[attr-defined]
    means = bootstrap(model - rule)
    return Comparison(
        requests=len(ranks),
        auc=auc(scores, labels),
        mrr=float(model.mean()),
        mrr_rule=float(rule.mean()),
        mrr_shown=float(shown.mean()),
        difference=float((model - rule).mean()),
        lower=float(np.percentile(means, 2.5)),
        upper=float(np.percentile(means, 97.5)),
    )


def bootstrap(values: NDArray[np.float64], draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Means of so many samples with replacement, shape [draws]."""
    chance = np.random.default_rng(seed)
    return np.array([values[chance.integers(0, len(values), len(values))].mean() for _ in range(draws)])


def reciprocal(wanted: str, items: Sequence[str]) -> float:
    """1 / place of the wanted item, 0 when it is not there.

    >>> reciprocal("b", ["a", "b"])
    0.5
    """
    return 1 / (1 + items.index(wanted)) if wanted in items else 0.0


def main() -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the log that was replayed")
    parser.add_argument("--answers", type=Path, required=True, help="answers.parquet of the replay's report")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = compare(loaders.steps(options.data, 0), pq.read_table(options.answers).to_pylist())
    if options.json:
        print(json.dumps(asdict(found)))
    else:
        print("\n".join(sentences(found)))
    return 0


def sentences(found: Comparison) -> list[str]:
    """For people."""
    return [
        f"{found.requests} requests, the second half of those answered",
        f"AUC {found.auc:.4f}",
        f"MRR {found.mrr:.4f}; rule {found.mrr_rule:.4f}; as shown {found.mrr_shown:.4f}",
        f"MRR minus the rule's {found.difference:+.4f}, 95 % [{found.lower:+.4f}, {found.upper:+.4f}]",
    ]


if __name__ == "__main__":
    sys.exit(main())
