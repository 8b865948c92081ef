"""What a trial is held by: who takes part, whose shoppers they get, and when it may end."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from freshrank.v1.models_pb2 import StartTrialRequest

from services.common.arms import PATTERN, Share, Split
from services.common.errors import InvalidInput

HOUR_US = 3_600_000_000
WEEK_US = 7 * 24 * HOUR_US
LEAST_STICKY_US = 1_000_000


@dataclass(frozen=True)
class Terms:
    """Fixed from the start of a trial to its end."""

    trial: str
    incumbent: str
    challengers: tuple[str, ...]
    started_us: int
    share: float = 0.1
    """Of the shoppers, for each challenger."""
    sticky_us: int = HOUR_US
    least_us: int = HOUR_US
    most_us: int = WEEK_US
    gain: float = 0.0
    """Smallest lift that is worth a change, as a share of the incumbent's reward."""
    reward: Mapping[str, float] = field(default_factory=lambda: {"click": 1.0})
    error: float = 0.05
    """Probability that any challenger which is no better is ever promoted."""

    @property
    def split(self) -> Split:
        """Whose shoppers are whose at the start."""
        shares = tuple(Share(arm, self.share) for arm in self.challengers)
        return Split(self.incumbent, self.trial, shares, self.sticky_us)

    @property
    def each(self) -> float:
        """The error that one comparison may make on each side (Bonferroni over the challengers)."""
        return self.error / len(self.challengers)


def terms_of(asked: StartTrialRequest, incumbent: str, trial: str, now_us: int) -> Terms:
    """Terms with what was left out filled in. Raises InvalidInput naming the field."""
    sticky_us = asked.sticky_us or HOUR_US
    found = Terms(
        trial=trial,
        incumbent=incumbent,
        challengers=tuple(asked.challengers),
        started_us=now_us,
        share=asked.share or 0.1,
        sticky_us=sticky_us,
        least_us=asked.least_us or sticky_us,
        most_us=asked.most_us or max(WEEK_US, sticky_us),
        gain=asked.gain,
        reward=dict(asked.reward) or {"click": 1.0},
        error=asked.error or 0.05,
    )
    _check_arms(found)
    _check_numbers(found)
    return found


def _check_arms(terms: Terms) -> None:
    if not terms.challengers:
        raise InvalidInput("challengers", "missing_field", "name at least one arm")
    for number, arm in enumerate(terms.challengers):
        where = f"challengers[{number}]"
        if re.fullmatch(PATTERN, arm) is None:
            raise InvalidInput(where, "malformed", f"{arm!r} is no name of an arm")
        if arm == terms.incumbent:
            raise InvalidInput(where, "conflict", f"{arm} is the incumbent")
        if terms.challengers.count(arm) > 1:
            raise InvalidInput(where, "repeated", f"{arm} is named twice")


def _check_numbers(terms: Terms) -> None:
    most = 0.9 / len(terms.challengers)
    bounds = {
        "share": (terms.share, 0.001, most),
        "error": (terms.error, 1e-6, 0.5),
        "gain": (terms.gain, 0.0, 1.0),
        "sticky_us": (terms.sticky_us, LEAST_STICKY_US, 365 * 24 * HOUR_US),
        "least_us": (terms.least_us, 0, terms.most_us),
        "most_us": (terms.most_us, 1, 365 * 24 * HOUR_US),
        **{f"reward[{head}]": (weight, 0.0, 1e6) for head, weight in terms.reward.items()},
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise InvalidInput(name, "out_of_range", f"must lie between {low:g} and {high:g}, not {value:g}")
