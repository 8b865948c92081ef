"""The log of a planted shop as the joiner writes it, in memory: a `Source` for a trainer or a rehearsal.

An impression appears (INITIAL) when it is shown, a click flips its item (FLIP) when it arrives, the impression closes
(CLOSED) at the very end of its click window, as if a tick came at every moment. A click behind the window is no
example; like any other it enters the shopper's history.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping

import numpy as np
from freshrank.v1.events_pb2 import Context, EventKind, HistoryItem, Impression, ImpressionItem

from services.common import records
from services.common.records import CLOSED, EXAMPLES, FLIP, INITIAL
from services.common.spec import FeatureRef, ModelSpec
from services.trainer.evaluation.planted.shop import Happened
from services.trainer.examples import Batch, Ranges

SPEC = ModelSpec(
    user_features=(FeatureRef(1, "click_rate", "user_stats"),),
    item_features=(FeatureRef(10, "price", "item_stats"),),
    heads=("click",),
    history_length=5,
)
"""A shopper's clicks per list so far; the price as served."""

_RANKS = {CLOSED: 0, INITIAL: 1, FLIP: 2}
"""At one moment the joiner closes what is due first."""
Row = tuple[int, int, int, int, int, int, str, str, list[int], list[int], list[float], bytes]
_USER = 7
"""Place of the shopper in a row."""
Made = tuple[int, list[int], list[int], list[float], bytes]
"""What it is the time of, items, labels, weights, impression."""


class PlantedSource:
    """The messages of one partition, as `Source` and `ArchiveSource` give them."""

    def __init__(self, happened: Happened, rows: int = 64, shoppers: Collection[int] | None = None) -> None:
        """`rows` of EXAMPLES make a message, and one message a batch: about 20 lists with what else falls due.

        `shoppers`: of these alone; None = of all.
        """
        self.happened, self.spec = happened, SPEC
        wanted = None if shoppers is None else {f"shopper-{number}" for number in shoppers}
        everything = [row for row in _Log(happened).rows() if wanted is None or row[_USER] in wanted]
        self._log = [_message(everything[k : k + rows]) for k in range(0, len(everything), rows)]
        self._at = 0

    @property
    def messages(self) -> int:
        """Messages in all."""
        return len(self._log)

    @property
    def done(self) -> bool:
        """True when everything was given."""
        return self._at >= len(self._log)

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Source`."""
        self._at = positions.get(0, 0)

    def poll(self, timeout_s: float = 0) -> Batch | None:
        """See `Source`."""
        if self.done:
            return None
        self._at += 1
        return self.read({0: (self._at - 1, self._at)})

    def read(self, ranges: Ranges) -> Batch:
        """See `Source`."""
        return Batch(dict(ranges), {0: self._log[slice(*ranges[0])]})


class _Log:
    """Goes through everything that happens in order of the log, and knows what was seen of each shopper so far."""

    def __init__(self, happened: Happened) -> None:
        self._h = happened
        self._open: dict[int, Impression] = {}
        plan = happened.plan
        self._history: list[deque[HistoryItem]] = [deque(maxlen=SPEC.history_length) for _ in range(plan.shoppers)]
        self._seen = np.zeros((plan.shoppers, 2), np.int64)
        """Lists and clicks of each shopper."""
        self._price = happened.catalogue.price

    def rows(self) -> Iterator[Row]:
        """Rows of EXAMPLES, in order of the log."""
        make = {INITIAL: self._initial, FLIP: self._arrived, CLOSED: self._closed}
        for offset, (time_us, kind, number, place) in enumerate(self._events()):
            row = make[kind](number, place, time_us)
            if row is not None:
                about, items, labels, weights, payload = row
                identity = (self._id(number), self._user(number))
                yield offset, 0, kind, time_us, about, time_us, *identity, items, labels, weights, payload

    def _events(self) -> Iterator[tuple[int, int, int, int]]:
        """(log time, kind, list, place), sorted."""
        h, n = self._h, len(self._h.time_us)
        number, place = np.nonzero(h.clicked)
        window_us = int(h.plan.window_s * 1e6)
        times = np.concatenate([h.time_us, h.time_us[number] + h.delay_us[number, place], h.time_us + window_us])
        kinds = np.repeat([INITIAL, FLIP, CLOSED], [n, len(number), n])
        lists = np.concatenate([np.arange(n), number, np.arange(n)])
        places = np.concatenate([np.zeros(n, np.int64), place, np.zeros(n, np.int64)])
        ranks = np.repeat([_RANKS[INITIAL], _RANKS[FLIP], _RANKS[CLOSED]], [n, len(number), n])
        order = np.lexsort((places, lists, ranks, times))
        return zip(*(column[order].tolist() for column in (times, kinds, lists, places)), strict=True)

    def _initial(self, number: int, place: int, time_us: int) -> Made | None:
        shown = self._impression(number)
        self._open[number] = shown
        self._seen[self._h.shopper[number], 0] += 1
        count = len(shown.items)
        return time_us, list(range(count)), [0] * count, [1.0] * count, shown.SerializeToString()

    def _arrived(self, number: int, place: int, time_us: int) -> Made | None:
        shopper, item = self._h.shopper[number], self._h.items[number, place]
        content = self._h.catalogue.content[item]
        clicked = HistoryItem(item_id=f"item-{item}", kind=EventKind.EVENT_KIND_CLICK, time_us=time_us, content=content)
        self._history[shopper].appendleft(clicked)
        self._seen[shopper, 1] += 1
        shown = self._open.get(number)
        if shown is None:
            return None
        alone = Impression()
        alone.CopyFrom(shown)
        del alone.items[:]
        alone.items.append(shown.items[place])
        return time_us, [0], [1], [1.0], alone.SerializeToString()

    def _closed(self, number: int, place: int, time_us: int) -> Made | None:
        shown = self._open.pop(number)
        labels = self._h.in_time[number].astype(int).tolist()
        return shown.time_us, list(range(len(labels))), labels, [0.0] * len(labels), shown.SerializeToString()

    def _impression(self, number: int) -> Impression:
        h, shopper = self._h, int(self._h.shopper[number])
        factor = float(h.price_factor[number])
        return Impression(
            impression_id=self._id(number),
            user_id=self._user(number),
            time_us=int(h.time_us[number]),
            context=Context(region=f"region-{h.segment[shopper]}"),
            user_feature_ids=[ref.id for ref in SPEC.user_features],
            user_features=[self._click_rate(shopper)],
            item_feature_ids=[ref.id for ref in SPEC.item_features],
            items=[
                ImpressionItem(
                    item_id=f"item-{item}",
                    position=place,
                    features=[factor * float(self._price[item])],
                    content=h.catalogue.content[item],
                    shown=True,
                )
                for place, item in enumerate(h.items[number].tolist())
            ],
            history=self._history[shopper],
        )

    def _click_rate(self, shopper: int) -> float:
        lists, clicks = self._seen[shopper].tolist()
        return clicks / lists if lists else float("nan")

    def _id(self, number: int) -> str:
        return f"{number:032x}"

    def _user(self, number: int) -> str:
        return f"shopper-{self._h.shopper[number]}"


def number_of(impression_id: str) -> int:
    """The list that an impression is: its row in the arrays of `Happened`.

    >>> number_of(f"{7:032x}")
    7
    """
    return int(impression_id, 16)


def _message(rows: list[Row]) -> bytes:
    columns: dict[str, object] = dict(zip(EXAMPLES.names, zip(*rows, strict=True), strict=True))
    return records.encode(records.batch_of(EXAMPLES, columns))
