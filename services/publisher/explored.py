"""Where answers were left to chance, and what a release would have shown there.

What the gateway logs (`gateway/rerank.py`) is `propensity`, the probability of an item at its place:

- **Recommend** (`explore`, 3 % of the places by default): a place keeps its item with 1 - share, else it gets a draw
  from those candidates that the answer would not have shown, all alike or by `explore_by`; share · weight / pool is
  logged, the pool being the weights that earlier draws have left. No item of the answer's own can come to another
  place, so the value of another *order of the whole page* is not identified: where the new order puts a page's own
  item elsewhere, the log has probability 0. What is identified is a place that was given to chance. The log holds
  what was drawn and a uniform sample of those left over, each with its probability to be drawn first; of this
  *handful* one was drawn in proportion to these (the share and the pool cancel, and the sample did not look at them),
  so the estimand is clicks on the first such place of an answer, were it given to the best of the handful by the
  judged release. No model of clicks is assumed: place and neighbours are as they were.
- **Rank** (`explore_rank`, off by default): an answer is shuffled as a whole with probability share, and every item
  has its probability share / n + (1 - share)[own place], so any order has support. The estimand is clicks on the whole
  list in the judged release's order, if a click depends on item and place and not on the neighbours (the item-position
  model of Li et al., 2018).

Left out of a handful is what may have been the place's own item, which is among those left over and could not be drawn:
whatever scored no less than the least of the page's own items. The last place must not be explored, because its own
item may score least of all. With a cap on categories the order is not by score alone, and one such item in a hundred
handfuls may stay.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.encode import RowLookup
from services.publisher.checks import Check, at_least
from services.publisher.judges import Judge, scored
from services.publisher.offpolicy import Bounds, Estimate, Figure, Record, Slots, TooFew, difference, estimate
from services.publisher.replay import Closed

MOST = 2_000
"""Newest impressions of each kind that are looked at: each is encoded and scored anew."""


@dataclass(frozen=True)
class Choice:
    """One impression's items among which chance chose, with what is known of those that were shown."""

    closed: Closed
    items: tuple[int, ...]
    """Indexes; the first `len(propensity)` were shown, in this order."""
    propensity: tuple[float, ...]
    clicks: tuple[bool, ...]


@dataclass(frozen=True)
class Compared:
    """A candidate and the champion, if there is one, on the same choices."""

    candidate: Estimate | TooFew
    champion: Estimate | TooFew | None
    gap: Figure | None
    """Doubly robust clicks per impression of the candidate less the champion's."""

    def record(self) -> dict[str, Record]:
        """Plain figures for the audit."""
        out = {"candidate": self.candidate.record()}
        if self.champion is not None:
            out["champion"] = self.champion.record()
        if self.gap is not None:
            out["gap"] = {"dr": self.gap.mean, "dr_error": self.gap.error}
        return out

    def check(self, kind: str) -> Check | None:
        """Holds unless the candidate is surely worse; None where there are no figures."""
        if self.gap is None:
            return None
        return at_least(f"offpolicy_{kind}", self.gap.mean, -2 * self.gap.error, "clicks against the champion's")


def handful(closed: Closed, click: int = 0) -> Choice | None:
    """What was drawn for the first explored place of a recommended list and those left over; None without.

    `click`: the bit of a click in labels.
    """
    items = closed.impression.items
    shown = [k for k, item in enumerate(items) if item.shown]
    drawn = next((k for k in shown if items[k].explored), None)
    if drawn is None or not closed.impression.closed_loop or items[shown[-1]].explored or drawn not in closed.items:
        return None
    own = min(items[k].score for k in shown if not items[k].explored)
    left = [k for k, item in enumerate(items) if not item.shown and item.score < own]
    told = any(items[k].propensity for k in left)
    left = [k for k in left if items[k].propensity or not told]
    if not left or items[drawn].score >= own or not 0 < items[drawn].propensity < 1:
        return None
    chances = [items[k].propensity for k in (drawn, *left)]
    share = chances[0] / sum(chances) if told else 1 / len(chances)
    return Choice(closed, (drawn, *left), (share,), (_clicked(closed, drawn, click),))


def whole_list(closed: Closed, click: int = 0) -> Choice | None:
    """A caller's list that is shuffled now and then; None where that is not so, or where not all labels are known."""
    items = closed.impression.items
    places = tuple(range(len(items)))
    if closed.impression.closed_loop or len(items) < 2 or not set(places) <= set(closed.items):
        return None
    if not all(item.shown and 0 < item.propensity < 1 for item in items):
        return None
    clicks = tuple(_clicked(closed, k, click) for k in places)
    return Choice(closed, places, tuple(item.propensity for item in items), clicks)


KINDS: Mapping[str, Callable[[Closed, int], Choice | None]] = {"recommend": handful, "rank": whole_list}


def compare(
    closed: Iterable[Closed], candidate: Judge, champion: Judge | None, rows: RowLookup, most: int = MOST
) -> dict[str, Compared]:
    """Each kind's figures; the champion's click probabilities are the guess of both sides, the candidate's if alone.

    Both releases may have learned from these impressions, the candidate from more of them: that flatters it, as all
    figures of the replay do.
    """
    kept = list(closed)
    chosen = {kind: _choices(kept, kind, candidate)[-most:] for kind in KINDS}
    return {kind: _compared(choices, candidate, champion, rows) for kind, choices in chosen.items()}


def slots_of(
    choices: Sequence[Choice], score: Sequence[NDArray[np.float64]], guess: Sequence[NDArray[np.float64]]
) -> Slots:
    """Slots of choices; of each one's items, `score` is what they are ordered by and `guess` a click probability."""
    parts: list[list[float]] = [[] for _ in range(6)]
    for number, (choice, by, clicks) in enumerate(zip(choices, score, guess, strict=True)):
        wanted = _order(choice, by)
        for place, (propensity, click) in enumerate(zip(choice.propensity, choice.clicks, strict=True)):
            would = int(wanted[place])
            values = (number, click, propensity, would == place, clicks[place], clicks[would])
            for part, value in zip(parts, values, strict=True):
                part.append(float(value))
    unit, *others = (np.array(part, np.float64) for part in parts)
    return Slots(unit.astype(np.int64), *others)


def _order(choice: Choice, score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places by score, the highest first; equal ones by id, never by where they were shown."""
    ids = [choice.closed.impression.items[k].item_id for k in choice.items]
    return np.lexsort((np.array(ids), -score))


def _choices(closed: Sequence[Closed], kind: str, candidate: Judge) -> list[Choice]:
    click = candidate.spec.heads[0]
    known = (c for c in closed if not c.heads or click in c.heads)
    found = (KINDS[kind](c, c.heads.index(click) if c.heads else 0) for c in known)
    return [choice for choice in found if choice is not None]


def _compared(choices: Sequence[Choice], candidate: Judge, champion: Judge | None, rows: RowLookup) -> Compared:
    bounds = Bounds()
    if len(choices) < bounds.impressions:
        return Compared(TooFew(len(choices)), None if champion is None else TooFew(len(choices)), None)
    ours, our_clicks = scored(choices, candidate, rows)
    theirs, guess = scored(choices, champion, rows) if champion is not None else (None, our_clicks)
    one = slots_of(choices, ours, guess)
    if theirs is None:
        return Compared(estimate(one, bounds), None, None)
    other = slots_of(choices, theirs, guess)
    return Compared(estimate(one, bounds), estimate(other, bounds), difference(one, other, bounds))


def _clicked(closed: Closed, index: int, click: int) -> bool:
    return bool(closed.labels[closed.items.index(index)] >> click & 1)
