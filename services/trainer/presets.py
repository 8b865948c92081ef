"""Settings of worked examples that papers and manuals use again and again, by name.

A preset of the trainer is a setting, `FRESHRANK_TRAINER_PRESET=hourly`: it stands in for the defaults of what it names,
and what is set beside it wins. Those of the next-item model and of ratings are for code and benchmarks, as those are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from services.common.errors import InvalidInput
from services.trainer.keyindex import Keys
from services.trainer.ratings.factorisation import FactorConfig, Factorisation, Floats, Times
from services.trainer.sequence.learner import Settings
from services.trainer.sequence.model import Sizes

To = Literal["trainer", "next item", "ratings"]


@dataclass(frozen=True)
class Preset:
    """One worked example."""

    to: To
    """What it applies to: the trainer's ranker, `services.trainer.sequence` or `services.trainer.ratings`."""
    example: str
    """As it is usually told."""
    values: Mapping[str, Any]
    """The settings by name; other settings keep their defaults."""
    remark: str = ""
    """In what it differs from the example."""

    @property
    def text(self) -> str:
        """The values in one line.

        >>> Preset("ratings", "", {"dim": 64, "epochs": 10}).text
        'dim=64, epochs=10'
        """
        return ", ".join(f"{name}={value}" for name, value in self.values.items())


PRESETS: Mapping[str, Preset] = {
    "hourly": Preset(
        "trainer",
        "updates every hour on 1 % of the new data",
        {"trigger": "time(3600)", "labels": "at_release", "strategy": "epochs(1)", "share": 0.01},
        "the share is of shoppers, by hash, and weighs 100 times",
    ),
    "distillation": Preset(
        "trainer",
        "distillation with temperature: a quarter of the loss from the teacher at T = 2",
        {"strategy": "distillation(0.25, 2)"},
        "the teacher is the champion; `freshrank distil` takes another model's checkpoint",
    ),
    "bert_fine_tune": Preset(
        "next item",
        "BERT-type fine-tuning: 2e-5, 128 tokens, batches of 16, 5 epochs",
        {"rate": 2e-5, "row_rate": 2e-5, "length": 128, "rows": 16, "epochs": 5, "patience": 5},
        "tokens are items of sessions, not words; what is tuned is a next-item Transformer that has learned before",
    ),
    "ratings_64": Preset(
        "ratings",
        "a rating model of 64 dimensions, 10 epochs",
        {"dim": 64, "epochs": 10},
        "epochs go over the log in its order",
    ),
}


def trainer(name: str) -> Mapping[str, Any]:
    """What a preset of the trainer sets. Raises InvalidInput for another name."""
    return _values(name, "trainer")


def next_item(name: str) -> Settings:
    """Settings of the next-item model. Raises InvalidInput for another name."""
    values = dict(_values(name, "next item"))
    return Settings(sizes=Sizes(length=values.pop("length")), **values)


def learn_ratings(
    name: str, users: Keys, items: Keys, ratings: Floats, times_us: Times
) -> tuple[Factorisation, Floats]:
    """A rating model of a preset, learned from ratings [n]; and the root mean squared error in each epoch.

    Each rating is predicted before it is learned, from the second epoch on by what has seen it. Raises InvalidInput for
    another name, and for columns that do not fit.
    """
    values = _values(name, "ratings")
    model = Factorisation(FactorConfig(dim=values["dim"]))
    errors = [model.learn(users, items, ratings, times_us) - ratings for _ in range(values["epochs"])]
    return model, np.sqrt(np.square(errors).mean(axis=1))


def _values(name: str, to: To) -> Mapping[str, Any]:
    found = PRESETS.get(name)
    if found is None or found.to != to:
        known = ", ".join(key for key, preset in PRESETS.items() if preset.to == to)
        raise InvalidInput("preset", "unknown", f"{name!r} is no preset for {to}: {known}")
    return found.values
