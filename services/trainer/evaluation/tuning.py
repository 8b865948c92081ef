"""Settings searched on earlier periods alone, and judged on later ones (Optuna; Akiba et al., 2019).

The search sees the first part of an archive and nothing else; what it finds is compared with the settings there were on
the lists that come after, which it has never seen. So a gain that is told is no gain of the search itself.
"""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from services.common.errors import InvalidInput
from services.trainer.archive import ArchiveSource
from services.trainer.evaluation import figures
from services.trainer.evaluation.rehearsal import Trial, rehearse

Goal = Literal["mrr", "ndcg_at_10", "group_auc", "log_loss"]

_RANGE = re.compile(r"([-+0-9.e]+)\.\.([-+0-9.e]+)")

DEFAULT_SPACE = ("learning_rate=0.0003..0.03", "row_learning_rate=0.02..1", "row_dropout=0|0.05|0.2")


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched: a range on a log scale, or some values."""

    setting: str
    low: float = 0.0
    high: float = 0.0
    values: tuple[str, ...] = ()

    @staticmethod
    def parse(text: str) -> "Dimension":
        """From `setting=low..high` or `setting=one|another`. Raises InvalidInput.

        >>> Dimension.parse("learning_rate=0.001..0.1")
        Dimension(setting='learning_rate', low=0.001, high=0.1, values=())
        """
        setting, found, values = text.partition("=")
        if not found or not setting.strip():
            raise InvalidInput("space", "unreadable", f"{text!r} is neither SETTING=LOW..HIGH nor SETTING=ONE|ANOTHER")
        if match := _RANGE.fullmatch(values.strip()):
            low, high = (_number(text, value) for value in match.groups())
            if not 0 < low < high:
                raise InvalidInput("space", "range", f"{text!r}: a range is from above 0 to something larger")
            return Dimension(setting.strip(), low, high)
        return Dimension(setting.strip(), values=tuple(value.strip() for value in values.split("|")))

    def suggest(self, trial: Any) -> float | str:
        """A value of it, by an Optuna trial."""
        if self.values:
            found: str = trial.suggest_categorical(self.setting, self.values)
            return found
        return float(trial.suggest_float(self.setting, self.low, self.high, log=True))


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    best: Mapping[str, float | str]
    trials: int
    earlier: float
    """The goal on the part that was searched, under the best settings."""
    later: figures.Figure
    """On the lists after it, under the best settings."""
    before: figures.Figure
    """On the same lists, under the settings there were."""
    difference: figures.Figure
    """List by list; above 0 is better, also for a loss."""


def tune(
    archive: Path,
    space: Sequence[Dimension],
    journal: Path,
    trials: int,
    until: float,
    goal: Goal = "mrr",
    base: Mapping[str, Any] | None = None,
    progress: Callable[[int, float], None] = lambda done, best: None,
) -> Found:
    """Search until there are so many trials in the journal; goes on from those that are there.

    `until`: share of the archive that is searched. Raises InvalidInput for settings that cannot be.
    """
    for each in space:
        _check(each, base or {})
    optuna = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(
        storage=storage, study_name=goal, load_if_exists=True, direction="maximize", sampler=sampler
    )
    source = ArchiveSource(archive, until=until)

    def objective(trial: Any) -> float:
        changes = {**(base or {}), **{each.setting: each.suggest(trial) for each in space}}
        return _sign(goal) * figures.mean(_judged(changes, source)[goal]).value

    for _ in range(trials - len(study.trials)):
        study.optimize(objective, n_trials=1)
        progress(len(study.trials), _sign(goal) * study.best_value)
    return _compared(ArchiveSource(archive), until, goal, dict(base or {}), study)


def _compared(source: ArchiveSource, until: float, goal: Goal, base: dict[str, Any], study: Any) -> Found:
    best = dict(study.best_params)
    with_best, without = (_judged(changes, source)[goal] for changes in ({**base, **best}, base))
    start = int(len(with_best) * until)
    later, before = with_best[start:], without[start:]
    return Found(
        best=best,
        trials=len(study.trials),
        earlier=_sign(goal) * study.best_value,
        later=figures.mean(later),
        before=figures.mean(before),
        difference=figures.mean(_sign(goal) * (later - before)),
    )


def _judged(changes: Mapping[str, Any], source: ArchiveSource) -> dict[str, figures.Floats]:
    return figures.table(rehearse(Trial("tried", dict(changes)), source, source.spec, periods=1).lists)


def _check(dimension: Dimension, base: Mapping[str, Any]) -> None:
    for value in dimension.values or (dimension.low, dimension.high):
        try:
            Trial("tried", {**base, dimension.setting: value}).settings()
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise InvalidInput("space", "invalid", f"{dimension.setting}={value}: {reason}") from error


def _sign(goal: Goal) -> float:
    return -1.0 if goal == "log_loss" else 1.0


def _number(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidInput("space", "unreadable", f"{text!r}: {value} is no number") from None
