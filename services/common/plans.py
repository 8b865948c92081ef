"""What the feature repository says as a whole: views, cross features and the feature services `ranking`, `retrieval`.

Read from the registry by `services.online.registry.load_plan`. Pure: nothing here knows Feast.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

from services.common import filters
from services.common.definitions import Defined, FeatureDefinition, hash8
from services.common.errors import InvalidInput
from services.common.spec import FeatureRef


@dataclass(frozen=True)
class ViewPlan:
    """A streaming view: whose values it holds, and its features in the order of its schema."""

    name: str
    join_keys: tuple[str, ...]
    features: tuple[FeatureDefinition, ...]


_LIST, _KIND = "list", "kind"

BUILTINS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "recency_rank": ((_LIST,), (_KIND,)),
    "list_count": ((_LIST,), (_KIND,)),
    "seconds_since": ((_LIST,), (_KIND,)),
    "kind_count": ((_LIST, _KIND), ()),
    "prior_rank": ((), ()),
    "prior_reciprocal": ((), ()),
    "position_share": ((), ()),
    "rank_delta": ((_LIST,), (_KIND,)),
    "last_place": ((_LIST,), (_KIND,)),
    "last_step": ((_LIST,), (_KIND,)),
    "seconds_idle": ((_LIST,), (_KIND,)),
    "price": ((), ()),
    "price_rank": ((), ()),
    "price_level": ((), ()),
    "price_ratio": ((_LIST,), ()),
    "same_category_share": ((_LIST,), ()),
    "age_days": ((), ()),
    "lexical_score": ((), ()),
    "lexical_share": ((), ()),
    "text_similarity": ((), ()),
    "category_probability": ((), ()),
    "query_words": ((), ()),
    "vector_likeness": ((_LIST,), (_KIND,)),
}
"""Cross features the gateway can compute -> (arguments they need, arguments they also take)."""


@dataclass(frozen=True)
class CrossFeature(Defined):
    """A feature of candidate and shopper together, computed in the gateway and never stored.

    Arguments: `list` = "view:prefix" of the parallel lists prefix_items, prefix_kinds, prefix_times; `kind` = name.
    """

    view: str
    name: str
    builtin: str
    args: tuple[tuple[str, str], ...] = ()

    @property
    def list(self) -> str:
        """The "view:prefix" of the lists it reads; empty when it reads none."""
        return dict(self.args).get(_LIST, "")

    @property
    def kind(self) -> int:
        """Number of the only kind it counts; 0 = all."""
        return filters.KINDS.get(dict(self.args).get(_KIND, ""), 0)

    @property
    def arrays(self) -> tuple[str, ...]:
        """The array features it reads: items, kinds, times of its list."""
        return tuple(f"{self.list}_{part}" for part in ("items", "kinds", "times")) if self.list else ()


def cross(view: str, name: str, tags: Mapping[str, str]) -> CrossFeature:
    """Check and build a cross feature. Raises InvalidInput (unknown_builtin, missing_tag, unknown_tag, bad_tag)."""
    where, builtin = f"{view}:{name}", tags.get("builtin", "")
    if builtin not in BUILTINS:
        detail = f"there is no built-in {builtin!r}; there are {', '.join(BUILTINS)}"
        raise InvalidInput(where, "unknown_builtin", detail)
    needs, takes = BUILTINS[builtin]
    args = {tag: value for tag, value in tags.items() if tag != "builtin"}
    for tag in args:
        if tag not in needs + takes:
            raise InvalidInput(where, "unknown_tag", f"{builtin} has no use for {tag!r}")
    for tag in needs:
        if not args.get(tag):
            raise InvalidInput(where, "missing_tag", f"{builtin} needs {tag!r}")
    if _KIND in args and args[_KIND] not in filters.KINDS:
        raise InvalidInput(where, "bad_tag", f"there is no kind {args[_KIND]!r}")
    return CrossFeature(view, name, builtin, tuple(sorted(args.items())))


@dataclass(frozen=True)
class History:
    """The shopper's earlier items as a model reads them: three parallel array features, each "view:feature"."""

    items: str
    kinds: str
    times: str


@dataclass(frozen=True)
class RankingPlan:
    """The FeatureService `ranking`, taken apart."""

    feature_service: str
    """name@hash8"""
    user: tuple[FeatureRef, ...]
    """Features of input `user`: views of user and session."""
    item: tuple[FeatureRef, ...]
    """Features of input `item`, in order: item views, user x category, cross features."""
    history: History
    cross: tuple[CrossFeature, ...]
    arrays: tuple[str, ...]
    """Every array feature ("view:feature") that the history and the cross features read."""


@dataclass(frozen=True)
class Plan:
    """Everything the feature repository says, as of one version of the registry."""

    project: str
    views: tuple[ViewPlan, ...]
    ranking: RankingPlan
    retrieval: History
    crosses: tuple[CrossFeature, ...] = ()

    @cached_property
    def version(self) -> str:
        """Eight hex digits: equal plans have equal versions."""
        return hash8(asdict(self))

    def view(self, name: str) -> ViewPlan:
        """A view by name. Raises KeyError."""
        return {view.name: view for view in self.views}[name]

    def feature(self, path: str) -> FeatureDefinition:
        """A streaming feature by "view:feature". Raises KeyError."""
        return {f"{view.name}:{feature.name}": feature for view in self.views for feature in view.features}[path]

    def definitions(self) -> dict[int, FeatureDefinition]:
        """Every streaming feature by id."""
        return {f.id: f for view in self.views for f in view.features}
