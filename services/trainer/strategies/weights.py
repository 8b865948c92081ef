"""What an example counts: sampling, exploration and position, each bounded.

The joiner's weight already undoes its sampling. Under a position model (a click needs the item to be
examined, with probability theta of its place) the unbiased loss of relevance is loss(0) + click / theta ·
(loss(1) - loss(0)) (Joachims et al., 2017; Saito et al., 2020): only the flip is divided by theta.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from freshrank.v1.events_pb2 import ImpressionItem
from numpy.typing import NDArray


@dataclass(frozen=True)
class WeightConfig:
    """Bounds of the weights; the defaults learn clicks as they come."""

    propensity_clip: float = 1.0
    """Largest 1 / propensity of a shown item; 1 = propensities are not used."""
    position_power: float = 0.0
    """theta of place k (from 0) is (k + 1)^-power; 0 = scores are probabilities of a click where it was shown."""
    position_clip: float = 5.0
    """Largest 1 / theta."""


def item_weights(
    items: Sequence[ImpressionItem], weights: NDArray[np.float32], config: WeightConfig, *, flips: bool
) -> NDArray[np.float32]:
    """Weights [n] of examples of these items: `weights` times what exploration and, for flips, position ask."""
    out = weights.copy()
    if config.propensity_clip > 1:
        propensity = np.array([item.propensity for item in items], np.float32)
        shown = np.array([item.shown for item in items], np.bool_)
        inverse = np.divide(1, propensity, out=np.ones_like(propensity), where=shown & (propensity > 0))
        out *= np.clip(inverse, 1, config.propensity_clip)
    if flips and config.position_power > 0:
        place = np.array([item.position for item in items], np.float32)
        out *= np.minimum((place + 1) ** np.float32(config.position_power), np.float32(config.position_clip))
    return out
