"""What a registry or a feature repository holds, by name: enough to say what applying one would take away."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Inventory:
    """Entities with their key and type, views with their entities, features."""

    entities: Mapping[str, str]
    views: Mapping[str, tuple[str, ...]]
    features: frozenset[str]
    """view:feature"""


class _Entity(Protocol):
    name: str
    join_key: str
    value_type: Any


class _View(Protocol):
    name: str
    entities: list[str]
    features: list[Any]


def inventory(entities: Iterable[_Entity], views: Iterable[_View]) -> Inventory:
    """Take stock of Feast's objects."""
    listed, named = list(views), {entity.name: entity for entity in entities}
    keys = {name: entity.join_key for name, entity in named.items()}
    fields = {view.name: {f.name for f in view.features} - {keys.get(e, e) for e in view.entities} for view in listed}
    return Inventory(
        {name: f"{entity.join_key} {entity.value_type.name}" for name, entity in named.items()},
        {view.name: tuple(view.entities) for view in listed},
        frozenset(f"{view}:{name}" for view, names in fields.items() for name in names),
    )


def losses(before: Inventory, after: Inventory) -> Iterator[tuple[str, str, str]]:
    """(action, path, detail) of what vanishes, and of entities and views that are keyed in another way.

    Values are found by their view, feature and key: what loses one of them is no longer found by anybody. A definition
    that only means something else is no loss: both meanings are computed until no kept release names the old one.

    >>> one = Inventory({"user": "user_id STRING"}, {"clicks": ("user",)}, frozenset({"clicks:clicks_1h"}))
    >>> list(losses(one, Inventory({"user": "user_id INT64"}, {"clicks": ("user",)}, frozenset())))
    [('changed', 'entity user', 'user_id STRING -> user_id INT64'), ('removed', 'clicks:clicks_1h', '')]
    """
    for name, key in before.entities.items():
        if name not in after.entities:
            yield "removed", f"entity {name}", ""
        elif after.entities[name] != key:
            yield "changed", f"entity {name}", f"{key} -> {after.entities[name]}"
    for name, entities in before.views.items():
        if name not in after.views:
            yield "removed", f"view {name}", ""
        elif after.views[name] != entities:
            yield "changed", f"view {name}", f"{', '.join(entities)} -> {', '.join(after.views[name])}"
    for path in sorted(before.features - after.features):
        yield "removed", path, ""
