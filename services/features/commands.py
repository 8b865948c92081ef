"""`freshrank features plan` and `apply`: what a changed feature repository would do, and doing it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from services.common.definitions import FeatureDefinition
from services.common.errors import InvalidInput
from services.common.plans import CrossFeature, Plan
from services.online.inventory import losses
from services.online.registry import PlanSource
from services.online.repository import apply_repository, read_all


@dataclass(frozen=True)
class Change:
    """One difference between the repository and the registry."""

    action: str
    """added, changed or removed"""
    path: str
    """view:feature, the name of a feature service, or of what is lost"""
    detail: str = ""
    destructive: bool = False
    """Values that are there now would no longer be found."""


def plan(feature_repo: Path) -> list[Change]:
    """What `apply` would change. Raises InvalidInput for a definition that cannot be computed."""
    after, holds = read_all(feature_repo)
    before = PlanSource(feature_repo)
    lost = {path: Change(action, path, detail, True) for action, path, detail in losses(before.inventory(), holds)}
    found = [replace(c, destructive=c.path in lost) for c in differences(_applied(before), after)]
    return [*found, *(change for path, change in lost.items() if path not in {c.path for c in found})]


def apply(feature_repo: Path) -> list[Change]:
    """Check the repository, store it in the registry, and return what that changed.

    Running services pick it up within seconds. Raises InvalidInput, with nothing changed, for a definition that
    cannot be computed.
    """
    changes = plan(feature_repo)
    apply_repository(feature_repo)
    return changes


def _applied(source: PlanSource) -> Plan | None:
    try:
        return source.load()
    except InvalidInput:
        return None  # never applied, or by another tool: everything is new


def differences(old: Plan | None, new: Plan) -> Iterator[Change]:
    """Features and services that two plans do not share, by name."""
    before, after = _features(old), _features(new)
    for path in sorted(before.keys() | after.keys()):
        if path not in before:
            yield Change("added", path, after[path].hash8)
        elif path not in after:
            yield Change("removed", path)
        elif before[path].id != after[path].id:
            yield Change("changed", path, ", ".join(_changed(asdict(before[path]), asdict(after[path]))))
    if old is None or old.ranking.feature_service != new.ranking.feature_service:
        yield Change("added" if old is None else "changed", "ranking", new.ranking.feature_service)
    if old is None or old.retrieval != new.retrieval:
        yield Change("added" if old is None else "changed", "retrieval", new.retrieval.items)


def _features(plan: Plan | None) -> dict[str, FeatureDefinition | CrossFeature]:
    if plan is None:
        return {}
    features: list[FeatureDefinition | CrossFeature] = [feature for view in plan.views for feature in view.features]
    return {f"{feature.view}:{feature.name}": feature for feature in [*features, *plan.crosses]}


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [f"{name} {old.get(name)!r} -> {new.get(name)!r}" for name in new if old.get(name) != new.get(name)]
