"""A rating as heads of the ranker: one says that there is a rating, each other one that it is higher by a step.

The others are learned of what was rated and of nothing else, so each is the chance that a rating reaches its step;
what a rating will be is the least one and the sum of those chances, each times its worth (Frank, Hall, 2001). The
joiner says which is which: `rated=RATE@1d; two=RATE:rating>=2@1d; ... five=RATE:rating>=5@1d`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scale:
    """Places of the heads among all heads, the one that says "rated" first, and what each adds to a rating."""

    heads: tuple[int, ...]
    worth: tuple[float, ...]

    @staticmethod
    def of(rating: Mapping[str, float], heads: Sequence[str]) -> "Scale | None":
        """The setting `rating` among an arm's heads; None without one. Raises InvalidInput with field `rating`."""
        if not rating:
            return None
        missing = [name for name in rating if name not in heads]
        if missing:
            raise InvalidInput("rating", "unknown_head", f"{', '.join(missing)} is none of {', '.join(heads)}")
        return Scale(tuple(heads.index(name) for name in rating), tuple(rating.values()))

    def under(self, count: int) -> tuple[int, ...]:
        """Of each of `count` heads the one that it is learned under, itself when it is under none.

        >>> Scale((1, 2, 3), (1.0, 1.0, 2.0)).under(4)
        (0, 1, 1, 1)
        """
        return tuple(self.heads[0] if place in self.heads[1:] else place for place in range(count))

    def expected(self, chances: Floats) -> Floats:
        """Ratings [...] of what would be rated, from probabilities [..., heads].

        >>> float(Scale((0, 1, 2), (1.0, 1.0, 1.0)).expected(np.array([0.1, 1.0, 0.5], np.float32)))
        2.5
        """
        steps = np.array(self.worth[1:], np.float32)
        out: Floats = np.float32(self.worth[0]) + chances[..., list(self.heads[1:])] @ steps
        return out

    def judged(self, chances: Floats, acted: Floats) -> tuple[Floats, Floats]:
        """Expected and given ratings [n] of what is rated; chances and weights of what fired [..., heads]."""
        fired = acted > 0
        rated = fired[..., self.heads[0]]
        return self.expected(chances[rated]), self.expected(fired[rated].astype(np.float32))
