"""Features of candidate and shopper together, declared in the feature repository and computed here (design D10).

Each built-in is a function of the candidates (all at once) and its arguments; it returns float32 [candidates] with
NaN where its null rule says so. A list that was not read, or that is null, makes every feature of it null.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.common.plans import CrossFeature
from services.gateway.candidates import Match
from services.gateway.shopper import Recent

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

DAY_US = 24 * 3600 * 1_000_000


@dataclass(frozen=True)
class Touched:
    """A list of the shopper next to the candidates."""

    places: Ints
    """Index of each entry among the candidates, -1 = not a candidate; newest first."""
    kinds: Ints
    times: Ints
    prices: Floats
    """Catalogue price of each entry; NaN = none."""
    categories: Ints
    """Main category's code of each entry; -1 = none."""
    codes: Ints
    """Which item each entry is of: equal for equal items, also those that are no candidates."""


@dataclass(frozen=True)
class Scene:
    """Candidates of one request, as columns [n], and what the shopper has touched."""

    now_us: int
    prior_rank: Ints
    """Place in the caller's own order, 1 = first; 0 = none."""
    price: Floats
    """In this request, else in the catalogue; NaN = none."""
    category: Ints
    """Code of the main category; -1 = none."""
    published_us: Ints
    """0 = not known."""
    touched: Mapping[str, Touched]
    """By "view:prefix"."""
    match: Match | None = None
    """None = nothing was searched for."""
    asked: Floats | None = None
    """Probability that the query asks for the candidate's category; NaN = not told. None = of no candidate."""
    likeness: Callable[[str, int], Floats] | None = None
    """Of the candidates to a list's entries of a kind, by vectors that the shop gives; None = it gives none."""
    _entries: dict[tuple[str, int], "_Entries | None"] = field(default_factory=dict, compare=False)

    def entries(self, path: str, kind: int) -> "_Entries | None":
        """Entries of a list that are candidates; several features look at the same ones."""
        if (path, kind) not in self._entries:
            self._entries[path, kind] = _find(self.touched.get(path), kind)
        return self._entries[path, kind]

    @cached_property
    def size(self) -> int:
        """Number of candidates."""
        return len(self.prior_rank)

    @cached_property
    def prior(self) -> Floats:
        """Prior ranks, NaN where there is none."""
        return np.where(self.prior_rank > 0, self.prior_rank, np.nan).astype(np.float32)

    def null(self) -> Floats:
        """A column of missing values."""
        return np.full(self.size, np.nan, np.float32)


Builtin = Callable[[Scene, str, int], Floats]
"""(scene, list, kind; 0 = any) -> column."""


def recency_rank(scene: Scene, path: str, kind: int) -> Floats:
    """Place of the candidate among the distinct items of that kind's entries, 1 = newest; null when it has none."""
    out, entries = scene.null(), scene.entries(path, kind)
    if entries is not None:
        out[entries.places[::-1]] = entries.order[::-1] + 1  # of one candidate's entries the newest is set last
    return out


def last_place(scene: Scene, path: str, kind: int) -> Floats:
    """Caller's place of the candidate touched last; null when there is none."""
    entries = scene.entries(path, kind)
    if entries is None or not len(entries.places):
        return scene.null()
    return np.full(scene.size, scene.prior[entries.places[0]], np.float32)


def last_step(scene: Scene, path: str, kind: int) -> Floats:
    """Caller's place of the candidate touched last minus that of the one touched before; null with fewer than two."""
    entries = scene.entries(path, kind)
    if entries is None:
        return scene.null()
    others = entries.places[entries.places != entries.places[0]] if len(entries.places) else entries.places
    if not len(others):
        return scene.null()
    return np.full(scene.size, scene.prior[entries.places[0]] - scene.prior[others[0]], np.float32)


def seconds_idle(scene: Scene, path: str, kind: int) -> Floats:
    """Seconds from the newest entry of that kind, of whatever item, to now, never below 0; null without entries."""
    touched = scene.touched.get(path)
    times = touched.times if touched is not None else np.zeros(0, np.int64)
    if touched is not None and kind:
        times = times[touched.kinds == kind]
    if not len(times):
        return scene.null()
    return np.full(scene.size, max(0, scene.now_us - int(times[0])) / 1e6, np.float32)


def list_count(scene: Scene, path: str, kind: int) -> Floats:
    """Number of entries of the candidate; 0 when it has none, null without a list."""
    entries = scene.entries(path, kind)
    if entries is None:
        return scene.null()
    return np.bincount(entries.places, minlength=scene.size).astype(np.float32)


def kind_count(scene: Scene, path: str, kind: int) -> Floats:
    """Number of entries of the candidate that are of this kind; 0 when it has none, null without a list."""
    return list_count(scene, path, kind)


def seconds_since(scene: Scene, path: str, kind: int) -> Floats:
    """Seconds from the candidate's newest entry of that kind to now, never below 0; null when it has none."""
    out, entries = scene.null(), scene.entries(path, kind)
    if entries is not None:
        out[entries.places[::-1]] = np.maximum(0, scene.now_us - entries.times[::-1]) / 1e6
    return out


def prior_rank(scene: Scene, path: str, kind: int) -> Floats:
    """Place in the caller's own order, 1 = first; null when the caller gave none."""
    return scene.prior


def prior_reciprocal(scene: Scene, path: str, kind: int) -> Floats:
    """1 / place in the caller's own order; null when the caller gave none."""
    reciprocal: Floats = np.float32(1) / scene.prior
    return reciprocal


def position_share(scene: Scene, path: str, kind: int) -> Floats:
    """Place in the caller's own order from 0 (first) to 1 (last of all candidates); null when the caller gave none."""
    share: Floats = (scene.prior - np.float32(1)) / np.float32(max(1, scene.size - 1))
    return share


def rank_delta(scene: Scene, path: str, kind: int) -> Floats:
    """Caller's place minus the caller's place of the candidate touched last; null when either is missing."""
    delta: Floats = scene.prior - last_place(scene, path, kind)
    return delta


def price(scene: Scene, path: str, kind: int) -> Floats:
    """Price in this request, else in the catalogue; null when there is none."""
    return scene.price


def price_rank(scene: Scene, path: str, kind: int) -> Floats:
    """1 + number of cheaper candidates; null without a price."""
    out, known = scene.null(), np.flatnonzero(~np.isnan(scene.price))
    prices = scene.price[known]
    out[known] = 1 + np.searchsorted(np.sort(prices), prices, side="left")
    return out


def price_level(scene: Scene, path: str, kind: int) -> Floats:
    """Price / mean price of the candidates that have one; null without a price or when that mean is 0."""
    known = scene.price[~np.isnan(scene.price)]
    mean = known.mean(dtype=np.float64) if len(known) else 0.0
    return (scene.price / mean).astype(np.float32) if mean else scene.null()


def price_ratio(scene: Scene, path: str, kind: int) -> Floats:
    """Price / mean price of the entries that have one (of candidates theirs); null without, or when that mean is 0."""
    touched = scene.touched.get(path)
    if touched is None:
        return scene.null()
    inside = touched.places >= 0
    prices = np.where(inside, scene.price[touched.places], touched.prices) if scene.size else touched.prices
    prices = prices[~np.isnan(prices)]
    mean = prices.mean(dtype=np.float64) if len(prices) else 0.0
    return (scene.price / mean).astype(np.float32) if mean else scene.null()


def same_category_share(scene: Scene, path: str, kind: int) -> Floats:
    """Share of the entries with a known category that are of the candidate's; null without such entries or category."""
    touched = scene.touched.get(path)
    if touched is None or not (touched.categories >= 0).any():
        return scene.null()
    codes = touched.categories[touched.categories >= 0]
    counts = np.bincount(codes, minlength=1 + int(scene.category.max(initial=0)))
    return np.where(scene.category >= 0, counts[scene.category] / len(codes), np.nan).astype(np.float32)


def age_days(scene: Scene, path: str, kind: int) -> Floats:
    """Days since the item was published, never below 0; null when that is not known."""
    age = np.maximum(0, scene.now_us - scene.published_us) / DAY_US
    return np.where(scene.published_us > 0, age, np.nan).astype(np.float32)


def lexical_score(scene: Scene, path: str, kind: int) -> Floats:
    """BM25 of the words searched for; null when none of them matches, or nothing was searched for."""
    return scene.match.lexical if scene.match is not None else scene.null()


def lexical_share(scene: Scene, path: str, kind: int) -> Floats:
    """BM25 / that of the best candidate; null as `lexical_score`."""
    lexical = lexical_score(scene, path, kind)
    best = np.nanmax(lexical, initial=0)
    return (lexical / best).astype(np.float32) if best > 0 else scene.null()


def text_similarity(scene: Scene, path: str, kind: int) -> Floats:
    """Cosine of the text vectors of query and item; null when one is not known, or nothing was searched for."""
    return scene.match.similarity if scene.match is not None else scene.null()


def category_probability(scene: Scene, path: str, kind: int) -> Floats:
    """Probability that the query asks for the candidate's main category; null when that is not told."""
    return scene.asked if scene.asked is not None else scene.null()


def query_words(scene: Scene, path: str, kind: int) -> Floats:
    """Number of words searched for; null when nothing was."""
    return np.full(scene.size, scene.match.words, np.float32) if scene.match is not None else scene.null()


def vector_likeness(scene: Scene, path: str, kind: int) -> Floats:
    """Cosine of the candidate's vector that the shop gave with the mean of those of the newest entries of that kind, of
    several names their mean; null when either has none.
    """
    return scene.likeness(path, kind) if scene.likeness is not None else scene.null()


BUILTINS: Mapping[str, Builtin] = {
    function.__name__: function
    for function in (
        recency_rank, list_count, kind_count, seconds_since, prior_rank, prior_reciprocal, position_share, rank_delta,
        last_place, last_step, seconds_idle, price, price_rank, price_level, price_ratio, same_category_share, age_days,
        lexical_score, lexical_share, text_similarity, category_probability, query_words, vector_likeness,
    )
}  # fmt: skip
"""Every built-in by name."""


def check(features: Sequence[CrossFeature]) -> None:
    """Raises InvalidInput (reason `unknown_builtin`) for a feature that this gateway cannot compute."""
    for feature in features:
        if feature.builtin not in BUILTINS:
            raise InvalidInput(f"{feature.view}:{feature.name}", "unknown_builtin", f"no built-in {feature.builtin!r}")


def compute(features: Sequence[CrossFeature], scene: Scene) -> Floats:
    """Values [candidates, features]."""
    out = np.empty((scene.size, len(features)), np.float32)
    for place, feature in enumerate(features):
        out[:, place] = BUILTINS[feature.builtin](scene, feature.list, feature.kind)
    return out


def touch(recent: Recent, index: Mapping[str, int], prices: Floats, categories: Ints) -> Touched:
    """A list next to the candidates; `index`: id -> place among them."""
    places = np.fromiter((index.get(item, -1) for item in recent.items), np.int64, len(recent))
    known: dict[str, int] = {}
    codes = np.fromiter((known.setdefault(item, len(known)) for item in recent.items), np.int64, len(recent))
    return Touched(places, recent.kinds, recent.times, prices, categories, codes)


@dataclass(frozen=True)
class _Entries:
    """Entries that are candidates, newest first, of the kind in question."""

    places: Ints
    times: Ints
    order: Ints
    """Place of each one's item among the distinct items of that kind, 0 = newest."""


def _find(touched: Touched | None, kind: int) -> _Entries | None:
    if touched is None:
        return None
    places, times, codes = touched.places, touched.times, touched.codes
    if kind:
        mine = touched.kinds == kind
        places, times, codes = places[mine], times[mine], codes[mine]
    seen: dict[int, int] = {}
    distinct = np.fromiter((seen.setdefault(code, len(seen)) for code in codes.tolist()), np.int64, len(codes))
    inside = places >= 0
    return _Entries(places[inside], times[inside], distinct[inside])
