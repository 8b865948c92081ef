"""One way of learning over an archive: the trainer's own fold and trigger, with a champion that is always promoted."""

import copy
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.spec import ModelSpec
from services.trainer.evaluation.figures import JudgedList
from services.trainer.evaluation.forgetting import Forgetting
from services.trainer.evaluation.judge import DeployedLate, Judge
from services.trainer.evaluation.shopper import OneShopper
from services.trainer.examples import Batch, Example
from services.trainer.factory import learner_of, trigger_of
from services.trainer.groups import Group, Tables
from services.trainer.learner import Learner
from services.trainer.models.base import RankingModel
from services.trainer.settings import TrainerSettings


class Log(Protocol):
    """Examples that come to an end: an archive, or a planted shop."""

    @property
    def spec(self) -> ModelSpec:
        """The features of its impressions."""
        ...

    @property
    def messages(self) -> int:
        """Messages in all."""
        ...

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Source`."""
        ...

    def poll(self) -> Batch | None:
        """The next messages; None at the end."""
        ...


@dataclass(frozen=True)
class Trial:
    """What is tried: a name, and settings that differ from the defaults."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    learns: bool = True
    """False: what was learned until the first release is served for ever after."""

    def settings(self) -> TrainerSettings:
        """Raises pydantic's ValidationError for what cannot be."""
        return TrainerSettings(**{"max_rows": 500_000, "clock": "log", **self.changes})


@dataclass
class Outcome:
    """What came out of it."""

    trial: Trial
    lists: list[JudgedList]
    late: dict[float, list[JudgedList]]
    """By seconds of deploy lag."""
    releases: int
    examples: int
    learn_seconds: float
    """Of processor time, scoring included."""
    release_seconds: float
    peak_mib: float
    forgetting: list[list[float]]
    """See `forgetting`."""
    backward_transfer: float
    ratings: list[tuple[float, float]] = field(default_factory=list)
    """(expected, given) of each rating, expected before it was learned."""
    shopper: dict[str, Any] = field(default_factory=dict)
    """See `OneShopper`."""


class Frozen:
    """A champion in memory: a copy of the released weights, in torch."""

    def __init__(self, release: str, model: RankingModel) -> None:
        self.release, self.model = release, model

    @torch.no_grad()
    def scores(self, group: Group, spec: ModelSpec, tables: Tables) -> NDArray[np.float32]:
        """See `Champion.scores`; features do not change in a rehearsal."""
        logits = self.model.logits(group.tensors(next(self.model.parameters()).device))
        out: NDArray[np.float32] = torch.sigmoid(logits).cpu().numpy()
        return out


class Watch:
    """Looks over the learner's shoulder."""

    def __init__(self, lags: Sequence[float], periods: int) -> None:
        self.judge, self.forgetting = Judge(), Forgetting(periods)
        self.shopper = OneShopper(self.judge)
        self.late = [DeployedLate(seconds) for seconds in lags]

    def appeared(self, group: Group, scores: NDArray[np.float32], now_us: int) -> None:
        """A group was scored and is learned next."""
        self.judge.appeared(group, scores)
        for late in self.late:
            late.appeared(group, now_us)

    def closed(self, example: Example) -> None:
        """Its labels are final."""
        for judge in (self.judge, *(late.judge for late in self.late)):
            judge.closed(example)
        self.forgetting.closed(example)
        self.shopper.closed(example)


def rehearse(
    trial: Trial,
    source: Log,
    spec: ModelSpec,
    lags: Sequence[float] = (),
    progress: Callable[[int], None] = lambda messages: None,
    periods: int = 5,
) -> Outcome:
    """Go through the whole archive; `progress` is told of messages as they are learned."""
    settings = trial.settings()
    torch.set_num_threads(settings.threads)
    watch = Watch(lags, periods)
    learner = learner_of(settings, spec, None)
    learner.watcher = watch
    trigger = trigger_of(settings)
    source.seek({})
    done, releases, learn, release = 0, 0, 0.0, 0.0
    ratings: list[tuple[float, float]] = []
    while (batch := source.poll()) is not None:
        began = time.process_time()
        learner.learning = trial.learns or not releases
        learner.apply(batch)
        learn += time.process_time() - began
        ratings += learner.progress.take_ratings()
        trigger.see(*learner.progress.take_losses())
        for sample in learner.take_samples():
            trigger.watch(sample)
        if learner.learning and trigger.due(learner.log_us, learner.learned):
            began = time.process_time()
            releases += 1
            _release(learner, watch, f"rehearsal-{releases}")
            seconds = time.process_time() - began
            release += seconds
            trigger.fired(learner.log_us, learner.learned, seconds)
        taken = sum(len(values) for values in batch.messages.values())
        done += sum(end - start for start, end in batch.ranges.values())
        for reached in (watch.forgetting.reached, watch.shopper.reached):
            reached(done / source.messages, learner)
        progress(taken)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    late = {each.seconds: each.judge.lists for each in watch.late}
    return Outcome(
        trial=trial,
        lists=watch.judge.lists,
        late=late,
        releases=releases,
        examples=learner.learned,
        learn_seconds=learn,
        release_seconds=release,
        peak_mib=peak,
        forgetting=watch.forgetting.matrix,
        backward_transfer=watch.forgetting.backward_transfer,
        ratings=ratings,
        shopper=watch.shopper.found,
    )


def _release(learner: Learner, watch: Watch, name: str) -> None:
    learner.released()
    model = copy.deepcopy(learner.strategy.served).eval()
    learner.champion = Frozen(name, model)
    for late in watch.late:
        late.released(learner.log_us, model)
