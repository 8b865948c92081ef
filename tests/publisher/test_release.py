"""The way of a release, from the trainer's folder to gateways, and what failures leave behind."""

from dataclasses import replace
from pathlib import Path

import pytest

from services.common.errors import Conflict, NotFound
from services.publisher.book import Entry, Keeper, State, Switches, promoted
from services.publisher.checks import at_most, verdict
from services.publisher.outside import ReleasePolicy
from tests.publisher.exports import Net
from tests.publisher.fakes import BreakingDisk, CrashError, FullDisk
from tests.publisher.shop import SECOND, open_shop


def test_a_candidate_that_passes_is_staged_loaded_and_routed(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    release = shop.offer(1)
    shop.releases.step(SECOND)
    assert shop.world.routes[-1].champion == release
    assert shop.triton.loaded() == {release}
    assert sorted(p.name for p in (tmp_path / "releases" / release).iterdir()) == [
        "golden.safetensors", "manifest.json", "model.onnx", "retrieval.safetensors",
    ]  # fmt: skip
    assert shop.audited("promoted") == [release]
    assert not shop.store.candidates()


def test_the_old_champion_is_watched_then_drained_and_five_are_kept(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    names = []
    for seq in range(1, 8):
        names.append(shop.offer(seq))
        shop.releases.step(seq * 100 * SECOND)
    shop.releases.step(900 * SECOND)
    route = shop.world.routes[-1]
    assert (route.champion, route.previous) == (names[6], names[5])
    assert shop.triton.loaded() == {names[6], names[5]}
    assert shop.store.kept() == names[2:]
    assert sorted(p.name for p in (tmp_path / "triton").iterdir()) == names[2:]


def test_a_drained_release_answers_until_its_requests_had_time_to_finish(tmp_path: Path) -> None:
    shop = open_shop(tmp_path, ReleasePolicy(drain_s=10))
    names = []
    for seq in (1, 2, 3):
        names.append(shop.offer(seq))
        shop.releases.step(seq * SECOND)
    shop.releases.step(12 * SECOND)
    assert names[0] in shop.triton.loaded()
    shop.releases.step(14 * SECOND)
    assert names[0] not in shop.triton.loaded()


def test_a_refused_candidate_changes_nothing(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    good = shop.offer(1)
    shop.releases.step(SECOND)
    shop.world.verdict = lambda manifest: verdict([at_most("auc", 1, 0)])
    bad = shop.offer(2)
    shop.releases.step(2 * SECOND)
    assert shop.world.routes[-1].champion == good
    assert shop.releases.book.entry(bad).state == State.REFUSED
    assert "auc 1 (bound 0)" in shop.releases.book.entry(bad).reason
    assert shop.store.kept() == [good]
    assert shop.triton.loaded() == {good}


def test_a_file_that_is_not_the_one_named_in_the_manifest_is_refused(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    release = shop.offer(1)
    with open(shop.store.exports / release / "model.onnx", "ab") as file:
        file.write(b"x")
    shop.releases.step(SECOND)
    assert shop.releases.book.entry(release).state == State.REFUSED
    assert "model.onnx" in shop.releases.book.entry(release).reason


def test_a_load_that_triton_refuses_leaves_the_champion_and_no_trace(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    good = shop.offer(1)
    shop.releases.step(SECOND)
    shop.triton.refuses_loads = True
    bad = shop.offer(2)
    shop.releases.step(2 * SECOND)
    assert shop.releases.book.champion == good
    assert shop.releases.book.entry(bad).state == State.REFUSED
    assert shop.store.kept() == [good]
    assert not (tmp_path / "triton" / bad).exists()


def test_answers_in_triton_that_differ_from_the_golden_ones_stop_the_release(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    wrong = shop.offer(1, Net(rows=0.5), trained=Net())
    shop.releases.step(SECOND)
    assert not shop.world.routes[-1].champion
    assert "golden" in shop.releases.book.entry(wrong).reason
    assert not shop.triton.loaded()


def test_while_triton_is_away_a_candidate_waits_and_is_routed_after(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    shop.triton.away = True
    release = shop.offer(1)
    shop.releases.step(SECOND)
    assert not shop.releases.book.knows(release)
    shop.triton.away = False
    shop.releases.step(3 * SECOND)
    assert shop.world.routes[-1].champion == release


def test_before_there_is_what_to_judge_by_a_candidate_waits(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    release = shop.offer(1)
    shop.releases.step(SECOND, judging=False)
    assert not shop.releases.book.knows(release)
    shop.releases.step(2 * SECOND)
    assert shop.releases.book.champion == release


def test_a_full_disk_leaves_the_champion_and_the_candidate(tmp_path: Path) -> None:
    disk = FullDisk()
    shop = open_shop(tmp_path, disk=disk)
    good = shop.offer(1)
    shop.releases.step(SECOND)
    disk.full = True
    release = shop.offer(2)
    shop.releases.step(2 * SECOND)
    assert (shop.releases.book.champion, shop.releases.book.knows(release)) == (good, False)
    disk.full = False
    shop.releases.step(5 * SECOND)
    assert shop.releases.book.champion == release


def test_many_refusals_do_not_push_the_champion_out_of_the_book(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "book.json", "main")
    entry = Entry("r20260102t030405-1-1", State.HELD, "", 0, 0, {}, 1, 1, "a", 1, "1-1")
    keeper.change(lambda book: promoted(book, entry, "", 0))
    for seq in range(2, 300):
        bad = replace(entry, release=f"r20260102t030405-1-{seq}", state=State.REFUSED)
        keeper.change(lambda book, bad=bad: book.with_entry(bad))  # type: ignore[misc]
    assert keeper.book.entry(entry.release).state == State.CHAMPION
    assert len(keeper.book.entries) < 200


def test_a_route_that_was_not_acknowledged_is_sent_again(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    shop.releases.step(0)
    release = shop.offer(1)
    shop.world.broker_down = True
    shop.releases.step(SECOND)
    assert shop.releases.book.champion == release
    assert not shop.world.routes[-1].champion
    shop.world.broker_down = False
    shop.releases.step(2 * SECOND)
    assert shop.world.routes[-1].champion == release


def test_of_several_waiting_candidates_only_the_newest_is_judged(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    older, newer = shop.offer(1), shop.offer(2)
    shop.releases.step(SECOND)
    assert shop.releases.book.champion == newer
    assert shop.releases.book.entry(older).reason == "superseded by a newer candidate"


def test_a_candidate_of_a_fenced_lineage_is_refused(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    release = shop.offer(1, lineage=2)
    shop.releases.step(SECOND)
    assert shop.releases.book.entry(release).state == State.REFUSED


def test_with_manual_approval_a_passed_release_waits_for_a_person(tmp_path: Path) -> None:
    shop = open_shop(tmp_path, ReleasePolicy(approval="manual"))
    release = shop.offer(1)
    shop.releases.step(SECOND)
    assert shop.releases.book.entry(release).state == State.HELD
    assert not shop.world.routes[-1].champion
    assert shop.triton.loaded() == {release}
    shop.releases.promote(release, "ada", 2 * SECOND)
    assert shop.world.routes[-1].champion == release
    with pytest.raises(Conflict):
        shop.releases.promote(release, "ada", 3 * SECOND)


def test_a_release_that_nobody_judged_cannot_be_promoted(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    with pytest.raises(NotFound):
        shop.releases.promote("r20260102t030405-1-9", "ada", SECOND)


def test_frozen_releases_leave_candidates_waiting(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    shop.releases.freeze(Switches(releases=True, actor="ada", reason="sale"), 0)
    release = shop.offer(1)
    shop.releases.step(SECOND)
    assert not shop.releases.book.champion
    assert (shop.world.routes[-1].freeze.releases, shop.world.routes[-1].freeze.actor) == (True, "ada")
    shop.releases.freeze(Switches(), SECOND)
    shop.releases.step(2 * SECOND)
    assert shop.releases.book.champion == release


def test_a_rollback_routes_to_the_previous_release_at_once_and_fences_the_trainer(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    good = shop.offer(1)
    shop.releases.step(SECOND)
    bad = shop.offer(2)
    shop.releases.step(2 * SECOND)
    shop.releases.rollback("", "watch", "log_loss", 3 * SECOND)
    route, told = shop.world.routes[-1], shop.world.told[-1]
    assert (route.champion, route.previous, route.slot, route.epoch) == (good, "", "a", 1)
    assert (told.learning.lineage, told.learning.epoch, told.learning.slot) == (2, 2, "b")
    assert told.from_checkpoint == "1-1"
    assert shop.releases.book.entry(bad).state == State.ROLLED_BACK
    shop.releases.step(60 * SECOND)
    assert shop.store.kept() == [good]
    assert shop.triton.loaded() == {good}


def test_there_must_be_something_to_go_back_to(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    shop.offer(1)
    shop.releases.step(SECOND)
    with pytest.raises(NotFound):
        shop.releases.rollback("", "ada", "", 2 * SECOND)


def test_a_restart_says_the_same_route_again(tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    release = shop.offer(1)
    shop.releases.step(SECOND)
    again = open_shop(tmp_path, triton=shop.triton)
    again.releases.step(2 * SECOND)
    assert again.world.routes[-1].champion == release


@pytest.mark.parametrize("after", range(12))
def test_a_crash_at_any_write_never_leaves_half_a_release(tmp_path: Path, after: int) -> None:
    shop = open_shop(tmp_path, disk=BreakingDisk(after))
    release = shop.offer(1)
    crashed = False
    try:
        shop.releases.step(SECOND)
    except CrashError:
        crashed = True
    assert crashed == (after < 10)
    for folder, last in (("releases", "manifest.json"), ("triton", "config.pbtxt")):
        for found in (p for p in (tmp_path / folder).iterdir() if p.is_dir()):
            assert (found / last).read_bytes()
    again = open_shop(tmp_path)
    again.releases.step(2 * SECOND)
    again.releases.tend(mark=False)
    assert again.world.routes[-1].champion == release
    assert again.triton.loaded() == {release}
    assert not list((tmp_path / "staging").iterdir())
