"""How much of a budget rounds have used: Opacus' RDP accountant, without amplification.

A round is the Gaussian mechanism: a sum to which one shopper adds a vector no longer than C, plus noise of standard
deviation sigma · C. Its Rényi divergence of order alpha is alpha / (2 sigma²) (Mironov, 2017, corollary 3); T rounds
add up to T times that, also when each is chosen after the ones before. The way to (epsilon, delta) is theorem 21 of
Balle et al. (2020), tighter than Mironov's proposition 3:

    epsilon = rdp - (ln delta + ln alpha) / (alpha - 1) + ln((alpha - 1) / alpha),   least over alpha.

Rounds follow the log and are no random samples: nothing is taken off for sampling (Opacus: `sample_rate` 1).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from services.trainer.privacy.config import PrivacyConfig

ORDERS = [1 + float(step) for step in np.geomspace(1e-4, 1e5, 1_801)]
"""Orders alpha that are tried: their spacing costs less than one part in 10,000 of epsilon."""

Spent = Mapping[float, int]
"""Noise multiplier -> rounds made with it."""


def epsilon(spent: Spent, delta: float) -> float:
    """Epsilon of all rounds at `delta`; 0 before the first."""
    history = [(noise, 1.0, rounds) for noise, rounds in sorted(spent.items()) if rounds]
    if not history:
        return 0.0
    accountant = _accountant()
    accountant.load_state_dict({"history": history, "mechanism": accountant.mechanism()})
    return max(0.0, float(accountant.get_epsilon(delta, alphas=ORDERS)))


def with_one_more(spent: Spent, noise: float) -> dict[float, int]:
    """What will have been spent after another round.

    >>> with_one_more({4.0: 2}, 4.0)
    {4.0: 3}
    """
    return {**spent, noise: spent.get(noise, 0) + 1}


def rounds_within(config: PrivacyConfig) -> int:
    """How many rounds a fresh budget is enough for."""

    def fits(rounds: int) -> bool:
        return epsilon({config.charged: rounds}, config.delta) <= config.epsilon

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _accountant() -> Any:
    # Here, not above: importing Opacus takes seconds, and most arms are not private.
    from opacus.accountants import RDPAccountant

    return RDPAccountant()
