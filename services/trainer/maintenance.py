"""The maintenance policy: what a release is preceded by, chosen by figures, the dearest that is due.

    fine_tune(drift(adwin)), prune(0.8), retrain(any(time(604800), performance(0.2, 2000)))

`step`: nothing beside what was learned step by step. `fine_tune`: what the strategy does at length (`epochs`), which a
policy leaves out otherwise. `prune`: rows not seen for longest leave, down to that share of `max_rows`. `retrain`:
`freshrank retrain --if-asked` is asked to learn the archive anew; learning goes on meanwhile.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from services.trainer import calls, expression
from services.trainer.calls import Number, Way
from services.trainer.distributions import Sample
from services.trainer.triggers import Trigger

STEP, FINE_TUNE, PRUNE, RETRAIN = "step", "fine_tune", "prune", "retrain"
EXAMPLE = "fine_tune(drift(adwin)), prune(0.8), retrain(time(604800))"
_PRUNE = {PRUNE: Way(float, (Number("share", 0.01, 1.0),))}


@dataclass(frozen=True)
class Choice:
    """What to do, and the figure that caused it."""

    action: str = STEP
    why: str = ""
    share: float = 1.0
    """Of `max_rows` that may stay, when rows are pruned."""


class Maintenance:
    """Rules by action; without any everything is as it is without a policy."""

    def __init__(self, triggers: dict[str, Trigger] | None = None, share: float = 0.0) -> None:
        """`triggers` of fine_tune and retrain; `share` of `max_rows` from which rows are pruned, 0 = never."""
        self._triggers, self._share = dict(triggers or {}), share

    @property
    def fine_tunes(self) -> bool:
        """True when it is the policy that says when to learn at length."""
        return FINE_TUNE in self._triggers

    def see(self, losses: Sequence[float], surpluses: Sequence[float]) -> None:
        """See `Trigger`."""
        for trigger in self._triggers.values():
            trigger.see(losses, surpluses)

    def watch(self, sample: Sample) -> None:
        """See `Trigger`."""
        for trigger in self._triggers.values():
            trigger.watch(sample)

    def choose(self, now_us: int, learned: int, filled: float) -> Choice:
        """What this release is preceded by; `filled`: rows over `max_rows` of the fuller table."""
        due = {action: trigger.due(now_us, learned) for action, trigger in self._triggers.items()}
        if due.get(RETRAIN):
            return self._fired(Choice(RETRAIN, due[RETRAIN]), now_us, learned)
        if self._share and filled > self._share:
            return Choice(PRUNE, f"{filled:.0%} of the rows there may be", self._share)
        if due.get(FINE_TUNE):
            return self._fired(Choice(FINE_TUNE, due[FINE_TUNE]), now_us, learned)
        return Choice()

    def _fired(self, choice: Choice, now_us: int, learned: int) -> Choice:
        self._triggers[choice.action].fired(now_us, learned)
        return choice


def parse(text: str) -> Maintenance:
    """The policy that a line describes. Raises ValueError, with a sentence, for what is none.

    >>> parse("prune(0.8)").choose(0, 0, 0.9).why
    '90% of the rows there may be'
    """
    triggers: dict[str, Trigger] = {}
    share = 0.0
    for node in calls.nodes(text, EXAMPLE) if text.strip() else []:
        name = calls.name_of(node)
        if name in triggers or name == PRUNE and share:
            raise ValueError(f"{name} is there twice")
        if name in (FINE_TUNE, RETRAIN):
            if len(node.args) != 1:
                raise ValueError(f"{name} takes one trigger, such as {name}(drift(adwin))")
            triggers[name] = expression.parse(ast.unparse(node.args[0]))
        else:
            share = calls.made(node, _PRUNE, (FINE_TUNE, RETRAIN))
    return Maintenance(triggers, share)
