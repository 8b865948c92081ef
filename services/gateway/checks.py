"""Requests of the wire -> calls of the core; every wrong field is named at once."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from freshrank.v1 import ranking_pb2 as pb
from numpy.typing import NDArray

from services.common.content import tokens_of
from services.common.errors import InvalidInput
from services.gateway.calls import (
    BadCall,
    Caller,
    ExplainCall,
    RankCall,
    RecommendCall,
    SearchCall,
    SimilarCall,
    SuggestCall,
)
from services.gateway.candidates import Wanted
from services.gateway.search.wish import Filter
from services.gateway.track import FIRST_US, MOST_CONTEXT, MOST_EVENTS, MOST_ID, MOST_TEXT
from services.text.normal import normal_query

MOST_CANDIDATES = 1000
MOST_ITEMS = 1000
MOST_PAGE = 100
DEFAULT_PAGE = 10
MOST_LISTED = 1000
"""Categories, or excluded items, in one request."""
MOST_CATEGORIES = 16
"""Categories of one item."""
MOST_TITLE, MOST_DESCRIPTION = 2048, 16_384
MOST_TOKEN = 64 * 1024
MOST_PRICE = 1e9
MOST_QUERY = 1024
SUGGESTED, MOST_SUGGESTED = 8, 20
_PLACEMENT = re.compile(r"[\w.-]{0,64}")


@dataclass
class Faults:
    """Collects what is wrong with a call."""

    found: list[InvalidInput] = field(default_factory=list)
    most: int = 32
    """More are not listed."""

    def add(self, name: str, reason: str, detail: str) -> None:
        """Note a wrong field."""
        if len(self.found) < self.most:
            self.found.append(InvalidInput(name, reason, detail))

    def text(self, name: str, text: str, most: int = MOST_ID, required: bool = False) -> None:
        """An id or a text: there if required, not too long, printable."""
        if not text:
            if required:
                self.add(name, "missing_field", "is required")
        elif len(text) > most:
            self.add(name, "too_large", f"has {len(text)} characters, at most {most}")
        elif not text.isprintable():
            self.add(name, "malformed", "holds control characters")
        elif text != text.strip(" "):
            self.add(name, "malformed", "has spaces at its ends")

    def texts(self, name: str, texts: Sequence[str], most: int = MOST_LISTED) -> None:
        """A list of ids."""
        if len(texts) > most:
            self.add(name, "too_large", f"has {len(texts)} entries, at most {most}")
            return
        for place, text in enumerate(texts):
            self.text(f"{name}[{place}]", text, required=True)

    def count(self, name: str, count: int, most: int) -> None:
        """A list that must have entries, but not too many."""
        if not count:
            self.add(name, "missing_field", "must have at least one entry")
        elif count > most:
            self.add(name, "too_large", f"has {count} entries, at most {most}")

    def amount(self, name: str, value: float) -> None:
        """A price or a bid."""
        if not math.isfinite(value) or not 0 <= value <= MOST_PRICE:
            self.add(name, "out_of_range", f"must lie between 0 and {MOST_PRICE:g}")

    def placement(self, text: str) -> None:
        """The name of a place in the shop."""
        if not _PLACEMENT.fullmatch(text):
            self.add("placement", "malformed", "must be at most 64 letters, digits, '_', '.' or '-'")

    def done(self) -> None:
        """Raises BadCall when something was noted."""
        if self.found:
            raise BadCall(self.found)


@dataclass(frozen=True)
class Times:
    """The moment of a request: of the wall clock, or in replays of the request itself."""

    now_us: int
    replay: bool

    def of(self, request_time_us: int, faults: Faults) -> int:
        """The request's time."""
        if not self.replay:
            if request_time_us:
                faults.add("request_time_us", "not_allowed", "is for replays; the gateway's clock is the wall clock")
            return self.now_us
        if request_time_us < FIRST_US:
            faults.add("request_time_us", "out_of_range", "must be microseconds since 1970, after 2000")
        return request_time_us


def rank_call(request: pb.RankRequest, times: Times) -> RankCall:
    """Raises BadCall."""
    faults = Faults()
    caller = _caller(request.shopper, faults)
    faults.placement(request.placement)
    now_us = times.of(request.request_time_us, faults)
    wanted = _wanted(request.candidates, faults)
    faults.done()
    return RankCall(caller, request.placement or "rank", wanted, now_us, request.preview)


def recommend_call(request: pb.RecommendRequest, times: Times) -> RecommendCall:
    """Raises BadCall."""
    faults = Faults()
    caller = _caller(request.shopper, faults)
    faults.placement(request.placement)
    size = _page_size(request.page_size, faults)
    faults.text("page_token", request.page_token, MOST_TOKEN)
    faults.texts("categories", request.categories)
    faults.texts("exclude", request.exclude)
    now_us = times.of(request.request_time_us, faults)
    faults.done()
    return RecommendCall(
        caller,
        request.placement or "home",
        size,
        now_us,
        request.page_token,
        tuple(request.categories),
        tuple(request.exclude),
        request.preview,
    )


def search_call(request: pb.SearchRequest, times: Times) -> SearchCall:
    """Raises BadCall."""
    faults = Faults()
    caller = _caller(request.shopper, faults)
    _query("query", request.query, faults, required=not request.page_token)
    faults.placement(request.placement)
    size = _page_size(request.page_size, faults)
    faults.text("page_token", request.page_token, MOST_TOKEN)
    keep = _filter(request.filter, faults)
    now_us = times.of(request.request_time_us, faults)
    faults.done()
    return SearchCall(
        caller,
        request.query,
        request.placement or "search",
        size,
        now_us,
        request.page_token,
        keep,
        request.facets,
        request.exact,
        request.preview,
    )


def suggest_call(request: pb.SuggestRequest, times: Times) -> SuggestCall:
    """Raises BadCall."""
    faults = Faults()
    _query("prefix", request.prefix, faults, required=True)
    if request.size > MOST_SUGGESTED:
        faults.add("size", "out_of_range", f"must lie between 1 and {MOST_SUGGESTED}")
    faults.done()
    open_ended = " " if request.prefix[-1:].isspace() else ""
    return SuggestCall((normal_query(request.prefix) or "") + open_ended, request.size or SUGGESTED, times.now_us)


def _query(name: str, text: str, faults: Faults, required: bool) -> None:
    """What a person typed: anything goes but nothing, and what is too long."""
    if required and not text.strip():
        faults.add(name, "missing_field", "is required")
    elif len(text) > MOST_QUERY:
        faults.add(name, "too_large", f"has {len(text)} characters, at most {MOST_QUERY}")


def _filter(wish: pb.Filter, faults: Faults) -> Filter:
    faults.texts("filter.categories", wish.categories)
    faults.texts("filter.brands", wish.brands)
    for name in ("price_from", "price_to"):
        if wish.HasField(name):
            faults.amount(f"filter.{name}", getattr(wish, name))
    price_from = wish.price_from if wish.HasField("price_from") else -math.inf
    price_to = wish.price_to if wish.HasField("price_to") else math.inf
    if price_from > price_to:
        faults.add("filter.price_from", "out_of_range", "is more than price_to")
    return Filter(tuple(wish.categories), tuple(wish.brands), price_from, price_to)


def similar_call(request: pb.SimilarRequest, times: Times) -> SimilarCall:
    """Raises BadCall."""
    faults = Faults()
    faults.text("item_id", request.item_id, required=True)
    size = _page_size(request.page_size, faults)
    caller = _caller(request.shopper, faults) if request.HasField("shopper") else None
    faults.done()
    return SimilarCall(request.item_id, size, times.now_us, caller)


def explain_call(request: pb.ExplainRequest, times: Times) -> ExplainCall:
    """Raises BadCall."""
    faults = Faults()
    faults.text("attribution_token", request.attribution_token, MOST_TEXT, required=True)
    faults.text("item_id", request.item_id)
    if request.top > MOST_LISTED:
        faults.add("top", "out_of_range", f"must be at most {MOST_LISTED}")
    now_us = times.of(request.request_time_us, faults)
    faults.done()
    return ExplainCall(request.attribution_token, request.item_id, request.top or 10, now_us)


def track_call(request: pb.TrackRequest) -> None:
    """Raises BadCall for the call as a whole; its events are checked one by one."""
    faults = Faults()
    faults.count("events", len(request.events), MOST_EVENTS)
    faults.done()


def upsert_call(request: pb.UpsertItemsRequest, vectors: Mapping[str, int] | None = None) -> None:
    """`vectors`: numbers of each that an item may have, by name. Raises BadCall."""
    faults = Faults()
    faults.count("items", len(request.items), MOST_ITEMS)
    for place, item in enumerate(request.items[:MOST_ITEMS]):
        _item(f"items[{place}]", item, faults)
        _vectors(f"items[{place}]", item.vectors, vectors or {}, faults)
    ids = [item.item_id for item in request.items]
    if len(set(ids)) != len(ids):
        faults.add("items", "duplicate", "holds an item twice")
    faults.done()


def delete_call(request: pb.DeleteItemsRequest) -> None:
    """Raises BadCall."""
    faults = Faults()
    faults.count("item_ids", len(request.item_ids), MOST_ITEMS)
    faults.texts("item_ids", request.item_ids)
    faults.done()


def content_of(item: pb.Item) -> list[int]:
    """Content tokens of an item."""
    return tokens_of(item.categories, item.brand, item.title)


def _caller(shopper: pb.Shopper, faults: Faults) -> Caller:
    faults.text("shopper.user_id", shopper.user_id, required=True)
    faults.text("shopper.session_id", shopper.session_id)
    for name in ("region", "device", "platform"):
        faults.text(f"shopper.context.{name}", getattr(shopper.context, name), MOST_CONTEXT)
    return Caller(shopper.user_id, shopper.session_id, shopper.context)


def _page_size(size: int, faults: Faults) -> int:
    if size > MOST_PAGE:
        faults.add("page_size", "out_of_range", f"must lie between 1 and {MOST_PAGE}")
    return size or DEFAULT_PAGE


def _wanted(candidates: Sequence[pb.Candidate], faults: Faults) -> Wanted:
    faults.count("candidates", len(candidates), MOST_CANDIDATES)
    candidates = candidates[:MOST_CANDIDATES]
    ids = [candidate.item_id for candidate in candidates]
    for place, item in enumerate(ids):
        if not item or len(item) > MOST_ID or not item.isprintable() or item != item.strip(" "):
            faults.text(f"candidates[{place}].item_id", item, required=True)
    if len(set(ids)) != len(ids):
        faults.add("candidates", "duplicate", "holds an item twice")
    given = np.array([candidate.HasField("price") for candidate in candidates], np.bool_)
    price = np.array([candidate.price for candidate in candidates], np.float32)
    bid = np.array([candidate.bid for candidate in candidates], np.float32)
    _amounts("price", price, faults)
    _amounts("bid", bid, faults)
    price[~given] = np.nan
    campaign = [candidate.campaign for candidate in candidates]
    for place, text in enumerate(campaign):
        if text:
            faults.text(f"candidates[{place}].campaign", text)
    prior = np.array([candidate.prior_rank for candidate in candidates], np.int64)
    return Wanted(ids, prior, price, bid, campaign)


def _amounts(name: str, values: NDArray[np.float32], faults: Faults) -> None:
    wrong = ~((values >= 0) & (values <= MOST_PRICE))
    for place in np.flatnonzero(wrong).tolist():
        faults.add(f"candidates[{place}].{name}", "out_of_range", f"must lie between 0 and {MOST_PRICE:g}")


def _item(path: str, item: pb.Item, faults: Faults) -> None:
    faults.text(f"{path}.item_id", item.item_id, required=True)
    for name, most in (("title", MOST_TITLE), ("brand", MOST_TITLE), ("description", MOST_DESCRIPTION)):
        if len(getattr(item, name)) > most:
            faults.add(f"{path}.{name}", "too_large", f"has more than {most} characters")
    faults.texts(f"{path}.categories", item.categories, MOST_CATEGORIES)
    if item.HasField("price"):
        faults.amount(f"{path}.price", item.price)
    if item.HasField("stock") and item.stock < 0:
        faults.add(f"{path}.stock", "out_of_range", "must not be negative; leave it out when it is not counted")
    if item.published_us and item.published_us < 0:
        faults.add(f"{path}.published_us", "out_of_range", "must be microseconds since 1970")


def _vectors(path: str, given: Sequence[pb.ItemVector], known: Mapping[str, int], faults: Faults) -> None:
    names = [vector.name for vector in given]
    if len(set(names)) != len(names):
        faults.add(f"{path}.vectors", "duplicate", "holds a name twice")
    for place, vector in enumerate(given):
        at, values = f"{path}.vectors[{place}]", np.array(vector.values, np.float32)
        if vector.name not in known:
            faults.add(
                f"{at}.name", "unknown_vector", f"is none of item_vectors: {', '.join(known) or 'there are none'}"
            )
        elif len(values) not in (0, known[vector.name]):
            faults.add(f"{at}.values", "out_of_range", f"has {len(values)} numbers, must have {known[vector.name]}")
        elif not np.isfinite(values).all() or (len(values) and not np.linalg.norm(values.astype(np.float64)) > 0):
            faults.add(f"{at}.values", "not_finite", "must be finite numbers, not all of them 0")
