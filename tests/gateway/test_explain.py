"""Explain: what each input contributed to a score that was served."""

from pathlib import Path

import numpy as np
import pytest

from services.common.errors import InvalidInput, NotFound
from services.common.tokens import Tokens
from services.gateway.calls import ExplainCall
from tests.gateway.shop import NOW, TOKENS, Shop, budget
from tests.gateway.test_rank import call


async def explain(shop: Shop, token: str, item: str = "", top: int = 50):  # type: ignore[no-untyped-def]
    return await shop.explainer.explain(ExplainCall(token, item, top, NOW), budget(), budget().ends_s - 1)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


async def test_contributions_are_score_minus_score_without_in_order_of_size(shop: Shop) -> None:
    answer = await shop.ranker.rank(call("i1", "i20"), budget())
    found = await explain(shop, answer.token)
    assert (found.item, found.release) == ("i20", "r1")
    assert found.score == pytest.approx(found.served_score)
    sizes = [abs(part.contribution) for part in found.parts]
    assert sizes == sorted(sizes, reverse=True)
    by_name = {part.feature: part for part in found.parts}
    price = by_name["cross:price"]
    assert (price.value, price.age_ms) == (21.0, -1)
    assert price.contribution == pytest.approx(21 / 1000 * 1.5, rel=1e-4)
    assert by_name["user_stats:clicks"].age_ms == 3000
    assert by_name["session_stats:views"].age_ms == 4000
    assert by_name["item_stats:popular"].age_ms == 1000
    assert by_name["row"].value == 1
    assert by_name["history"].contribution == 0
    assert len(found.parts) == len(shop.plan.ranking.user) + len(shop.plan.ranking.item) + 5


async def test_another_item_of_the_answer_can_be_explained_and_top_limits_the_list(shop: Shop) -> None:
    answer = await shop.ranker.rank(call("i1", "i20"), budget())
    found = await explain(shop, answer.token, "i1", top=2)
    assert (found.item, len(found.parts)) == ("i1", 2)
    with pytest.raises(NotFound):
        await explain(shop, answer.token, "i2")


async def test_the_inputs_are_those_of_then_not_of_now(shop: Shop) -> None:
    answer = await shop.ranker.rank(call("i1", "i20"), budget())
    shop.writer.apply([(b"c|i20", None), (b"r|a|i20", None), (b"f|item_stats|i20", None)])
    await explain(shop, answer.token)
    first, again = shop.scorer.calls[0][1], shop.scorer.calls[1][1]
    for name in ("item", "content", "row", "row_mask"):
        np.testing.assert_array_equal(first[name][0, 1], again[name][0, 0])


async def test_what_is_not_held_or_not_proved_is_not_explained(shop: Shop) -> None:
    answer = await shop.ranker.rank(call("i1"), budget())
    with pytest.raises(NotFound):
        await explain(shop, TOKENS.issue("0" * 32, "ada", NOW))
    forged = Tokens({1: b"x" * 16}, 1).issue(answer.request_id, "ada", NOW)
    with pytest.raises(InvalidInput):
        await explain(shop, forged)
    shop.state.worlds = shop.world("r2")
    with pytest.raises(NotFound):
        await explain(shop, answer.token)


async def test_a_forgotten_shopper_cannot_be_explained(shop: Shop) -> None:
    answer = await shop.ranker.rank(call("i1"), budget())
    shop.recent.forget("ada")
    with pytest.raises(NotFound):
        await explain(shop, answer.token)


async def test_answers_are_held_for_a_bounded_time(shop: Shop) -> None:
    answer = await shop.ranker.rank(call("i1"), budget())
    assert shop.recent.get(answer.request_id, NOW + 900_000_000) is not None
    assert shop.recent.get(answer.request_id, NOW + 900_000_001) is None
