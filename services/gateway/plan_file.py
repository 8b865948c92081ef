"""The feature repository's plan as a file: one process reads the registry (Feast is large), the workers read this."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.common.definitions import from_json
from services.common.errors import CorruptState, TemporaryError
from services.common.plans import CrossFeature, History, Plan, RankingPlan, ViewPlan
from services.common.spec import FeatureRef


def write(path: Path, plan: Plan) -> None:
    """Replace the file by this plan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(plan)))
    os.replace(fresh, path)


def plan_of(data: dict[str, Any]) -> Plan:
    """Read back `dataclasses.asdict` of a plan."""
    ranking = data["ranking"]
    return Plan(
        project=data["project"],
        views=tuple(
            ViewPlan(view["name"], tuple(view["join_keys"]), tuple(map(from_json, view["features"])))
            for view in data["views"]
        ),
        ranking=RankingPlan(
            feature_service=ranking["feature_service"],
            user=tuple(FeatureRef(**ref) for ref in ranking["user"]),
            item=tuple(FeatureRef(**ref) for ref in ranking["item"]),
            history=History(**ranking["history"]),
            cross=tuple(map(_cross, ranking["cross"])),
            arrays=tuple(ranking["arrays"]),
        ),
        retrieval=History(**data["retrieval"]),
        crosses=tuple(map(_cross, data["crosses"])),
    )


class PlanFile:
    """A reader that parses again only when the file has been replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, Plan] | None = None

    def load(self) -> Plan:
        """The plan as of now. Raises TemporaryError while there is none, CorruptState when it is not one."""
        try:
            stamp = self._path.stat().st_mtime_ns
            if self._seen is None or self._seen[0] != stamp:
                self._seen = (stamp, plan_of(json.loads(self._path.read_text())))
        except FileNotFoundError as error:
            raise TemporaryError("the feature repository's plan has not been read yet") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptState(f"{self._path.name}: {error!r}") from error
        return self._seen[1]


def _cross(data: dict[str, Any]) -> CrossFeature:
    return CrossFeature(**{**data, "args": tuple((name, value) for name, value in data["args"])})
