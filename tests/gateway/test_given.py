"""Vectors that the shop gives: pictures are generated, and Similar finds those that look alike."""

from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.ranking_pb2 import Item, ItemVector

from services.common.errors import TemporaryError
from services.gateway.calls import Caller, SimilarCall
from services.gateway.candidates import Wanted
from services.gateway.given import row_of
from services.gateway.ranker import Policy
from services.gateway.search.vector_index import VectorIndexer
from tests.gateway.pictures import LOOKS, embedded, picture, pictured
from tests.gateway.shop import NOW, Shop, budget, recent


async def put_in(shop: Shop, *items: Item) -> None:
    """As calls do, and as the process that follows the log does then."""
    await shop.intake.upsert(items, NOW, 1.0)
    shop.upsert(*(entry for _, entry in shop.sends.items if entry is not None))
    shop.writer.apply([
        (f"r|{slot}|{item}".encode(), row.SerializeToString() if row else None) for slot, item, row in shop.sends.rows
    ])  # fmt: skip
    shop.given.renew(shop.table)
    shop.sends.items.clear()
    shop.sends.rows.clear()


@pytest.fixture
async def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path, policy=Policy(explore=0.0, similar_vectors=0.9))
    await put_in(made, *(pictured(name, seed) for seed, name in enumerate(LOOKS)))
    return made


async def alike(shop: Shop, item: str, count: int = 2) -> list[str]:
    return list((await shop.ranker.similar(SimilarCall(item, count, NOW), budget())).ids)


async def test_what_has_the_same_colours_is_similar(shop: Shop) -> None:
    for name, (colour, _) in LOOKS.items():
        found = await alike(shop, name)
        assert {LOOKS[item][0] for item in found} == {colour}
        assert name not in found


async def test_without_the_vectors_nothing_tells_them_apart(tmp_path: Path) -> None:
    shop = Shop(tmp_path, policy=Policy(explore=0.0, similar_vectors=0.0))
    await put_in(shop, *(pictured(name, seed) for seed, name in enumerate(LOOKS)))
    answers = [await shop.ranker.similar(SimilarCall(name, 11, NOW), budget()) for name in LOOKS]
    assert all(set(answer.ids) == set(LOOKS) - {name} for name, answer in zip(LOOKS, answers, strict=True))
    assert all(np.ptp(answer.scores) == pytest.approx(0, abs=1e-6) for answer in answers)


async def test_a_new_picture_takes_the_place_of_the_old_one(shop: Shop) -> None:
    item = pictured("red-disc", 50)
    item.vectors[0].values[:] = embedded(picture("blue", "disc", 51))
    await put_in(shop, item)
    assert {LOOKS[found][0] for found in await alike(shop, "red-disc", 3)} == {"blue"}


async def test_an_item_that_is_sent_without_its_picture_keeps_it(shop: Shop) -> None:
    await put_in(shop, Item(item_id="red-disc", title="print", categories=["art"], price=4.0))
    assert {LOOKS[found][0] for found in await alike(shop, "red-disc")} == {"red"}


async def test_an_empty_vector_takes_it_out_and_a_deletion_does(shop: Shop) -> None:
    item = pictured("red-disc", 0)
    del item.vectors[0].values[:]
    await put_in(shop, item)
    assert "red-disc" not in await alike(shop, "red-square", 1)
    await shop.intake.delete(["red-stripes"], 1.0)
    assert shop.sends.rows == [("v.image", "red-stripes", None)]


async def test_an_item_without_a_picture_has_items_like_it_all_the_same(shop: Shop) -> None:
    assert len(await alike(shop, "i3", 3)) == 3


async def test_an_index_finds_what_a_comparison_of_all_does(shop: Shop, tmp_path: Path) -> None:
    before = [await alike(shop, name) for name in LOOKS]
    indexer = VectorIndexer(tmp_path / "vectors", tmp_path / "table", keep=False, least=5, slots=("v.image",))
    assert indexer.look("v.image")
    shop.given.renew(shop.table)
    assert [await alike(shop, name) for name in LOOKS] == before


async def test_an_upsert_waits_for_the_vectors_too(shop: Shop) -> None:
    shop.sends.failure = TemporaryError("no broker")
    with pytest.raises(TemporaryError):
        await shop.intake.upsert([pictured("red-disc", 0)], NOW, 1.0)


async def test_likeness_to_what_was_clicked_is_a_feature_of_the_model(shop: Shop) -> None:
    shop.store.lists = {"user_stats:recent": recent(("red-disc", 2, 5), ("blue-disc", 1, 6), ("red-square", 2, 9))}
    wanted = Wanted.of(["red-stripes", "green-disc", "blue-square", "i3", "nobody"])
    seen = await shop.pipeline.evaluate(Caller("ada"), wanted, NOW, budget())
    feature = next(cross for cross in shop.plan.crosses if cross.builtin == "vector_likeness")
    column = [ref.id for ref in shop.plan.ranking.item].index(feature.id)
    red, green, blue, *unknown = seen.candidates.features[:, column].tolist()
    assert red > 0.9
    assert max(green, blue) < 0.6  # what was only viewed does not count
    assert np.isnan(unknown).all()


async def test_without_clicks_on_anything_pictured_there_is_no_likeness(shop: Shop) -> None:
    slots = shop.table.slots(["red-disc", "i3"])
    for entries in ([], ["i3"], ["nobody"]):
        assert np.isnan(shop.given.likeness(shop.table.slots(entries), slots)).all()
    own = shop.given.likeness(slots[:1], slots)
    assert own[0] == pytest.approx(1, abs=0.01)
    assert np.isnan(own[1])


def test_a_row_is_a_direction() -> None:
    row = row_of(ItemVector(name="image", values=[3e38, 0.0, 4e-45, 3e38]), NOW)
    assert row is not None
    np.testing.assert_allclose(np.frombuffer(row.half, "<f2"), [0.7071, 0, 0, 0.7071], atol=1e-3)
    assert row_of(ItemVector(name="image"), NOW) is None
