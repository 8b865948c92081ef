"""Lists scored before anything was learned from them, and what was clicked in the end."""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.records import INITIAL
from services.trainer.evaluation.figures import JudgedList
from services.trainer.examples import Example
from services.trainer.groups import Group
from services.trainer.models.base import RankingModel
from services.trainer.progress import shown_items

Floats = NDArray[np.float32]

_WAITING = 200_000
"""Lists that wait for their labels at most; the oldest go."""


class Judge:
    """Takes a score of each list when it appears and its labels when it is closed."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, JudgedList] = OrderedDict()
        self.lists: list[JudgedList] = []

    def appeared(self, group: Group, scores: Floats) -> None:
        """Click probabilities [B, N] of a group; lists that train nothing are not judged either."""
        if group.kind != INITIAL:
            return
        new_items = group.arrays["row_mask"][:, :, 0] == 0
        for k, example in enumerate(group.examples):
            shown = shown_items(example)
            if example.impression_id in self._waiting or not shown.any() or not example.weights.any():
                continue
            n, items = len(shown), example.impression.items
            self._waiting[example.impression_id] = JudgedList(
                impression_id=example.impression_id,
                user=example.user,
                time_us=example.event_time_us,
                scores=scores[k, :n][shown].copy(),
                clicks=np.zeros(int(shown.sum()), np.bool_),
                new_user=bool(group.arrays["user_row_mask"][k, 0] == 0),
                new_items=new_items[k, :n][shown].copy(),
                categories=tuple(item.category for item, seen in zip(items, shown, strict=True) if seen),
                placement=example.impression.placement,
                device=example.impression.context.device,
            )
        while len(self._waiting) > _WAITING:
            self._waiting.popitem(last=False)

    def closed(self, example: Example) -> None:
        """Take the final labels of a list that is waiting."""
        judged = self._waiting.pop(example.impression_id, None)
        if judged is None:
            return
        clicks = np.zeros(len(example.impression.items), np.bool_)
        clicks[example.items] = example.labels & 1
        clicks = clicks[shown_items(example)]
        if len(clicks) == len(judged.scores):
            self.lists.append(replace(judged, clicks=clicks))


class DeployedLate:
    """The released dense weights as they were some seconds of log time ago: what a slower deployment would serve.

    Rows are current, as they are pushed within seconds whatever the dense part does.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.judge = seconds, Judge()
        self._kept: deque[tuple[int, RankingModel]] = deque()
        self._serving: RankingModel | None = None

    def released(self, now_us: int, model: RankingModel) -> None:
        """Keep what is released now; `model` is not changed afterwards."""
        self._kept.append((now_us, model))

    @torch.no_grad()
    def appeared(self, group: Group, now_us: int) -> None:
        """Score a group by the newest release that is old enough; none serves before there is one."""
        while self._kept and self._kept[0][0] <= now_us - self.seconds * 1e6:
            self._serving = self._kept.popleft()[1]
        if self._serving is not None and group.kind == INITIAL:
            device = next(self._serving.parameters()).device
            logits = self._serving.logits(group.tensors(device))
            self.judge.appeared(group, torch.sigmoid(logits[:, :, 0]).cpu().numpy())


def common(outcomes: Sequence[Sequence[JudgedList]]) -> list[list[JudgedList]]:
    """The lists that all of several judges have judged, each in the order of the first."""
    known = [{judged.impression_id: judged for judged in lists} for lists in outcomes]
    shared = [j.impression_id for j in outcomes[0] if all(j.impression_id in names for names in known)]
    return [[names[name] for name in shared] for names in known]
