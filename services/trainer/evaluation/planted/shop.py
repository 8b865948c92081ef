"""Everything that happens in a planted shop, drawn at once: lists, click probabilities, clicks, delays.

A list is a uniform draw of the items that are offered, whatever any model would show: all ways see the same lists, and
the places in a list mean nothing. Shopper u clicks item i with log-odds

    bias + wave(t) + taste · ⟨taste of u, taste of i⟩ + appeal of i - price · z(price of i),

each item of a list by itself; so the list with the most expected clicks is the one in order of probability.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.content import tokens_of
from services.trainer.evaluation.planted.plan import CatalogueChange, Change, FeatureShift, Plan, TasteShift

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TASTE_DIM = 8
CATEGORIES = 10
START_US = 1_700_000_000_000_000
"""Log time of the beginning, in microseconds since 1970."""


@dataclass(frozen=True)
class Catalogue:
    """All items there ever are, by number."""

    taste: Floats
    """[items, TASTE_DIM], of length 1."""
    appeal: Floats
    """[items]."""
    price_z: Floats
    """[items]: logarithm of the price, less its mean and over its deviation."""
    content: list[list[int]]
    """Tokens: the category, and words for the two loudest directions of the taste, so content tells part of it."""

    @property
    def price(self) -> Floats:
        """[items]."""
        out: Floats = np.exp(3.2 + 0.7 * self.price_z)
        return out


@dataclass(frozen=True)
class Happened:
    """What is true of every list; n lists of m items, in order of time."""

    plan: Plan
    catalogue: Catalogue
    time_us: Ints
    """[n]."""
    shopper: Ints
    """[n]."""
    segment: Ints
    """[shoppers]."""
    items: Ints
    """[n, m]: numbers of items."""
    price_factor: Floats
    """[n]: what the served price is multiplied by."""
    clicks: Floats
    """[n, m]: probability that a click ever comes."""
    labelled: Floats
    """[n, m]: probability that it comes inside the window, which is all that a label can tell."""
    clicked: NDArray[np.bool_]
    """[n, m]: whether one ever comes."""
    delay_us: Ints
    """[n, m]: after what time, were it to come; at least 1."""

    @property
    def in_time(self) -> NDArray[np.bool_]:
        """[n, m]: clicks that are labelled; the joiner counts ages below the window."""
        out: NDArray[np.bool_] = self.clicked & (self.delay_us < int(self.plan.window_s * 1e6))
        return out


def happen(plan: Plan) -> Happened:
    """Draw a shop's whole log. Each kind of chance has a stream of its own, so a change moves nothing but itself."""
    names = ("arrivals", "shoppers", "places", "clicks", "delays", "tastes", "items", "changes")
    seeds = np.random.SeedSequence(plan.seed).spawn(len(names))
    chance = {name: np.random.default_rng(seed) for name, seed in zip(names, seeds, strict=True)}
    n, m, traffic = plan.lists, plan.listed, plan.traffic
    seconds = np.cumsum(chance["arrivals"].exponential(1 / traffic.lists_per_s, n))
    # Habit: some come often, most seldom.
    shopper = (plan.shoppers * chance["shoppers"].random(n) ** 2).astype(np.int64)
    segment, first = _tastes(plan, chance["tastes"])
    tastes, offered, factors, catalogue = _periods(plan, first, chance)
    period = np.searchsorted([change.at_s for change in plan.changes], seconds, side="right")
    items = offered[period[:, None], _places(chance["places"], n, m, plan.items)]
    match = np.einsum("nd,nmd->nm", tastes[period, shopper], catalogue.taste[items])
    worth = catalogue.appeal[items] - plan.price * catalogue.price_z[items]
    clicks = _sigmoid(plan.bias + traffic.log_odds(seconds)[:, None] + plan.taste * match + worth)
    mean = traffic.mean_delay(seconds)[:, None]
    return Happened(
        plan=plan,
        catalogue=catalogue,
        time_us=START_US + (seconds * 1e6).astype(np.int64),
        shopper=shopper,
        segment=segment,
        items=items,
        price_factor=factors[period],
        clicks=clicks,
        labelled=clicks * -np.expm1(-plan.window_s / mean),
        clicked=chance["clicks"].random((n, m)) < clicks,
        delay_us=np.maximum(1, chance["delays"].standard_exponential((n, m)) * mean * 1e6).astype(np.int64),
    )


def _tastes(plan: Plan, chance: np.random.Generator) -> tuple[Ints, Floats]:
    """Segment [shoppers] and taste [shoppers, TASTE_DIM] of everybody, before anything changes."""
    centres = _units(chance.normal(size=(plan.segments, TASTE_DIM)))
    segment = chance.integers(0, plan.segments, plan.shoppers)
    own = chance.normal(size=(plan.shoppers, TASTE_DIM)) / np.sqrt(TASTE_DIM)
    return segment, _units(centres[segment] + 0.7 * own)


def _periods(
    plan: Plan, first: Floats, chance: dict[str, np.random.Generator]
) -> tuple[Floats, Ints, Floats, Catalogue]:
    """Tastes [periods, shoppers, TASTE_DIM], offered items [periods, items], price factors [periods], and all items."""
    kinds = _units(chance["items"].normal(size=(CATEGORIES, TASTE_DIM)))
    made = [_items(kinds, plan.items, plan.appeal, chance["items"])]
    tastes, offered, factors = [first], [np.arange(plan.items)], [1.0]
    count = plan.items
    for change in plan.changes:
        now, items, factor = _changed(change, (tastes[-1], offered[-1], factors[-1]), count, chance["changes"])
        if new := int(np.count_nonzero(items >= count)):
            made.append(_items(kinds, new, plan.appeal, chance["items"]))
            count += new
        tastes, offered, factors = [*tastes, now], [*offered, items], [*factors, factor]
    content = [tokens for catalogue in made for tokens in catalogue.content]
    taste, appeal, price_z = (
        np.concatenate([getattr(part, name) for part in made]) for name in ("taste", "appeal", "price_z")
    )
    return np.stack(tastes), np.stack(offered), np.array(factors), Catalogue(taste, appeal, price_z, content)


def _changed(
    change: Change, before: tuple[Floats, Ints, float], count: int, chance: np.random.Generator
) -> tuple[Floats, Ints, float]:
    """Tastes, offered items and price factor after a change; new items have numbers from `count` on."""
    tastes, offered, factor = before
    match change:
        case TasteShift():
            moved = chance.random(len(tastes)) < change.share
            turned = tastes @ _rotation(change.degrees, chance).T
            return np.where(moved[:, None], turned, tastes), offered, factor
        case CatalogueChange():
            gone = chance.permutation(len(offered))[: round(change.share * len(offered))]
            items = offered.copy()
            items[gone] = count + np.arange(len(gone))
            return tastes, items, factor
        case FeatureShift():
            return tastes, offered, factor * change.factor


def _rotation(degrees: float, chance: np.random.Generator) -> Floats:
    """[TASTE_DIM, TASTE_DIM]: turns every vector by the same angle, in planes of a random basis."""
    basis, _ = np.linalg.qr(chance.normal(size=(TASTE_DIM, TASTE_DIM)))
    angle = np.radians(degrees)
    plane = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn: Floats = basis @ np.kron(np.eye(TASTE_DIM // 2), plane) @ basis.T
    return turn


def _items(kinds: Floats, count: int, appeal: float, chance: np.random.Generator) -> Catalogue:
    category = chance.integers(0, len(kinds), count)
    taste = _units(kinds[category] + 0.7 * chance.normal(size=(count, TASTE_DIM)) / np.sqrt(TASTE_DIM))
    loudest = np.argsort(-np.abs(taste), axis=1)[:, :2]
    words = [" ".join(f"{'more' if taste[k, d] > 0 else 'less'}{d}" for d in loudest[k].tolist()) for k in range(count)]
    content = [tokens_of([f"category{kind}"], "", text) for kind, text in zip(category.tolist(), words, strict=True)]
    return Catalogue(taste, appeal * chance.normal(size=count), chance.normal(size=count), content)


def _places(chance: np.random.Generator, lists: int, listed: int, items: int) -> Ints:
    """[lists, listed]: different places of the offer, drawn again until no list has one twice."""
    out = chance.integers(0, items, (lists, listed))
    if listed * listed > items:  # Drawing again would take too long.
        return np.argsort(chance.random((lists, items)), axis=1)[:, :listed]
    again = np.arange(lists)
    while len(again):
        ordered = np.sort(out[again], axis=1)
        again = again[(ordered[:, 1:] == ordered[:, :-1]).any(axis=1)]
        out[again] = chance.integers(0, items, (len(again), listed))
    return out


def _units(vectors: Floats) -> Floats:
    scaled: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def _sigmoid(x: Floats) -> Floats:
    out: Floats = 1 / (1 + np.exp(-x))
    return out
