"""What was served, kept as arrays until the answer is out, then written as an Impression.

Building the message costs more than answering, so it happens after the answer.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from freshrank.v1.events_pb2 import Context, Degradation, HistoryItem, Impression
from numpy.typing import NDArray

from services.gateway.candidates import Candidates
from services.gateway.inputs import Served
from services.gateway.ladder import Rung
from services.gateway.schema import Schema
from services.gateway.shopper import Shopper

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class AsServed:
    """One answer and everything it was computed from."""

    impression_id: str
    user: str
    session: str
    context: Context
    placement: str
    time_us: int
    release: str
    arm: str
    slot: str
    epoch: int
    degradation: Rung
    closed_loop: bool
    page: int
    schema: Schema
    shopper: Shopper
    served: Served
    candidates: Candidates
    score: Floats
    """[candidates] the score they are ordered by."""
    order: Ints
    """Places of the shown candidates, in the order shown."""
    first_position: int = 0
    """Position of the first shown: greater than 0 on later pages."""
    propensity: Floats | None = None
    """[shown] probability of each at its position; None = deterministic."""
    explored: NDArray[np.bool_] | None = None
    """[shown] put there by exploration."""
    drawable: Floats | None = None
    """[candidates] probability of each to be drawn for the first position explored; None = nothing is explored."""
    unshown: Sequence[int] = field(default_factory=tuple)
    """Places of sampled candidates that were scored but not shown."""
    query: str = ""
    """What was searched for, in one spelling."""
    reranker: str = ""
    """Reranker that the order is by, too; empty = none."""
    reranked: Floats | None = None
    """[candidates] its scores; NaN = it was not asked."""


def to_message(served: AsServed) -> Impression:
    """The impression as it goes onto the log; values are the ones the model saw."""
    message = Impression()
    write(served, message)
    return message


def write(served: AsServed, message: Impression) -> None:
    """Fill an empty message: a part of another one, which so need not be copied."""
    schema, candidates = served.schema, served.candidates
    message.impression_id = served.impression_id
    message.user_id, message.session_id = served.user, served.session
    message.time_us = served.time_us
    message.placement = served.placement
    message.context.CopyFrom(served.context)
    message.release, message.arm = served.release, served.arm
    message.slot, message.epoch = served.slot, served.epoch
    message.feature_service = schema.feature_service
    message.user_feature_ids.extend(schema.user_ids)
    message.user_features.extend(served.shopper.user.tolist())
    message.item_feature_ids.extend(schema.item_ids)
    message.user_row_seq = served.shopper.row_seq
    message.user_views.extend(served.shopper.views)
    message.user_pos.extend(served.shopper.pos)
    message.item_views.extend(schema.positioned)
    message.degradation = Degradation.Name(served.degradation)
    message.page = served.page
    message.closed_loop = served.closed_loop
    message.query, message.reranker = served.query, served.reranker
    _add_history(message, served.served)
    places = np.concatenate([served.order, np.array(served.unshown, np.int64)])
    columns = zip(
        places.tolist(),
        candidates.features[places].tolist(),
        candidates.records["token"][places].tolist(),
        candidates.records["tokens"][places].tolist(),
        candidates.rows.seq[places].tolist(),
        candidates.pos[places].tolist(),
        candidates.category[places].tolist(),
        served.score[places].tolist(),
        strict=True,
    )
    wanted, names = candidates.wanted, [*candidates.categories, ""]
    for number, (place, features, tokens, count, row_seq, pos, category, score) in enumerate(columns):
        message.items.add(
            item_id=wanted.ids[place],
            position=served.first_position + number,
            score=score,
            features=features,
            content=tokens[:count],
            row_seq=row_seq,
            bid=float(wanted.bid[place]),
            campaign=wanted.campaign[place],
            category=names[category],
            pos=pos,
            shown=number < len(served.order),
        )
    _add_exploration(message, served)
    if served.reranked is not None:
        for item, score in zip(message.items, served.reranked[places].tolist(), strict=True):
            if score == score:
                item.reranked = score


def _add_history(message: Impression, served: Served) -> None:
    recent = served.recent
    columns = zip(
        recent.items,
        recent.kinds.tolist(),
        recent.times.tolist(),
        served.tokens.tolist(),
        served.counts.tolist(),
        served.rows.seq.tolist(),
        strict=True,
    )
    for item, kind, time_us, tokens, count, seq in columns:
        entry = HistoryItem(item_id=item, kind=kind, time_us=time_us, content=tokens[:count], row_seq=seq)
        message.history.append(entry)


def _add_exploration(message: Impression, served: AsServed) -> None:
    if served.propensity is None or served.explored is None:
        return
    for item, propensity, explored in zip(
        message.items, served.propensity.tolist(), served.explored.tolist(), strict=False
    ):
        item.propensity, item.explored = propensity, explored
    if served.drawable is not None:
        for item, place in zip(message.items[len(served.order) :], served.unshown, strict=True):
            item.propensity = served.drawable[place]


class RecentAnswers:
    """The last answers of this process, for Explain; bounded in number and age.

    >>> kept = RecentAnswers(1); kept.get("x", 0) is None
    True
    """

    def __init__(self, limit: int, hold_us: int = 900_000_000) -> None:
        self._limit, self._hold_us = limit, hold_us
        self._kept: OrderedDict[str, AsServed] = OrderedDict()

    def put(self, served: AsServed) -> None:
        """Keep an answer; the oldest go."""
        self._kept[served.impression_id] = served
        while len(self._kept) > self._limit or self._oldest_us() < served.time_us - self._hold_us:
            self._kept.popitem(last=False)

    def get(self, impression_id: str, now_us: int) -> AsServed | None:
        """The answer, or None when it is not held (any more)."""
        served = self._kept.get(impression_id)
        return served if served is not None and now_us - served.time_us <= self._hold_us else None

    def forget(self, user: str) -> None:
        """Drop every answer to a user."""
        for impression_id in [key for key, served in self._kept.items() if served.user == user]:
            del self._kept[impression_id]

    def _oldest_us(self) -> int:
        return next(iter(self._kept.values())).time_us if self._kept else 2**63
