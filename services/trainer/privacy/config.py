"""What `private(...)` says, and what cannot be had together with it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.common.errors import InvalidInput
from services.trainer import calls
from services.trainer.calls import Number, Way
from services.trainer.privacy.selection import Selection

EXAMPLE = "private(8, 1e-6, 4)"

FITTING = ("fusion", "layers", "lora", "adalora", "hypergradient")
"""Parts of a strategy that look at noisy gradients and at weights alone: what they do costs nothing more."""


@dataclass(frozen=True)
class PrivacyConfig:
    """A budget and how it is spent."""

    epsilon: float
    """Learning stops before it is passed."""
    delta: float
    """Chance with which epsilon may not hold; well below 1 / shoppers."""
    noise: float
    """Noise multiplier sigma: the noise of a round's sum has the standard deviation sigma · clip."""
    clip: float = 1.0
    """Largest length C of what one shopper adds to a round, over dense weights and item rows together."""
    cap: int = 8
    """Impressions, and actions, of one shopper in a round at most."""
    shoppers: int = 256
    """Different shoppers that make a round."""
    selection: Selection | None = None
    """Rows that move are selected, at a price; None = all of them do."""

    @property
    def charged(self) -> float:
        """Noise multiplier of the one Gaussian mechanism that is as dear as a round."""
        return self.noise if self.selection is None else self.selection.charged(self.noise)


def _made(epsilon: float, delta: float, noise: float, clip: float, cap: float, shoppers: float) -> PrivacyConfig:
    return PrivacyConfig(epsilon, delta, noise, clip, int(cap), int(shoppers))


WAYS = {
    "selected": Way(
        Selection,
        (Number("noise", 0.1, 1000), Number("threshold", 0, 1_000_000), Number("clip", 1e-4, 1e4, 1.0)),
    ),
    "private": Way(
        _made,
        (
            Number("epsilon", 0.01, 1000),
            Number("delta", 1e-15, 0.01),
            Number("noise", 0.1, 1000),
            Number("clip", 1e-4, 1e4, 1.0),
            Number("cap", 1, 10_000, 8),
            Number("round", 1, 1_000_000, 256),
        ),
    ),
}


def parse(text: str) -> PrivacyConfig | None:
    """What a line says; None when it is empty.

    Raises ValueError, with a sentence, for what is no `private(...)`, or `private(...), selected(...)`.

    >>> parse("private(8, 1e-6, 4)").shoppers
    256
    >>> parse("private(8, 1e-6, 4), selected(3, 2)").charged
    2.4
    """
    if not text.strip():
        return None
    made = [calls.made(node, WAYS) for node in calls.nodes(text, EXAMPLE)]
    config, selection = made[0], made[1] if len(made) == 2 else None
    if len(made) > 2 or not isinstance(config, PrivacyConfig) or isinstance(selection, PrivacyConfig):
        raise ValueError(f"{text!r} must be one private(...), and one selected(...) behind it where rows are selected")
    return replace(config, selection=selection)


def check(labels: str, accumulate: int, hold_out: float, parts: Sequence[str]) -> None:
    """Raise InvalidInput for what would see shoppers beside the rounds, or split them."""
    if labels != "flips":
        raise InvalidInput("labels", "not_private", f"private learning takes flips as they come, not {labels}")
    if accumulate > 1:
        raise InvalidInput("accumulate", "not_private", "a round of private learning already sums many steps; set 1")
    if hold_out > 0:
        raise InvalidInput("hold_out", "not_private", "held-out impressions would choose weights without noise; set 0")
    odd = [name for name in parts if name not in FITTING]
    if odd:
        sentence = f"{', '.join(odd)} would look at shoppers without noise; private learning takes {', '.join(FITTING)}"
        raise InvalidInput("strategy", "not_private", sentence)
