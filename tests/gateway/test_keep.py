"""What requests read is kept current: plan, route, releases, signs of lost data."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from freshrank.v1.models_pb2 import Route

from services.common.errors import CorruptState, InvalidInput, TemporaryError
from services.common.metrics import Metrics
from services.common.plans import CrossFeature, Plan
from services.gateway import keep, plan_file, schema
from services.gateway.keep import Keeper
from services.gateway.meters import Meters
from services.gateway.pipeline import State
from services.gateway.plan_file import PlanFile
from services.gateway.releases import Routes, World, Worlds
from tests.gateway.shop import NOW, Shop, plan, spec_of
from tests.gateway.small_ranker import write_release


def keeper(store: Path) -> Keeper:
    return Keeper(State(Worlds.only(World(schema.nothing()))), store, Meters(Metrics("gateway")))


async def test_a_route_takes_effect_with_its_release_read(tmp_path: Path) -> None:
    write_release(tmp_path, "r1", spec_of(plan()), NOW)
    it = keeper(tmp_path)
    await it.planned(plan())
    await it.routed(Routes.only(Route(champion="r1", slot="b", epoch=3)))
    champion = it.state.world.champion
    assert champion is not None
    assert (champion.release.name, champion.rows.name, champion.rows.epoch) == ("r1", "b", 3)
    assert champion.release.weights.tolist() == [1, 0, 2]
    assert champion.release.matrices["content"].shape == (32, 8)


async def test_a_release_that_cannot_be_read_is_left_out_and_the_previous_one_serves(tmp_path: Path) -> None:
    write_release(tmp_path, "r1", spec_of(plan()), NOW)
    (tmp_path / "releases" / "r2").mkdir()
    (tmp_path / "releases" / "r2" / "manifest.json").write_text("{")
    it = keeper(tmp_path)
    await it.planned(plan())
    await it.routed(Routes.only(Route(champion="r2", previous="r1", slot="a", previous_slot="a")))
    assert [serving.release.name for serving in it.state.world.servings("ada")] == ["r1"]


async def test_the_scorer_is_told_where_releases_are_before_they_are_asked(tmp_path: Path) -> None:
    write_release(tmp_path, "r1", spec_of(plan()), NOW)
    write_release(tmp_path, "r2", spec_of(plan()), NOW)
    told: list[tuple[dict[str, list[str]], str]] = []
    state = State(Worlds.only(World(schema.nothing())))

    def place(places: Mapping[str, Sequence[str]]) -> None:
        told.append(({name: list(at) for name, at in places.items()}, state.world.route.champion))

    it = Keeper(state, tmp_path, Meters(Metrics("gateway")), place=place)
    await it.planned(plan())
    await it.routed(Routes.only(Route(champion="r1", slot="a", term=1, champion_at=["p1:1", "p2:1"])))
    both = Route(champion="r2", previous="r1", slot="a", previous_slot="a", term=1)
    both.champion_at.append("p2:1")
    both.previous_at.append("p1:1")
    await it.routed(Routes.only(both))
    await it.routed(Routes.only(Route(champion="r2", slot="a", term=1)))
    assert told == [
        ({"r1": ["p1:1", "p2:1"]}, ""),
        ({"r1": ["p1:1"], "r2": ["p2:1"]}, "r1"),
        ({"r1": ["p1:1"], "r2": []}, "r2"),
    ]


async def test_a_new_feature_is_served_next_to_what_the_release_names(tmp_path: Path) -> None:
    write_release(tmp_path, "r1", spec_of(plan()), NOW)
    it = keeper(tmp_path)
    await it.planned(plan())
    await it.routed(Routes.only(Route(champion="r1", slot="a")))
    before = len(it.state.world.schema.item)
    await it.planned(plan("fresh_one"))
    world = it.state.world
    assert len(world.schema.item) == before + 1
    assert world.champion is not None
    assert (world.champion.inputs.item >= 0).all()


async def test_a_changed_definition_is_read_under_its_old_name_for_the_old_release(tmp_path: Path) -> None:
    old = plan()
    write_release(tmp_path, "r1", spec_of(old), NOW)
    user = old.view("user_stats")
    changed = replace(user.features[0], window_us=user.features[0].window_us * 2)
    views = tuple(replace(v, features=(changed, *v.features[1:])) if v.name == "user_stats" else v for v in old.views)
    ranking = replace(old.ranking, user=(changed.ref, *old.ranking.user[1:]))
    new = replace(old, views=views, ranking=ranking)
    it = keeper(tmp_path)
    await it.planned(new)
    await it.routed(Routes.only(Route(champion="r1", slot="a")))
    fields = {view.view: view.fields for view in it.state.world.schema.user_views}["user_stats"]
    assert fields == ("clicks", "spend", f"clicks@{user.features[0].hash8}")


async def test_a_cross_feature_of_an_earlier_plan_is_still_computed_for_its_release(tmp_path: Path) -> None:
    old = plan()
    write_release(tmp_path, "r1", spec_of(old), NOW)
    it = keeper(tmp_path)
    await it.planned(old)
    kept = tuple(c for c in old.crosses if c.builtin != "price")
    items = tuple(ref for ref in old.ranking.item if ref.name != "price")
    await it.planned(replace(old, crosses=kept, ranking=replace(old.ranking, item=items, cross=kept)))
    await it.routed(Routes.only(Route(champion="r1", slot="a")))
    assert [f.builtin for f in it.state.world.schema.cross.features][-1] == "price"


async def test_a_plan_with_an_unknown_builtin_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    it = keeper(tmp_path)
    await it.planned(plan())
    with pytest.raises(InvalidInput):
        await it.planned(replace(plan(), crosses=(CrossFeature("cross", "x", "telepathy"),)))
    assert it.plan == plan()


async def test_ready_means_plan_route_and_catalogue(tmp_path: Path) -> None:
    it = keeper(tmp_path)
    assert not it.ready
    await it.planned(plan())
    await it.routed(Routes.only(Route()))
    assert not it.ready
    it.paint(Shop(tmp_path).table)
    assert it.ready


class Epochs:
    """Epochs of views; those that were lost are missing."""

    def __init__(self, lost: set[str], failing: bool = False) -> None:
        self.lost, self.failing, self.reads = lost, failing, 0

    async def read(self, views: Sequence[str]) -> dict[str, int | None]:
        """1 for each view that is there."""
        self.reads += 1
        if self.failing:
            raise TemporaryError("down")
        return {view: None if view in self.lost else 1 for view in views}


async def watched(it: Keeper, epochs: Epochs) -> bool:
    task = asyncio.create_task(keep.watch_epochs(it, lambda project: epochs))
    while not epochs.reads:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    return it.state.lagging.store


async def test_a_view_without_an_epoch_means_lost_data_until_it_is_back(tmp_path: Path) -> None:
    it = keeper(tmp_path)
    await it.planned(plan())
    await it.routed(Routes.only(Route()))
    assert await watched(it, Epochs({"pair_stats"}))
    assert await watched(it, Epochs(set(), failing=True))
    assert not await watched(it, Epochs({"somebody_elses_view"}))


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "plan.json"
    plan_file.write(path, plan("more"))
    read = PlanFile(path).load()
    assert read == plan("more")
    assert read.version == plan("more").version


def test_a_plan_file_is_read_again_when_replaced_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    reader = PlanFile(path)
    with pytest.raises(TemporaryError):
        reader.load()
    plan_file.write(path, plan())
    first: Plan = reader.load()
    assert reader.load() is first
    path.write_text("[]")
    with pytest.raises(CorruptState):
        reader.load()
