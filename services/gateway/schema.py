"""Which numbers a ranking needs and where each is read: the feature repository's plan and the routed releases in one.

An impression carries the features of the plan in force, so that the next release can learn them, and those of the
release that scores, so that its own meaning is served: a superseded definition is read under `name@<hash8>`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.plans import CrossFeature, Plan, ViewPlan
from services.common.spec import FeatureRef, ModelSpec

USER, SESSION, PAIR, ITEM = ("user_id",), ("session_id",), ("category", "user_id"), ("item_id",)
QUERY, ASKED_CATEGORY, ASKED_ITEM = ("query",), ("category", "query"), ("item_id", "query")
"""Join keys of the entities, sorted."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ViewColumns:
    """Features of one stored view and the columns they fill."""

    view: str
    join_keys: tuple[str, ...]
    """In the view's own order."""
    ids: tuple[int, ...]
    fields: tuple[str, ...]
    """Names in the online store."""
    places: Ints
    """Column of each in the `user` or `item` matrix."""


@dataclass(frozen=True)
class CrossColumns:
    """Cross features and the columns they fill."""

    features: tuple[CrossFeature, ...]
    places: Ints


@dataclass(frozen=True)
class Lists:
    """Array features of one view that are read together: prefix -> the three field names."""

    view: str
    join_keys: tuple[str, ...]
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """Everything to read for one request, in fixed column order."""

    project: str
    """Feast's name of the feature repository: part of every key in the online store."""
    feature_service: str
    user: tuple[FeatureRef, ...]
    item: tuple[FeatureRef, ...]
    user_views: tuple[ViewColumns, ...]
    """Views keyed by user, session or query."""
    pair_views: tuple[ViewColumns, ...]
    """Views keyed by category, and by user or query."""
    asked_views: tuple[ViewColumns, ...]
    """Views keyed by item and query."""
    item_views: tuple[ViewColumns, ...]
    cross: CrossColumns
    lists: tuple[Lists, ...]
    history: str
    """"view:prefix" of the list that is the model's history."""

    @property
    def user_ids(self) -> list[int]:
        """Feature ids of the user matrix."""
        return [ref.id for ref in self.user]

    @property
    def item_ids(self) -> list[int]:
        """Feature ids of the item matrix."""
        return [ref.id for ref in self.item]

    @property
    def positioned(self) -> list[str]:
        """Views whose fold positions an impression carries per item: of items, of pairs with their category, of items
        and query."""
        return [view.view for view in self.item_views + self.pair_views + self.asked_views]

    @property
    def pairs(self) -> int:
        """Number of features of pairs with a category."""
        return sum(len(view.fields) for view in self.pair_views)

    @property
    def asked(self) -> int:
        """Number of features of item and query."""
        return sum(len(view.fields) for view in self.asked_views)


def nothing() -> Schema:
    """The schema before the plan is known."""
    return Schema("", "", (), (), (), (), (), (), CrossColumns((), np.zeros(0, np.int64)), (), "")


def build(plan: Plan, specs: Iterable[ModelSpec], past_crosses: Mapping[int, CrossFeature] | None = None) -> Schema:
    """The plan's ranking features first, then those that only a routed release still names.

    `past_crosses`: cross features of earlier plans by id. A feature whose view is gone stays a column of NaN.
    """
    specs = tuple(specs)
    user = _union(plan.ranking.user, [spec.user_features for spec in specs])
    item = _union(plan.ranking.item, [spec.item_features for spec in specs])
    views = {view.name: view for view in plan.views}
    crosses = {**(past_crosses or {}), **{feature.id: feature for feature in plan.crosses + plan.ranking.cross}}
    computed = [(crosses[ref.id], place) for place, ref in enumerate(item) if ref.id in crosses]
    cross = CrossColumns(tuple(f for f, _ in computed), np.array([place for _, place in computed], np.int64))
    history = plan.ranking.history.items.removesuffix("_items")
    return Schema(
        project=plan.project,
        feature_service=plan.ranking.feature_service,
        user=user,
        item=item,
        user_views=_columns(user, views, (USER, SESSION, QUERY)),
        pair_views=_columns(item, views, (PAIR, ASKED_CATEGORY)),
        asked_views=_columns(item, views, (ASKED_ITEM,)),
        item_views=_columns(item, views, (ITEM,)),
        cross=cross,
        lists=_lists({history} | {f.list for f in cross.features if f.list}, views),
        history=history,
    )


def _union(first: tuple[FeatureRef, ...], others: Iterable[tuple[FeatureRef, ...]]) -> tuple[FeatureRef, ...]:
    known = {ref.id: ref for ref in first}
    for refs in others:
        for ref in refs:
            known.setdefault(ref.id, ref)
    return tuple(known.values())


def _columns(
    refs: tuple[FeatureRef, ...], views: Mapping[str, ViewPlan], entities: tuple[tuple[str, ...], ...]
) -> tuple[ViewColumns, ...]:
    out = []
    for name, view in views.items():
        places = [place for place, ref in enumerate(refs) if ref.view == name]
        if places and tuple(sorted(view.join_keys)) in entities:
            current = {feature.id for feature in view.features}
            chosen = [refs[place] for place in places]
            fields = tuple(ref.name if ref.id in current else f"{ref.name}@{ref.id:08x}" for ref in chosen)
            ids = tuple(ref.id for ref in chosen)
            out.append(ViewColumns(name, view.join_keys, ids, fields, np.array(places, np.int64)))
    return tuple(out)


def _lists(paths: set[str], views: Mapping[str, ViewPlan]) -> tuple[Lists, ...]:
    by_view: dict[str, list[str]] = {}
    for path in sorted(paths):
        view, _, prefix = path.partition(":")
        if view in views:
            by_view.setdefault(view, []).append(prefix)
    return tuple(Lists(view, views[view].join_keys, tuple(prefixes)) for view, prefixes in by_view.items())
