"""Checkpoints and the journal: whole or not there."""

import json
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import CorruptState
from services.trainer import checkpoint, journal
from services.trainer.checkpoint import Checkpoints, Name
from services.trainer.examples import Batch
from services.trainer.factory import learner_of
from services.trainer.hooks import NoHooks
from services.trainer.journal import Journal, Record
from services.trainer.learner import Learner
from tests.trainer.arm import digest, settings
from tests.trainer.world import SPEC, Shop, message


def fresh() -> Learner:
    return learner_of(settings(admission=1), SPEC, None)


def learned(learner: Learner, shop: Shop, messages: int) -> Learner:
    start = learner.positions.get(0, 0)
    learner.apply(Batch({0: (start, start + messages)}, {0: shop.messages(messages)}))
    return learner


def restored(checkpoints: Checkpoints, name: Name | None = None) -> Learner:
    saved = checkpoints.load(name) if name else checkpoints.newest()
    assert saved is not None
    learner = fresh()
    learner.restore(saved.meta, saved.files, saved.rows)
    return learner


def test_a_checkpoint_comes_back_bit_equal_and_goes_on_bit_equal(tmp_path: Path) -> None:
    checkpoints, shop = Checkpoints(tmp_path, NoHooks()), Shop()
    learner = learned(fresh(), shop, 20)
    checkpoints.save(Name(1, 1), learner, [], {})
    other = restored(checkpoints)
    assert digest(other) == digest(learner)
    twin = Shop()
    twin.messages(20)
    assert digest(learned(other, twin, 20)) == digest(learned(learner, shop, 20))


@pytest.mark.parametrize("optimiser", ["adagrad", "adam"])
def test_the_optimisers_memory_is_part_of_it(optimiser: str, tmp_path: Path) -> None:
    made = learner_of(settings(optimiser=optimiser), SPEC, None)
    learner = learned(made, Shop(), 10)
    checkpoints = Checkpoints(tmp_path, NoHooks())
    checkpoints.save(Name(1, 1), learner, [], {})
    saved = checkpoints.load(Name(1, 1))
    other = learner_of(settings(optimiser=optimiser), SPEC, None)
    other.restore(saved.meta, saved.files, saved.rows)
    assert digest(other) == digest(learner)


def test_a_large_table_is_written_in_stripes_and_comes_back_whole(tmp_path: Path) -> None:
    checkpoints, shop = Checkpoints(tmp_path, NoHooks(), whole=10), Shop(items=300, users=60)
    learner, chain, sizes = learned(fresh(), shop, 30), [], []
    for seq in range(1, 40):
        name = Name(1, seq)
        chain = [*checkpoints.save(name, learner, chain, {}), name]
        sizes.append(len(checkpoints.load(name).rows[-1]["item.slots"]))
        checkpoints.prune([])
        if seq in (1, 2, 17, 25, 39):
            assert digest(restored(checkpoints)) == digest(learner)
        if seq % 3 == 0:
            learned(learner, shop, 1)
    assert len(chain) == checkpoint.STRIPES
    assert max(sizes[1:]) < sizes[0] / 3
    assert len(checkpoints.names()) < 2 * checkpoint.STRIPES


@pytest.mark.parametrize("file", ["state.json", "dense.safetensors", "rows.safetensors", "progress.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(file: str, damage: str, tmp_path: Path) -> None:
    checkpoints, shop = Checkpoints(tmp_path, NoHooks()), Shop()
    learner = learned(fresh(), shop, 5)
    checkpoints.save(Name(1, 1), learner, [], {})
    before = digest(learner)
    checkpoints.save(Name(1, 2), learned(learner, shop, 5), [], {})
    path = tmp_path / "1-2" / file
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    assert digest(restored(checkpoints)) == before
    with pytest.raises(CorruptState):
        checkpoints.load(Name(1, 2))


def test_when_none_is_whole_it_says_so_and_does_not_begin_anew(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, NoHooks())
    assert checkpoints.newest() is None
    checkpoints.save(Name(1, 1), fresh(), [], {})
    (tmp_path / "1-1" / "state.json").unlink()
    with pytest.raises(CorruptState, match="none of the 1"):
        checkpoints.newest()


def test_three_are_kept_and_those_that_releases_came_from(tmp_path: Path) -> None:
    checkpoints, learner = Checkpoints(tmp_path, NoHooks(), keep=3), fresh()
    for seq in range(1, 9):
        checkpoints.save(Name(1, seq), learner, [], {})
    checkpoints.prune(["1-2", "9-9", "", "../elsewhere"])
    assert [str(name) for name in checkpoints.names()] == ["1-2", "1-6", "1-7", "1-8"]


def test_another_version_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, NoHooks())
    checkpoints.save(Name(1, 1), fresh(), [], {})
    path = tmp_path / "1-1" / "state.json"
    body = json.dumps(json.loads(json.loads(path.read_text())["body"]) | {"version": 99})
    path.write_text(json.dumps({"sha256": checkpoint.digest_of(body.encode()), "body": body}))
    with pytest.raises(CorruptState, match="version 99"):
        checkpoints.load(Name(1, 1))


def test_left_overs_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".staging-1-2").mkdir()
    assert Checkpoints(tmp_path, NoHooks()).names() == []
    assert list(tmp_path.iterdir()) == []


def test_a_torn_line_of_the_journal_counts_as_not_written(tmp_path: Path) -> None:
    records = [Record(k, {0: (k, k + 1), 3: (5, 9)}, 7, {"a": 1} if k == 2 else None) for k in (1, 2, 3)]
    writer = Journal(tmp_path)
    for record in records:
        writer.write(record)
    writer.close()
    path = tmp_path / journal.NAME
    whole = path.read_bytes()
    assert journal.read([tmp_path]) == records
    for cut in (1, 20):
        path.write_bytes(whole[:-cut])
        assert journal.read([tmp_path]) == records[:2]
    writer = Journal(tmp_path)
    writer.write(records[2])
    writer.close()
    assert path.read_bytes() == whole


def test_journals_of_several_checkpoints_make_one_story(tmp_path: Path) -> None:
    for folder, numbers in (("a", (1, 2, 3)), ("b", (3, 4))):
        (tmp_path / folder).mkdir()
        writer = Journal(tmp_path / folder)
        for number in numbers:
            writer.write(Record(number, {0: (number, number + 1)}, 0))
        writer.close()
    assert [r.number for r in journal.read([tmp_path / "a", tmp_path / "b", tmp_path / "none"])] == [1, 2, 3, 4]


def test_waiting_scores_and_judged_ones_are_part_of_it(tmp_path: Path) -> None:
    checkpoints, shop = Checkpoints(tmp_path, NoHooks()), Shop()
    learner = learned(fresh(), shop, 10)
    open_ones = [row for row in shop.rows(10) if row["kind"] == 0]
    learner.apply(Batch({0: (10, 11)}, {0: [message(open_ones)]}))
    checkpoints.save(Name(1, 1), learner, [], {})
    other = restored(checkpoints)
    for name, array in learner.progress.state().items():
        np.testing.assert_array_equal(other.progress.state()[name], array)
    assert len(json.loads(other.progress.state()["ids"].tobytes())) == 1
