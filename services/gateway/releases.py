"""Releases as the gateway serves them: manifest and retrieval matrices from the model store, and the current route."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from freshrank.v1.models_pb2 import ArmSplit, Route, TextRoute
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from services.common.arms import MAIN, Share, Split
from services.common.errors import CorruptState, NotFound
from services.common.ids import share_of
from services.common.plans import CrossFeature, Plan
from services.common.spec import ModelSpec
from services.gateway import schema as schemas
from services.gateway.candidates import RowSlot
from services.gateway.inputs import InputPlan
from services.gateway.schema import Schema

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Release:
    """One immutable release."""

    name: str
    spec: ModelSpec
    objective: Mapping[str, float]
    """Weight of each head in the final score."""
    learned_up_to_us: int
    matrices: Mapping[str, Floats]
    """Of retrieval.safetensors: content, row, user_row."""

    @property
    def weights(self) -> Floats:
        """Weight per head, [heads]; a release without an objective is ordered by its first head."""
        return weights_of(self.spec.heads, self.objective)


def weights_of(heads: Sequence[str], objective: Mapping[str, float]) -> Floats:
    """Weight per head; all on the first when none is named.

    >>> weights_of(("click", "cart"), {"cart": 2.0})
    array([0., 2.], dtype=float32)
    """
    weights = np.array([objective.get(head, 0.0) for head in heads], np.float32)
    if not weights.any():
        weights[0] = 1
    return weights


def load_release(store: Path, name: str, objective: Mapping[str, float] | None = None) -> Release:
    """Read `releases/<name>/` of the store; `objective` replaces the release's own when it is not empty.

    Raises NotFound, or CorruptState when the manifest is not one.
    """
    folder = store / "releases" / name
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError as error:
        raise NotFound(f"there is no release {name}") from error
    except ValueError as error:
        raise CorruptState(f"manifest of {name}: {error}") from error
    path = folder / "retrieval.safetensors"
    try:
        return Release(
            name=name,
            spec=ModelSpec.from_json(manifest["spec"]),
            objective=objective or manifest.get("objective") or {},
            learned_up_to_us=int(manifest.get("learned_up_to_us", 0)),
            matrices=load_file(path) if path.is_file() else {},
        )
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise CorruptState(f"release {name}: {error!r}") from error


@dataclass(frozen=True)
class Serving:
    """A release with the rows it is served with, against the schema in force."""

    release: Release
    rows: RowSlot
    inputs: InputPlan


@dataclass(frozen=True)
class Routes:
    """What the topic routes says: each arm's route, and which arm answers whom."""

    arms: Mapping[str, Route] = field(default_factory=dict)
    split: Split = Split()
    split_term: int = 0
    text: TextRoute = field(default_factory=TextRoute)
    """Of the encoder of texts; an empty one = none."""
    reranker: TextRoute = field(default_factory=TextRoute)
    """Of the reranker; the same."""

    @property
    def releases(self) -> set[str]:
        """Names of all releases that may be asked."""
        return {name for route in self.arms.values() for name in (route.champion, route.previous) if name}

    @property
    def places(self) -> dict[str, Sequence[str]]:
        """Triton endpoints of each release, where the publisher names them, and of encoders and the reranker."""
        found: dict[str, Sequence[str]] = {}
        for route in self.arms.values():
            if route.term:
                found |= {route.previous: tuple(route.previous_at), route.champion: tuple(route.champion_at)}
        found |= {route.encoder: tuple(route.at) for route in (self.text.before, self.text, self.reranker)}
        return {release: addresses for release, addresses in found.items() if release}

    @staticmethod
    def only(route: Route) -> "Routes":
        """One arm that answers everybody."""
        arm = route.arm or MAIN
        return Routes({arm: route}, Split(arm))


def split_of(message: ArmSplit) -> Split:
    """The split of a record; an empty one gives everybody to `main`."""
    challengers = tuple(Share(c.arm, c.share) for c in message.challengers)
    return Split(message.incumbent or MAIN, message.trial, challengers, message.sticky_us)


@dataclass(frozen=True)
class World:
    """What the shoppers of one arm are answered with; replaced as a whole when plan or route change."""

    schema: Schema
    route: Route = field(default_factory=Route)
    champion: Serving | None = None
    previous: Serving | None = None
    reserve: Serving | None = None
    """The incumbent's champion, behind a challenger's own."""

    @property
    def frozen(self) -> bool:
        """Learning or releases are frozen."""
        return bool(self.route.freeze.learning or self.route.freeze.releases)

    def servings(self, user: str) -> list[Serving]:
        """Releases to try for this user, in order: the watch keeps a sticky share on the previous one."""
        both = [self.champion, self.previous]
        if self.previous is not None and share_of(user, "watch") < self.route.watch_share:
            both.reverse()
        return [serving for serving in (*both, self.reserve) if serving is not None]


@dataclass(frozen=True)
class Worlds:
    """The worlds of all arms, over one schema."""

    split: Split
    arms: Mapping[str, World]
    """Of arms with a route; the incumbent is always there."""

    @property
    def incumbent(self) -> World:
        """What everybody is answered with who is in no challenger's share."""
        return self.arms[self.split.incumbent]

    def of(self, user: str, time_us: int) -> World:
        """The world of the shopper's arm; the incumbent's while that arm has nothing to serve."""
        found = self.arms.get(self.split.arm_of(user, time_us))
        return found if found is not None and found.champion is not None else self.incumbent

    @staticmethod
    def only(world: World) -> "Worlds":
        """One arm that answers everybody."""
        return Worlds(Split(world.route.arm or MAIN), {world.route.arm or MAIN: world})


def worlds_of(
    plan: Plan, routes: Routes, releases: Mapping[str, Release], crosses: Mapping[int, CrossFeature] | None = None
) -> Worlds:
    """Put plan, routes and loaded releases together; a routed release that is not among them is left out.

    `crosses`: cross features of earlier plans, which a release may still name.
    """
    routed = [releases[name] for name in sorted(routes.releases) if name in releases]
    schema = schemas.build(plan, [release.spec for release in routed], crosses)
    incumbent = routes.split.incumbent
    first = _world(schema, routes.arms.get(incumbent, Route(arm=incumbent)), releases)
    others = {
        arm: _world(schema, route, releases, first.champion) for arm, route in routes.arms.items() if arm != incumbent
    }
    return Worlds(routes.split, {**others, incumbent: first})


def _world(schema: Schema, route: Route, releases: Mapping[str, Release], reserve: Serving | None = None) -> World:
    return World(
        schema=schema,
        route=route,
        champion=_serving(releases.get(route.champion), route.slot, route.epoch, schema),
        previous=_serving(releases.get(route.previous), route.previous_slot, route.previous_epoch, schema),
        reserve=reserve,
    )


def _serving(release: Release | None, slot: str, epoch: int, schema: Schema) -> Serving | None:
    if release is None:
        return None
    return Serving(release, RowSlot(slot, release.spec.row_dim, epoch), InputPlan.of(release.spec, schema))
