"""An item is served a row of its text before it has one, a mixture while little is known, then its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import TemporaryError
from services.publisher.book import Lane
from services.publisher.cold.rows import Blend
from services.publisher.encoders.book import TextLane
from services.publisher.table import Rows
from tests.publisher.cold.parts import DIM, NONE, Shop

HOUR = 3_600_000_000
WARM, FEW = 200, 220
"""Items up to here are seen often; from there up to the second, seldom; the rest never."""


def a_shop(root: Path, told: float = 0.9) -> Shop:
    shop = Shop(root, told)
    shop.learn(0, WARM, 200)
    shop.learn(WARM, FEW, 10, seq=2)
    return shop


def test_an_item_that_nobody_has_seen_is_served_a_row_near_its_true_one(tmp_path: Path) -> None:
    shop = a_shop(tmp_path)
    shop.settle(HOUR)
    served = shop.served()
    cold = shop.ids[FEW:]
    gap = np.mean([np.square(served[item] - shop.true[shop.ids.index(item)]).sum() for item in cold])
    assert gap < 0.5 * np.square(shop.true[FEW:]).sum(axis=1).mean()
    row = shop.log.rows("a")[cold[0]]
    assert (row.seq, row.learned_up_to_us, row.epoch) == (0, 0, 1)


def test_rows_of_items_seen_often_stay_the_same_bit_for_bit(tmp_path: Path) -> None:
    shop = a_shop(tmp_path)
    shop.settle(HOUR)
    often = shop.learn(0, WARM, 100, seq=3)
    for at, item in enumerate(often.ids):
        assert shop.inner.rows[("a", "item", item)][2] == often.rows[at].tolist()
        assert item not in shop.served()


def test_a_row_that_is_seldom_seen_lies_between_its_text_and_itself(tmp_path: Path) -> None:
    shop = a_shop(tmp_path)
    shop.settle(HOUR)
    item = shop.ids[FEW]
    text = shop.served()[item]
    own = shop.learn(FEW, FEW + 1, 30, seq=3)
    served = np.array(shop.inner.rows[("a", "item", item)][2], np.float32)
    np.testing.assert_allclose(served, (10 * text + 30 * own.rows[0]) / 40, rtol=1e-5)


def test_what_was_pushed_before_the_fit_is_sent_again_as_a_mixture(tmp_path: Path) -> None:
    shop = a_shop(tmp_path)
    shop.settle(HOUR)
    row = shop.log.rows("a")[shop.ids[WARM]]
    assert (row.seq, row.learned_up_to_us) == (2, 2_000_000)
    assert not np.allclose(row.row, shop.true[WARM], atol=1e-4)
    assert shop.cold.counts == {"text": len(shop.ids) - FEW, "blended": FEW - WARM, "due": 0}


def test_texts_that_tell_nothing_make_no_rows_and_the_audit_says_so(tmp_path: Path) -> None:
    shop = a_shop(tmp_path, told=0.0)
    shop.settle(HOUR)
    assert shop.served() == {}
    entry = shop.audit.entries()[-1]
    assert (entry["decision"], entry["used"]) == ("content_rows", False)
    assert shop.figures[-1]["used"] == 0


def test_without_labels_to_judge_by_nothing_is_served(tmp_path: Path) -> None:
    shop = a_shop(tmp_path)
    shop.labelled = False
    shop.settle(HOUR)
    assert shop.served() == {}
    assert shop.figures == []


def test_a_text_that_comes_later_gets_its_row_at_once(tmp_path: Path) -> None:
    shop = a_shop(tmp_path)
    shop.settle(HOUR)
    shop.write("late", shop.vectors[0])
    shop.settle(HOUR + 1)
    np.testing.assert_allclose(shop.served()["late"], shop.true[0], atol=1.5)


def test_an_item_whose_text_is_gone_loses_the_row_that_was_made_from_it(tmp_path: Path) -> None:
    shop = a_shop(tmp_path)
    shop.settle(HOUR)
    shop.write(shop.ids[-1], None)
    shop.settle(HOUR + 1)
    assert shop.ids[-1] not in shop.served()


def test_when_texts_stop_helping_their_rows_are_taken_away_also_by_another_process(tmp_path: Path) -> None:
    shop = a_shop(tmp_path)
    shop.settle(HOUR)
    shop.begin()
    elsewhere = np.random.default_rng(3).normal(size=(FEW, DIM)).astype(np.float32)
    shop.own.item.apply(replace(shop.own.item.all(), rows=elsewhere))
    shop.settle(2 * HOUR)
    served, own = shop.served(), shop.own.items(shop.ids[WARM:FEW])[0]
    assert set(served) == set(shop.ids[WARM:FEW])
    for at, item in enumerate(shop.ids[WARM:FEW]):
        np.testing.assert_array_equal(served[item], own[at])


def test_a_row_that_the_trainer_lets_go_becomes_that_of_its_text(tmp_path: Path) -> None:
    shop = a_shop(tmp_path)
    shop.settle(HOUR)
    gone = Rows.of([shop.ids[0]], np.zeros((1, DIM), np.float32), 4, 4, np.zeros(1, np.uint8))
    shop.cold.push(shop.lane, gone, NONE)
    shop.own.item.apply(gone)
    shop.settle(HOUR + 1)
    assert shop.log.rows("a")[shop.ids[0]].learned_up_to_us == 0


def test_rows_of_another_lineage_are_fitted_anew(tmp_path: Path) -> None:
    shop = a_shop(tmp_path)
    shop.settle(HOUR)
    shop.lane = Lane(2, 2, "b")
    assert shop.cold.send(shop.lane) == 0
    plain = shop.learn(WARM, FEW, 10, seq=5)
    assert shop.inner.rows[("b", "item", shop.ids[WARM])][2] == plain.rows[0].tolist()
    shop.settle(HOUR + 1)
    assert {row.epoch for row in shop.log.rows("b").values()} == {2}


def test_another_encoder_is_fitted_anew_and_one_that_is_gone_is_not_asked(tmp_path: Path) -> None:
    shop = a_shop(tmp_path)
    shop.settle(HOUR)
    before = shop.served()[shop.ids[-1]]
    shop.text = TextLane("t2", "tb", 4)
    for item, vector in zip(shop.ids, shop.vectors[:, ::-1], strict=True):
        shop.write(item, np.ascontiguousarray(vector))
    shop.settle(HOUR + 1)
    np.testing.assert_allclose(shop.served()[shop.ids[-1]], before, atol=0.1)
    assert [e["encoder"] for e in shop.audit.entries()] == ["t1", "t2"]


def test_a_failed_send_is_made_again(tmp_path: Path) -> None:
    shop = a_shop(tmp_path)
    shop.study.step(HOUR)
    shop.study.step(HOUR)
    due = shop.cold.counts["due"]
    shop.down = True
    with pytest.raises(TemporaryError):
        shop.cold.send(shop.lane)
    assert shop.cold.counts["due"] == due > 0
    shop.down = False
    shop.settle(HOUR)
    assert len(shop.served()) == len(shop.ids) - WARM


def test_rows_without_a_count_are_served_as_they_are() -> None:
    own = Rows.of(["a"], np.ones((1, 2), np.float32), 1, 1)
    assert Blend().rows(own, np.zeros((1, 2), np.float32)).tolist() == [[1.0, 1.0]]
    assert not Blend().little(own).any()
