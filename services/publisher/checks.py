"""A verdict is a list of named checks: what was measured, the bound, and whether it held."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """One measured figure against its bound; a truth is 1 or 0 against 1."""

    name: str
    figure: float
    bound: float
    passed: bool
    detail: str = ""

    def __str__(self) -> str:
        text = f"{self.name} {self.figure:.6g} (bound {self.bound:.6g})"
        return f"{text}: {self.detail}" if self.detail else text


@dataclass(frozen=True)
class Verdict:
    """What a gate says: passed only when there are checks and all of them held."""

    checks: tuple[Check, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What was measured beside them, for the audit record: nothing is decided by it."""

    @property
    def passed(self) -> bool:
        """True when nothing speaks against it and something was looked at."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not hold, in the order they were made."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def reason(self) -> str:
        """The failed checks as one line; empty when it passed."""
        return "; ".join(map(str, self.failed)) if self.checks else "nothing was checked"

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data for the audit record; figures that are no numbers become null."""
        return [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(check).items()}
            for check in self.checks
        ]


def verdict(checks: Iterable[Check], figures: Mapping[str, Any] | None = None) -> Verdict:
    """Bind checks together."""
    return Verdict(tuple(checks), figures or {})


def at_most(name: str, figure: float, bound: float, detail: str = "") -> Check:
    """Holds when the figure does not exceed the bound; NaN never holds.

    >>> at_most("norm", float("nan"), 1.0).passed
    False
    """
    return Check(name, float(figure), float(bound), bool(figure <= bound), detail)


def at_least(name: str, figure: float, bound: float, detail: str = "") -> Check:
    """Holds when the figure reaches the bound; NaN never holds."""
    return Check(name, float(figure), float(bound), bool(figure >= bound), detail)


def holds(name: str, truth: bool, detail: str = "") -> Check:
    """Holds when it is true.

    >>> verdict([holds("hash", False, "model.onnx")]).reason
    'hash 0 (bound 1): model.onnx'
    """
    return Check(name, float(truth), 1.0, bool(truth), "" if truth else detail)
