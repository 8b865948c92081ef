"""Presets: each is run, and what it says of itself is what was done."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.common import records
from services.common.errors import InvalidInput
from services.common.ids import keys_of, share_of
from services.common.settings import load_settings
from services.trainer import presets
from services.trainer.archive import ArchiveSource
from services.trainer.archive_writer import Archive
from services.trainer.evaluation.rehearsal import Trial
from services.trainer.examples import Batch
from services.trainer.factory import learner_of, trigger_of
from services.trainer.sequence import periods
from services.trainer.sequence.learner import Learner, Seen
from services.trainer.sequence.packed import Packed
from services.trainer.sequence.sessions import Sessions
from services.trainer.sequence.ways import FineTune
from services.trainer.settings import TrainerSettings
from services.trainer.strategies.distillation import Distillation
from services.trainer.strategies.epochs import Epochs
from tests.cli.fakes import run as command
from tests.trainer.arm import settings
from tests.trainer.strategies.shop import learner, part, seen, step_of
from tests.trainer.world import SPEC, Shop

SMALL = {"row_dim": 4, "max_rows": 2_000, "retrieval_dim": 8, "batch_impressions": 1, "batch_items": 1}


def test_hourly_releases_learn_one_percent_of_the_shoppers(tmp_path: Path) -> None:
    """Six hours of a shop with many shoppers: what is learned, how often, and with what weight."""
    shop, messages, users = Shop(users=3_000, items=12, listed=3), [], []
    for _ in range(1_200):
        shop.made += 17
        messages += shop.messages(1)
        users.append(records.decode(messages[-1]).column("user")[0].as_py())
    chosen = Trial("hourly", {**SMALL, "preset": "hourly"}).settings()
    made, trigger = learner_of(chosen, SPEC, None), trigger_of(chosen)
    archive = Archive(tmp_path)
    archive.add(Batch({0: (0, len(messages))}, {0: messages}))
    archive.flush()
    source, releases = ArchiveSource(tmp_path), list[int]()
    epochs = part(made)
    assert isinstance(epochs, Epochs)
    learned, weighed = 0, set[float]()
    while (batch := source.poll()) is not None:
        made.apply(batch)
        if trigger.due(made.log_us, made.learned):
            weighed |= {float(w) for e in made.recent for w in e.weights}
            before, waiting = epochs.counters["steps"], len(epochs._since)
            made.released()
            assert epochs.counters["steps"] - before == math.ceil(waiting / 32)
            learned += waiting
            releases.append(made.log_us)
            trigger.fired(made.log_us, made.learned, 0.0)
    expected = sum(share_of(user, "trainer-share") < 0.01 for user in users)
    assert 0 < expected < 40
    assert 0.5 * expected <= learned <= expected
    assert weighed == {100.0}
    assert 3 <= len(releases) <= 6
    assert all(later - earlier >= 3_600_000_000 for earlier, later in zip(releases, releases[1:], strict=False))


def test_distillation_takes_a_quarter_from_the_teacher_at_temperature_two() -> None:
    made, written = learner(preset="distillation"), learner(strategy="distillation(0.25, 2)")
    through = seen(made, made.encode(step_of(Shop().messages(4)).initial))
    teacher = np.full((*through.group.negatives.shape, 3), 0.3, np.float32)
    assert isinstance(part(made), Distillation)
    found, expected = (part(each).term(replace(through, teacher=teacher)) for each in (made, written))
    assert found is not None
    assert expected is not None
    assert float(found.detach()) == float(expected.detach()) != 0


def test_a_bert_type_fine_tune_makes_the_steps_it_promises() -> None:
    chosen = presets.next_item("bert_fine_tune")
    random = np.random.default_rng(0)
    base, news = (_sessions(random, first) for first in (0, 1_000))
    tuned = _Counting(chosen, seed=1)
    periods.update(tuned, FineTune(), base, 0, 1, lambda *_: None)
    before, epochs = tuned.state(), list[int]()
    found = periods.update(tuned, FineTune(), news, 1, 1, lambda epoch, loss, scores: epochs.append(epoch))
    rates = [group["lr"] for group in tuned._dense.param_groups]
    assert {length for _, length in tuned.batches} == {128}
    assert max(rows for rows, _ in tuned.batches) == 16
    assert epochs == [1, 2, 3, 4, 5]
    assert found.epochs == 5
    assert rates == [2e-5]
    weights = {n: v for n, v in tuned.state().items() if n.startswith("model.") and n.endswith("weight")}
    moved = max(float((v - before[n]).abs().max()) for n, v in weights.items())
    assert 0 < moved < 2e-5 * found.steps * 1.5


class _Counting(Learner):
    """Remembers the shape of each batch."""

    def see(self, batch: Packed) -> Seen:
        self.batches = [*getattr(self, "batches", []), tuple(batch.inputs.shape)]
        return super().see(batch)


def _sessions(random: np.random.Generator, first: int, count: int = 50) -> Sessions:
    lengths = random.integers(10, 140, count)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    items = np.concatenate([(random.integers(40) + np.arange(n)) % 40 for n in lengths])
    return Sessions(np.arange(count) + first, items, starts)


def test_ratings_are_learned_ten_times_in_64_dimensions() -> None:
    random = np.random.default_rng(1)
    users, items = (keys_of(f"{kind}{k}" for k in random.integers(0, 30, 600)) for kind in ("u", "i"))
    ratings = random.normal(3.5, 1.0, 600)
    model, errors = presets.learn_ratings("ratings_64", users, items, ratings, np.arange(600))
    assert model.config.dim == 64
    assert model.users["rows"].shape[1] == 1 + 64
    assert model._total[0] == 10 * 600
    assert errors.shape == (10,)
    assert errors[-1] < 0.8 * errors[0]


def test_what_is_set_beside_a_preset_wins() -> None:
    assert settings(preset="hourly").share == 0.01
    assert settings(preset="hourly", share=0.5).share == 0.5
    found = load_settings(TrainerSettings, {"FRESHRANK_TRAINER_PRESET": "hourly", "FRESHRANK_TRAINER_SHARE": "0.2"})
    assert (found.share, found.trigger, found.labels) == (0.2, "time(3600)", "at_release")


def test_every_preset_of_the_trainer_can_be_set_and_no_other() -> None:
    for name, preset in presets.PRESETS.items():
        if preset.to == "trainer":
            made = settings(preset=name)
            assert {key: getattr(made, key) for key in preset.values} == preset.values
        else:
            with pytest.raises(InvalidInput, match="FRESHRANK_TRAINER_PRESET|preset"):
                load_settings(TrainerSettings, {"FRESHRANK_TRAINER_PRESET": name})
    with pytest.raises(InvalidInput, match="'hourly' is no preset for ratings: ratings_64"):
        presets.learn_ratings("hourly", *(np.zeros(0),) * 4)  # type: ignore[arg-type]


def test_the_command_lists_them() -> None:
    found = json.loads(command("presets", "--json").out)
    assert found.keys() == presets.PRESETS.keys()
    assert found["bert_fine_tune"]["values"]["rate"] == 2e-5
    assert "hourly" in command("presets").out
