"""The maintenance policy: what precedes a release, by which figure, and that a restart repeats it."""

import json
from pathlib import Path

import numpy as np
import pytest

from services.trainer import maintenance
from services.trainer.hooks import NoHooks
from services.trainer.maintenance import FINE_TUNE, PRUNE, RETRAIN, STEP, Choice
from services.trainer.observe import Nobody
from services.trainer.tables import RowConfig, RowTable
from services.trainer.triggers import VolumeTrigger
from tests.trainer.arm import TURN_US, arm, digest, run, settings
from tests.trainer.world import FileSource, Shop

EPOCHS = {"strategy": "epochs(2, 4)"}


class Told(Nobody):
    """Remembers what was chosen."""

    def __init__(self) -> None:
        self.chosen: list[tuple[str, str]] = []

    def maintained(self, action: str, why: str) -> None:
        self.chosen.append((action, why))


def test_the_dearest_that_is_due_is_chosen_and_says_its_figure() -> None:
    policy = maintenance.parse("fine_tune(volume(10)), prune(0.5), retrain(volume(1000))")
    assert policy.choose(0, 0, 0.1) == Choice(STEP)
    assert policy.choose(0, 20, 0.1).action == FINE_TUNE
    assert policy.choose(0, 22, 0.1) == Choice(STEP), "it begins anew when it has been done"
    assert policy.choose(0, 22, 0.6) == Choice(PRUNE, "60% of the rows there may be", 0.5)
    assert policy.choose(0, 2_000, 0.6).action == RETRAIN
    assert policy.choose(0, 2_001, 0.6).action == PRUNE


def test_without_a_policy_everything_is_as_it_was() -> None:
    policy = maintenance.parse("")
    assert (policy.choose(0, 10**9, 1.0), policy.fine_tunes) == (Choice(STEP), False)


BAD = (
    "fine_tune()", "fine_tune(3)", "prune(2)", "prune(time(3))", "sleep(1)", "retrain(never())", "prune(.1), prune(.2)",
    "retrain(time(3)), retrain(time(4))", "fine_tune(time(1), time(2))", "__import__('os')",
)  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_policy_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        maintenance.parse(text)


def test_rows_not_seen_for_longest_go_first() -> None:
    table = RowTable(RowConfig(dim=2, max_rows=100, admission=1))
    for number in range(10):
        table.admit([f"item{number}"], now_us=100 - number)
    assert table.prune(4) == 6
    left = sorted(table.ids.get(np.flatnonzero(table.live[: table.next])))
    assert left == ["item0", "item1", "item2", "item3"]
    assert table.prune(4) == 0


def released(folder: Path, policy: str, **changes: object) -> tuple[Told, dict[str, object], str, float]:
    """Run an arm over 160 lists with a release every 60 examples."""
    source, told = FileSource({0: Shop(seed=3, items=20).messages(160)}), Told()
    loop, clock = arm(
        folder, source, trigger=VolumeTrigger(60), observer=told, chosen=settings(**EPOCHS, **changes),
        policy=maintenance.parse(policy),
    )  # fmt: skip
    run(loop, clock, source)
    names = sorted((folder / "arms/main/exports").glob("r*/manifest.json"), key=lambda path: path.stat().st_mtime_ns)
    (epochs,) = loop.arm.learner.strategy.parts  # type: ignore[attr-defined]
    return told, json.loads(names[-1].read_text()), digest(loop.arm.learner), epochs.counters["steps"]


def test_learning_at_length_waits_until_its_trigger_says_so(tmp_path: Path) -> None:
    _, always, _, often = released(tmp_path / "a", "")
    told, never, _, none = released(tmp_path / "b", "fine_tune(volume(1000000))")
    assert (often > 0, none, told.chosen, never["maintenance"], always["maintenance"]) == (True, 0, [], STEP, STEP)
    told, last, _, once = released(tmp_path / "c", "fine_tune(volume(150))")
    assert 0 < once < often
    assert told.chosen[0][0] == FINE_TUNE
    assert told.chosen[0][1]


def test_pruned_rows_stay_below_the_share_and_the_manifest_says_why(tmp_path: Path) -> None:
    told, last, _, _ = released(tmp_path, "prune(0.01)", max_rows=1_000)
    assert {action for action, _ in told.chosen} == {PRUNE}
    assert str(last["maintenance"]).startswith("prune: ")


def test_a_full_retrain_is_asked_for_in_a_file(tmp_path: Path) -> None:
    told, _, _, _ = released(tmp_path, "retrain(volume(100))")
    wish = json.loads((tmp_path / "arms/main/maintenance.json").read_text())
    assert (wish["action"], wish["why"]) == told.chosen[-1]


class Stops:
    """Ends everything when a checkpoint is about to be named for the third time: what came before is in a journal."""

    def __init__(self) -> None:
        self.left = 3

    def at(self, point: str) -> None:
        self.left -= point == "checkpoint.staged"
        if not self.left:
            raise InterruptedError(point)


def test_a_restart_repeats_what_was_chosen_bit_for_bit(tmp_path: Path) -> None:
    policy, chosen = "fine_tune(volume(50)), prune(0.02)", settings(**EPOCHS, max_rows=1_000)
    learners = []
    for folder, hooks in ((tmp_path / "whole", NoHooks()), (tmp_path / "broken", Stops())):
        source = FileSource({0: Shop(seed=3, items=20).messages(200)})
        parsed = maintenance.parse(policy)
        loop, clock = arm(folder, source, trigger=VolumeTrigger(60), chosen=chosen, policy=parsed, hooks=hooks)
        stopped = False
        while not (source.done or stopped or loop.arm.name.seq == 3):
            try:
                loop.turn()
            except InterruptedError:
                stopped = True
            clock.advance_to(clock.now_us() + TURN_US)
        assert loop.arm._journal is not None
        loop.arm._journal.close()  # as the end of the process would
        if stopped:
            loop, _ = arm(folder, FileSource({0: Shop(seed=3, items=20).messages(200)}), chosen=chosen)
            assert loop.arm._journal is not None
            loop.arm._journal.close()
        learners.append(loop.arm.learner)
    assert digest(learners[0]) == digest(learners[1])
    (epochs,) = learners[1].strategy.parts  # type: ignore[attr-defined]
    assert epochs.counters["steps"] > 0
