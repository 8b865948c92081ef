"""A challenger against the incumbent: what a shopper is worth to each, with bounds that hold at all times.

A unit is one shopper in one period, for which chance chose the arm. With reward R over n impressions, Z = R - m n
takes out how busy a shopper was (m: reward per impression of all units before, so known before this one), and

    psi = Z / p  for the challenger's units,  -Z / (1 - p)  for the incumbent's

has the mean E[Z | challenger] - E[Z | incumbent] whatever the past (Horvitz and Thompson, 1952; the adjustment is of
the kind of Deng et al., 2013). Its running mean is judged by the confidence sequence of Waudby-Smith et al., 2021
(`canary.Sequence`): one may look after every period, and stop, without more errors than stated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.publisher.canary import Sequence

TUNED_FOR = 2_000
"""Units at which the bounds are narrowest."""
LEAST_UNITS = 200
"""Of each side, before anything is decided: the bounds rest on the central limit theorem."""
SEGMENT_ERROR = 0.01
"""Probability of a false alarm over all segments of a comparison."""
MOST_SEGMENTS = 20
BALANCE_ERROR = 0.001
"""Probability of a false alarm that the shares are not what they should be."""


@dataclass
class Unit:
    """What one shopper did in one period."""

    arm: str
    segments: frozenset[str] = frozenset()
    impressions: int = 0
    reward: float = 0.0


@dataclass
class Side:
    """Sums over the units of one arm."""

    units: int = 0
    impressions: int = 0
    reward: float = 0.0

    def add(self, unit: Unit) -> None:
        """Take a unit in."""
        self.units += 1
        self.impressions += unit.impressions
        self.reward += unit.reward

    @property
    def rate(self) -> float:
        """Reward per impression; 0 without any."""
        return self.reward / self.impressions if self.impressions else 0.0


@dataclass
class Comparison:
    """Everything counted about one challenger; `chance`: its probability among the two."""

    challenger: str
    incumbent: str
    chance: float
    sides: dict[str, Side] = field(default_factory=dict)
    lift: Sequence = field(default_factory=Sequence)
    balance: Sequence = field(default_factory=Sequence)
    segments: dict[str, Sequence] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for arm in (self.challenger, self.incumbent):
            self.sides.setdefault(arm, Side())

    def add(self, units: list[Unit], usual: float) -> None:
        """Take the units of a period in; those of other arms are left out. `usual`: reward per impression before."""
        ours = [unit for unit in units if unit.arm in self.sides]
        values = np.array([self._value(unit, usual) for unit in ours], np.float64)
        self.lift.add(values)
        self.balance.add(np.array([(unit.arm == self.challenger) - self.chance for unit in ours], np.float64))
        for unit in ours:
            self.sides[unit.arm].add(unit)
        for name in sorted({segment for unit in ours for segment in unit.segments}):
            if name in self.segments or len(self.segments) < MOST_SEGMENTS:
                chosen = np.array([name in unit.segments for unit in ours], np.bool_)
                self.segments.setdefault(name, Sequence()).add(values[chosen])

    @property
    def enough(self) -> bool:
        """Both sides have units to be judged by."""
        return min(side.units for side in self.sides.values()) >= LEAST_UNITS

    @property
    def per_unit(self) -> float:
        """Impressions of a unit, on average."""
        units = sum(side.units for side in self.sides.values())
        return sum(side.impressions for side in self.sides.values()) / units if units else 0.0

    def bounds(self, error: float) -> tuple[float, float]:
        """Lift of the reward per impression: surely above the first, surely below the second, each but for `error`."""
        width, scale = self.lift.width(error, TUNED_FOR), max(self.per_unit, 1e-12)
        return (self.lift.mean - width) / scale, (self.lift.mean + width) / scale

    def unbalanced(self) -> bool:
        """True when the arms surely do not have the shoppers they should: answers of one are lost on the way."""
        return self.balance.count > 0 and abs(self.balance.mean) > self.balance.width(BALANCE_ERROR / 2, TUNED_FOR)

    def harmed(self) -> list[str]:
        """Segments in which the challenger is surely worse."""
        error = SEGMENT_ERROR / MOST_SEGMENTS
        return [
            name
            for name, sequence in self.segments.items()
            if sequence.count >= LEAST_UNITS and sequence.mean + sequence.width(error, TUNED_FOR) < 0
        ]

    def figures(self, error: float) -> dict[str, float]:
        """What is known, for people and the audit record; bounds are missing before there are two units."""
        ours, theirs = self.sides[self.challenger], self.sides[self.incumbent]
        low, high = self.bounds(error)
        found = {
            "units": float(ours.units),
            "units_incumbent": float(theirs.units),
            "impressions": float(ours.impressions),
            "impressions_incumbent": float(theirs.impressions),
            "reward": ours.rate,
            "reward_incumbent": theirs.rate,
            "lift": self.lift.mean / max(self.per_unit, 1e-12),
        }
        return found | ({"lift_low": low, "lift_high": high} if np.isfinite(low) else {})

    def _value(self, unit: Unit, usual: float) -> float:
        worth = unit.reward - usual * unit.impressions
        return worth / self.chance if unit.arm == self.challenger else -worth / (1 - self.chance)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {
            "challenger": self.challenger,
            "incumbent": self.incumbent,
            "chance": self.chance,
            "sides": {arm: vars(side) for arm, side in self.sides.items()},
            "lift": self.lift.state(),
            "balance": self.balance.state(),
            "segments": {name: sequence.state() for name, sequence in self.segments.items()},
        }

    @staticmethod
    def of_json(data: Mapping[str, Any]) -> "Comparison":
        """The inverse. Raises KeyError or TypeError for other data."""
        return Comparison(
            data["challenger"],
            data["incumbent"],
            data["chance"],
            {arm: Side(**side) for arm, side in data["sides"].items()},
            Sequence.of(data["lift"]),
            Sequence.of(data["balance"]),
            {name: Sequence.of(state) for name, state in data["segments"].items()},
        )
