"""Several triggers over one learner: what is deployed by each of them, list by list.

With plain online learning a release changes nothing in what is learned. So one pass is enough for all triggers, and
they differ in nothing but the age of the dense weights that serve; rows are current, as in `DeployedLate`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.trainer import expression
from services.trainer.evaluation.judge import DeployedLate, Judge
from services.trainer.evaluation.rehearsal import Log, Trial
from services.trainer.examples import Example
from services.trainer.factory import learner_of
from services.trainer.groups import Group
from services.trainer.learner import Learner
from services.trainer.triggers import Trigger


@dataclass(frozen=True)
class Release:
    """One release of a trigger."""

    log_us: int
    reason: str


@dataclass
class Deployment:
    """What one trigger has released, and how that was judged."""

    trigger: Trigger
    served: DeployedLate = field(default_factory=lambda: DeployedLate(0.0))
    releases: list[Release] = field(default_factory=list)


@dataclass
class Compared:
    """All of them, and the learner itself, which is what a release without any lag would serve."""

    deployments: dict[str, Deployment]
    learner: Judge = field(default_factory=Judge)

    def appeared(self, group: Group, scores: NDArray[np.float32], now_us: int) -> None:
        """See `Watcher`."""
        self.learner.appeared(group, scores)
        for deployment in self.deployments.values():
            deployment.served.appeared(group, now_us)

    def closed(self, example: Example) -> None:
        """See `Watcher`."""
        for judge in (self.learner, *(each.served.judge for each in self.deployments.values())):
            judge.closed(example)


def compare(trial: Trial, triggers: Mapping[str, str], source: Log) -> Compared:
    """Learn all that `source` has, and release by each of `triggers` (name -> expression).

    Raises InvalidInput for a way that releases change (a strategy, held-out impressions): it needs a pass of its own.
    """
    settings = trial.settings()
    if settings.strategy or settings.hold_out:
        raise InvalidInput("strategy", "out_of_range", "releases change what is learned; rehearse each trigger")
    torch.set_num_threads(settings.threads)
    learner = learner_of(settings, source.spec, None)
    found = Compared({name: Deployment(expression.parse(text)) for name, text in triggers.items()})
    learner.watcher = found
    source.seek({})
    while (batch := source.poll()) is not None:
        learner.apply(batch)
        losses, samples = learner.progress.take_losses(), learner.take_samples()
        for deployment in found.deployments.values():
            deployment.trigger.see(*losses)
            for sample in samples:
                deployment.trigger.watch(sample)
            _release_when_due(deployment, learner)
    return found


def _release_when_due(deployment: Deployment, learner: Learner) -> None:
    reason = deployment.trigger.due(learner.log_us, learner.learned)
    if reason:
        deployment.releases.append(Release(learner.log_us, reason))
        deployment.served.released(learner.log_us, copy.deepcopy(learner.strategy.served).eval())
        deployment.trigger.fired(learner.log_us, learner.learned)
