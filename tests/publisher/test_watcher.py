"""From the topic to a rollback: a release that is a little worse passes the gate and is taken back by the watch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from freshrank.v1.events_pb2 import DEGRADATION_LAST_RELEASE, Impression
from numpy.typing import NDArray

from services.common import records
from services.common.encode import NoRows
from services.common.ids import share_of
from services.common.spec import Arrays
from services.publisher.canary import WatchBounds
from services.publisher.fleet import Fleet
from services.publisher.intake import Intake
from services.publisher.pod import ServedStats
from services.publisher.replay import BATCH, Replay, Scored
from services.publisher.ripening import Ripening
from services.publisher.shelf import Shelf
from services.publisher.watcher import Watcher, pairs
from tests.publisher.exports import SPEC, Net, impressions, window, with_auc_lost
from tests.publisher.shop import SECOND, Shop, open_shop


def watcher_of(shop: Shop, share: float = 0.02) -> Watcher:
    fleet = Fleet(lambda: ["one:8001"], lambda address: shop.triton)
    return Watcher(Shelf(shop.store.releases), fleet, NoRows(SPEC.row_dim), share, WatchBounds)


def two_releases(shop: Shop, second: Net) -> tuple[str, str]:
    names = []
    for seq, net in ((1, Net()), (2, second)):
        names.append(shop.offer(seq, net))
        shop.releases.step(seq * 100 * SECOND)
    assert shop.releases.book.champion == names[1]
    return names[0], names[1]


def test_a_release_that_loses_two_thousandths_of_auc_is_rolled_back(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    good, worse = two_releases(shop, with_auc_lost(0.002))
    watcher, seen = watcher_of(shop), 0
    for seed in range(100, 140):
        for closed in impressions(500, seed):
            watcher.labelled(closed)
        seen += 500
        verdict = watcher.step(shop.releases.book, True)
        assert verdict is not None
        if not verdict.passed:
            shop.releases.rollback("", "watch", verdict.reason, 300 * SECOND, verdict)
            break
    assert shop.releases.book.champion == good
    assert "log_loss" in shop.releases.book.entry(worse).reason
    assert seen < 20_000


def test_an_equal_release_stays(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    two_releases(shop, Net())
    watcher = watcher_of(shop)
    for closed in window(2_000, 7):
        watcher.labelled(closed)
    verdict = watcher.step(shop.releases.book, True)
    assert verdict is not None
    assert verdict.passed
    assert watcher.figures()["impressions"] == pytest.approx(2_000, abs=1)


def test_what_the_weights_have_learned_from_proves_nothing(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    shop.offer(1)
    shop.releases.step(100 * SECOND)
    shop.offer(2, more={"learned_up_to_us": 5_000 * SECOND})
    shop.releases.step(200 * SECOND)
    watcher = watcher_of(shop)
    for closed in window(2_000, 7):
        watcher.labelled(closed)
    watcher.step(shop.releases.book, True)
    assert watcher.figures()["impressions"] == 0


def test_without_a_previous_release_there_is_nothing_to_watch(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    shop.offer(1)
    shop.releases.step(100 * SECOND)
    assert watcher_of(shop).step(shop.releases.book, True) is None


def test_answers_count_for_the_release_that_the_shopper_belongs_to(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    _, champion = two_releases(shop, Net())
    watcher = watcher_of(shop, share=0.3)
    watcher.step(shop.releases.book, True)
    for number in range(2_000):
        user = f"user-{number}"
        failing = share_of(user, "watch") >= 0.3
        watcher.served(Impression(user_id=user, time_us=10**12, degradation=DEGRADATION_LAST_RELEASE if failing else 1))
    verdict = watcher.step(shop.releases.book, True)
    assert verdict is not None
    assert [check.name for check in verdict.failed] == ["degraded"]
    assert champion == shop.releases.book.champion


def test_answers_to_another_arms_shoppers_count_for_that_arm(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    two_releases(shop, Net())
    watcher = watcher_of(shop)
    watcher.step(shop.releases.book, True)
    for arm, count in (("main", 3), ("gentle", 50)):
        for number in range(count):
            rung = DEGRADATION_LAST_RELEASE if arm == "gentle" else 1
            watcher.served(Impression(user_id=f"u{number}", arm=arm, time_us=10**12, degradation=rung))
    watcher.step(shop.releases.book, True)
    assert watcher.figures()["degraded"] == 0


def test_inferences_count_from_the_moment_of_routing(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    previous, champion = two_releases(shop, Net())
    shop.triton.counts = {champion: ServedStats(100, 90, 1.0), previous: ServedStats(100, 0, 1.0)}
    watcher = watcher_of(shop)
    first = watcher.step(shop.releases.book, True)
    assert first is not None
    assert first.passed
    shop.triton.counts[champion] += ServedStats(20, 80, 0.2)
    second = watcher.step(shop.releases.book, True)
    assert second is not None
    assert [check.name for check in second.failed] == ["failed"]


class Ear:
    """Remembers impressions."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.labels: dict[str, tuple[int, ...]] = {}
        self.heads: list[tuple[str, ...]] = []

    def served(self, impression: Impression) -> None:
        self.answers.append(impression.impression_id)

    def labelled(self, closed: object) -> None:
        self.labels[closed.impression.impression_id] = closed.labels  # type: ignore[attr-defined]
        self.heads.append(closed.heads)  # type: ignore[attr-defined]


def message(*rows: tuple[int, int, Impression, list[int], list[int]], first: int = 0, weight: float = 1.0) -> bytes:
    """Kind, log time, impression, items and labels of each row."""
    batch: pa.RecordBatch = records.batch_of(
        records.EXAMPLES,
        {
            "src_offset": [first + k for k in range(len(rows))],
            "src_index": [0] * len(rows),
            "kind": [row[0] for row in rows],
            "time_us": [row[1] for row in rows],
            "impression_id": [row[2].impression_id for row in rows],
            "items": [row[3] for row in rows],
            "labels": [row[4] for row in rows],
            "weights": [[weight] * len(row[3]) for row in rows],
            "user": [row[2].user_id for row in rows],
            "event_time_us": [row[2].time_us for row in rows],
            "impression": [row[2].SerializeToString() for row in rows],
        },
    )
    return records.encode(batch)


def an_impression() -> tuple[Impression, Impression]:
    """A whole impression of two shown items and one not shown, and what a flip of the second carries."""
    whole = Impression(impression_id="one", user_id="u", time_us=SECOND)
    for name, shown in (("a", True), ("b", True), ("c", False)):
        whole.items.add(item_id=name, shown=shown)
    return whole, Impression(impression_id="one", time_us=SECOND, items=[whole.items[1]])


def test_an_impression_is_ripe_with_the_clicks_it_has() -> None:
    ear, (whole, part) = Ear(), an_impression()
    intake = Intake(Replay(10), ear, 60 * SECOND)
    intake.apply(0, message((records.INITIAL, SECOND, whole, [0, 1, 2], [0, 0, 0])))
    intake.apply(0, message((records.FLIP, 30 * SECOND, part, [0], [1]), first=1))
    assert ear.labels == {}
    intake.apply(0, message((records.FLIP, 62 * SECOND, part, [0], [2]), first=2))
    assert ear.labels == {"one": (0, 3)}
    intake.apply(0, message((records.CLOSED, 700 * SECOND, whole, [0, 1, 2], [1, 3, 0]), first=3))
    assert ear.labels == {"one": (0, 3)}
    assert (len(intake), intake.final_since(SECOND), ear.answers) == (1, 1, ["one"])


def test_final_labels_are_taken_where_they_come_first() -> None:
    ear, (whole, _) = Ear(), an_impression()
    intake = Intake(Replay(10), ear, 60 * SECOND)
    intake.apply(0, message((records.INITIAL, SECOND, whole, [0, 1, 2], [0, 0, 0])))
    intake.apply(0, message((records.CLOSED, 20 * SECOND, whole, [0, 1, 2], [1, 0, 1]), first=1))
    assert ear.labels == {"one": (1, 0)}


def test_what_is_not_learned_from_is_not_judged_by() -> None:
    ear, (whole, _) = Ear(), an_impression()
    intake = Intake(Replay(10), ear, 60 * SECOND)
    intake.apply(0, message((records.INITIAL, SECOND, whole, [0, 1, 2], [0, 0, 0]), weight=0.0))
    intake.apply(0, message((records.CLOSED, 700 * SECOND, whole, [0, 1, 2], [0, 0, 0]), first=1))
    assert (len(intake), ear.labels, ear.answers) == (0, {}, ["one"])


def test_a_forgotten_shopper_is_judged_by_no_more() -> None:
    ear, (whole, _) = Ear(), an_impression()
    intake = Intake(Replay(10), ear, 60 * SECOND)
    waiting, other = Impression(), Impression()
    waiting.CopyFrom(whole)
    other.CopyFrom(whole)
    waiting.impression_id, other.impression_id, other.user_id = "two", "three", "v"
    intake.apply(0, message((records.CLOSED, 2 * SECOND, whole, [0, 1], [1, 0])))
    intake.apply(0, message((records.CLOSED, 2 * SECOND, other, [0, 1], [1, 0]), first=1))
    intake.apply(0, message((records.INITIAL, 3 * SECOND, waiting, [0, 1], [0, 0]), first=2))
    forget = Impression(user_id="u", time_us=4 * SECOND)
    intake.apply(0, message((records.FORGET, 5 * SECOND, forget, [], []), first=3))
    intake.apply(0, message((records.FLIP, 200 * SECOND, Impression(), [], []), first=4))
    assert (len(intake), sorted(ear.labels)) == (1, ["one", "three"])


def test_an_example_counts_once_however_often_it_comes() -> None:
    ear, (whole, _) = Ear(), an_impression()
    intake = Intake(Replay(10), ear, 0)
    twice = message((records.CLOSED, SECOND, whole, [0, 1], [1, 0]))
    intake.apply(0, twice)
    intake.apply(0, twice)
    assert len(intake) == 1


def test_what_cannot_be_read_is_counted_and_passed_over() -> None:
    intake = Intake(Replay(10), Ear(), 0)
    intake.apply(0, b"\xff\xff")
    intake.apply(0, None)
    intake.apply(0, message((records.CLOSED, SECOND, Impression(), [5], [1])))
    assert (intake.unreadable, len(intake)) == (3, 0)


def test_when_too_many_wait_the_oldest_are_taken_early() -> None:
    ripening = Ripening(60 * SECOND, 2)
    for number in range(4):
        ripening.opened(Impression(impression_id=str(number), time_us=number, items=[{"item_id": "a"}]), (0,))  # type: ignore[list-item]
    assert [closed.impression.impression_id for closed in ripening.ripe(0)] == ["0", "1"]


def test_the_replay_keeps_the_newest_and_leaves_out_answers_without_a_model() -> None:
    replay = Replay(100)
    for closed in window(300, 9):
        replay.add(closed)
    assert 100 <= len(replay) < 164
    degraded = Impression(degradation=DEGRADATION_LAST_RELEASE + 1)
    before = len(replay)
    replay.add(type(closed)(degraded, (0,), (0,)))
    assert len(replay) == before
    assert replay.snapshot().score([], SPEC, NoRows(4)) == []


def test_long_lists_are_kept_as_far_as_their_candidates_go_and_probed_by_whole_batches() -> None:
    replay = Replay(1_000, candidates=500)
    closed = window(1, 9)[0]
    listed = replace(closed, items=(0, 1), labels=(0, 1))
    for _ in range(600):
        replay.add(listed)
    assert 250 <= len(replay) < 250 + BATCH
    assert len(replay.snapshot(100)) == BATCH
    assert len(replay.snapshot(2 * BATCH + 1)) == 2 * BATCH
    long = Replay(1_000, candidates=500, least=400)
    for _ in range(600):
        long.add(listed)
    assert 400 <= len(long) < 400 + BATCH  # or lists of a thousand would leave the gate nothing to judge by
    few = Replay(1_000)
    for _ in range(BATCH + 7):
        few.add(listed)
    assert len(few.snapshot(100)) == BATCH
    assert len(few.snapshot(10_000)) == BATCH + 7


class Blank:
    """A model that says nothing."""

    def run(self, arrays: Arrays) -> NDArray[np.float32]:
        return np.zeros((*arrays["mask"].shape, len(SPEC.heads)), np.float32)


def test_labels_mean_the_heads_that_their_message_names() -> None:
    plain, named = Replay(1_000), Replay(1_000)
    heads = tuple(reversed(SPEC.heads))
    for closed in window(70, 9):
        plain.add(closed)
        turned = [
            sum((bits >> k & 1) << heads.index(head) for k, head in enumerate(SPEC.heads)) for bits in closed.labels
        ]
        named.add(replace(closed, labels=tuple(turned), heads=heads))
        named.add(replace(closed, heads=("rate",)))  # of a joiner with other settings: nothing to judge this model by
    (one,), (other,) = (replay.snapshot().score([Blank()], SPEC, NoRows(4)) for replay in (plain, named))
    assert one.labels[:, :2].any(axis=0).all()
    np.testing.assert_array_equal(other.labels, one.labels)
    assert other.impressions == one.impressions == 70


def test_heads_come_with_the_key_of_the_message() -> None:
    whole, _ = an_impression()
    for ripe_us, first in ((60 * SECOND, records.INITIAL), (0, records.CLOSED)):
        ear = Ear()
        intake = Intake(Replay(10), ear, ripe_us)
        intake.apply(0, message((first, SECOND, whole, [0, 1, 2], [0, 1, 0])), b"click,like")
        intake.apply(0, message((records.FLIP, 62 * SECOND, whole, [0], [1]), first=1), b"click,like")
        assert ear.heads == [("click", "like")]


def test_sums_of_an_impression_are_over_its_own_candidates() -> None:
    labels = np.array([[1.0], [0.0], [0.0]], np.float32)
    groups = np.array([4, 4, 9])
    one, other = (Scored(labels, np.array([[p], [0.5], [0.25]], np.float32), groups) for p in (0.5, 0.25))
    first, second = pairs(one, other)
    assert (first.clicks, first.candidates) == (1, 2)
    assert (second.clicks, second.candidates) == (0, 1)
    assert first.losses == pytest.approx((2 * np.log(2), np.log(4) + np.log(2)))
    assert first.expected == pytest.approx((1.0, 0.75))
