"""One shopper's list before and after what they did was learned: a change that people can look at.

The first list of the judged half that has a click, of a shopper who is known and an answer of some length. Items are
named by the place where they were shown: a result holds no ids of anybody's log.
"""

from typing import Any

import numpy as np

from services.trainer.evaluation.judge import Judge
from services.trainer.examples import Example
from services.trainer.learner import Learner, finally_labelled
from services.trainer.progress import shown_items

_FEWEST = 4
"""Items of a list that is worth looking at."""


class OneShopper:
    """Finds the list and scores it again as soon as its clicks are learned."""

    def __init__(self, judge: Judge) -> None:
        self._judge, self._closed = judge, dict[str, Example]()
        self.found: dict[str, Any] = {}
        """Places, clicks, and scores before and after, in the order shown; empty while there is no such list."""

    def closed(self, example: Example) -> None:
        """Take a list with its final labels."""
        if not self.found:
            self._closed[example.impression_id] = example

    def reached(self, share: float, learner: Learner) -> None:
        """So much of the log is learned, and every list closed so far with it."""
        closed, self._closed = self._closed, {}
        if self.found or share < 0.5 or not closed:
            return
        for judged in self._judge.lists[-len(closed) :]:
            example = closed.get(judged.impression_id)
            if example is not None and judged.clicks.any() and len(judged.clicks) >= _FEWEST and not judged.new_user:
                after = learner.scores(learner.encode([finally_labelled(example)]))[0][: len(example.impression.items)]
                self.found = {
                    "places": (np.flatnonzero(shown_items(example)) + 1).tolist(),
                    "clicked": judged.clicks.tolist(),
                    "before": judged.scores.tolist(),
                    "after": after[shown_items(example)].tolist(),
                }
                return
