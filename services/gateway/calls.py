"""What callers ask and what they get, without a protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from freshrank.v1.events_pb2 import Context
from numpy.typing import NDArray

from services.common.errors import InvalidInput, PermanentError
from services.gateway.candidates import Wanted
from services.gateway.ladder import Rung
from services.gateway.search.wish import Filter

Floats = NDArray[np.float32]


class BadCall(PermanentError):
    """Raised for a call with wrong fields; carries every one of them."""

    def __init__(self, faults: Sequence[InvalidInput]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class Caller:
    """Who asks, from where."""

    user: str
    session: str = ""
    context: Context = field(default_factory=Context)


@dataclass(frozen=True)
class RankCall:
    """Put these candidates in order."""

    caller: Caller
    placement: str
    wanted: Wanted
    now_us: int
    preview: bool = False
    """Answer, and leave no trace of it: no impression, no token, no exploration."""


@dataclass(frozen=True)
class RecommendCall:
    """Choose items from the catalogue."""

    caller: Caller
    placement: str
    size: int
    now_us: int
    page_token: str = ""
    categories: Sequence[str] = ()
    exclude: Sequence[str] = ()
    preview: bool = False


@dataclass(frozen=True)
class SearchCall:
    """Find items by words."""

    caller: Caller
    query: str
    placement: str
    size: int
    now_us: int
    page_token: str = ""
    filter: Filter = Filter()
    facets: bool = False
    exact: bool = False
    """Correct no spelling."""
    preview: bool = False


@dataclass(frozen=True)
class SuggestCall:
    """Complete what has been typed; `prefix` in one spelling."""

    prefix: str
    size: int
    now_us: int


@dataclass(frozen=True)
class SimilarCall:
    """Items like one item; without a caller nobody's seen items are left out and no token is issued."""

    item: str
    size: int
    now_us: int
    caller: Caller | None = None


@dataclass(frozen=True)
class ExplainCall:
    """Why an item of a past answer got its score; `item` empty = the first result."""

    token: str
    item: str
    top: int
    now_us: int


@dataclass(frozen=True)
class Ages:
    """Milliseconds since what the answer was computed from changed; -1 = none."""

    user_features_ms: float = -1.0
    item_features_ms: float = -1.0
    rows_ms: float = -1.0
    release_ms: float = -1.0


@dataclass(frozen=True)
class Answer:
    """Ranked items with all that is said about them."""

    ids: Sequence[str]
    scores: Floats
    """[results] the score they are ordered by."""
    heads: Sequence[str] = ()
    objectives: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """[results, heads] probabilities; empty without a model."""
    reasons: Sequence[Sequence[str]] = ()
    token: str = ""
    next_page: str = ""
    release: str = ""
    arm: str = ""
    rung: Rung = 1
    ages: Ages = Ages()
    frozen: bool = False
    missing: Sequence[str] = ()
    request_id: str = ""
    query: str = ""
    corrected: str = ""
    found: int = 0
    facets: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict)
    asked: Sequence[tuple[str, float]] = ()
    """Categories that the query probably asks for, each with its probability."""
    language: str = ""


@dataclass(frozen=True)
class Part:
    """How much one input moved a score."""

    feature: str
    value: float
    contribution: float
    age_ms: float


@dataclass(frozen=True)
class Explanation:
    """The parts of a score, largest first; of a search also the words that the item has."""

    item: str
    score: float
    served_score: float
    parts: Sequence[Part]
    release: str
    query: str = ""
    """What was searched for."""
    matched: Sequence[str] = ()
    reranker: str = ""
    """Reranker that read the query with the item; empty = none did."""
    reranked: float = float("nan")
    """Its score."""
    asked: Sequence[tuple[str, float]] = ()
    """Categories that it probably asks for."""
