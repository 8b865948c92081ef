"""A learner with a chosen strategy on the small shop, and what its tests look at."""

from pathlib import Path

import numpy as np
import torch

from services.common.clock import ManualClock
from services.common.records import CLOSED
from services.trainer.examples import Batch, Example, Reader, Step, StepSize
from services.trainer.factory import learner_of
from services.trainer.groups import Group
from services.trainer.learner import Learner, finally_labelled
from services.trainer.loop import Loop
from services.trainer.strategies.online import OnlineStrategy
from services.trainer.strategies.parts import Part, Seen
from services.trainer.triggers import VolumeTrigger
from tests.trainer.arm import arm, digest, run, settings
from tests.trainer.world import SPEC, FileSource, Shop


def learner(**changes: object) -> Learner:
    """One that is small and quick; rows from the first sighting."""
    torch.set_num_threads(1)
    return learner_of(settings(**{"admission": 1, "row_dropout": 0.0, **changes}), SPEC, None)


def learned(made: Learner, shop: Shop, messages: int, at_once: int = 5) -> Learner:
    """The learner after so many messages of the shop."""
    start = made.positions.get(0, 0)
    for k in range(start, start + messages, at_once):
        made.apply(Batch({0: (k, k + at_once)}, {0: shop.messages(at_once)}))
    return made


def strategy(made: Learner) -> OnlineStrategy:
    """Its strategy, by its class."""
    assert isinstance(made.strategy, OnlineStrategy)
    return made.strategy


def part(made: Learner) -> Part:
    """The first part of its strategy."""
    return strategy(made).parts[0]


def weights(made: Learner) -> torch.Tensor:
    """A copy of the dense weights as they are learned."""
    return strategy(made)._dense.flat.clone()


def served(made: Learner) -> torch.Tensor:
    """A copy of the dense weights as they are released."""
    return strategy(made)._dense.average.clone()


def step_of(messages: list[bytes]) -> Step:
    """All of some messages as one step."""
    return next(Reader(StepSize(10**9)).steps(Batch({0: (0, len(messages))}, {0: messages})))


def finished(shop: Shop, impressions: int) -> list[Example]:
    """Impressions with their final labels."""
    closed = step_of(shop.messages(impressions)).closed
    assert all(example.kind == CLOSED for example in closed)
    return [finally_labelled(example) for example in closed]


def seen(made: Learner, group: Group) -> Seen:
    """The group going through the model, with a gradient by all of its rows."""
    engine = strategy(made)
    inputs = {n: v.requires_grad_() if n.endswith("row") else v for n, v in group.tensors(torch.device("cpu")).items()}
    logits = engine.ranker.logits(inputs)
    own = engine.loss(logits, group)
    return Seen(group, inputs, logits, own, None, engine.ranker, engine.loss, np.random.default_rng(0))


def loss_on(made: Learner, examples: list[Example]) -> float:
    """Mean loss of a candidate under the weights that are learned."""
    group = made.encode(examples)
    total = strategy(made).loss(strategy(made).ranker.logits(group.tensors(torch.device("cpu"))), group)
    return float(total.detach()) / float(np.count_nonzero(group.negatives))


def ends_alike_after_a_restart(folder: Path, **changes: object) -> bool:
    """Run an arm through, and another that is closed and opened anew midway; True when they end with equal bits."""
    logs = {0: Shop(seed=5, items=20, listed=6).messages(60)}
    source = FileSource(logs)

    def opened(name: str) -> tuple[Loop, ManualClock]:
        return arm(folder / name, source, chosen=settings(admission=1, **changes), trigger=VolumeTrigger(70))

    whole, clock = opened("whole")
    run(whole, clock, source)
    source.seek({})
    first, clock = opened("twice")
    while sum(first.arm.learner.positions.values()) < 30:
        first.turn()
        clock.advance_to(clock.now_us() + 300_000)
    first.arm._journal.close()  # type: ignore[union-attr]
    second, clock = opened("twice")
    run(second, clock, source)
    return digest(whole.arm.learner) == digest(second.arm.learner)
