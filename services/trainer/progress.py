"""Progressive validation: each impression is judged by scores taken before anything was learned from it.

Whole impressions are scored once when they appear, by the learner and by the champion's dense model on the same
rows; the scores wait until the impression is closed and its labels are final (Blum, Kalai, Langford, 1999).
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.trainer import scores
from services.trainer.examples import Example

Floats = NDArray[np.float32]

_MOST_LOSSES = 10_000
"""Losses kept for a caller who is slow to take them."""


@dataclass(frozen=True)
class Judged:
    """Scores of one list's shown items [n], and later its clicks; `champion` is all NaN when there was none."""

    learner: Floats
    champion: Floats
    clicks: NDArray[np.bool_]

    @property
    def compared(self) -> bool:
        """True when a champion scored it too."""
        return not bool(np.isnan(self.champion).any())


class Progress:
    """Waiting scores and the window of judged impressions; both bounded."""

    def __init__(self, window: int = 5_000, waiting: int = 50_000) -> None:
        """`window`: judged impressions kept; `waiting`: impressions not closed yet, of which the oldest go first."""
        self._waiting: dict[str, Judged] = {}
        self._most = waiting
        self._window: deque[Judged] = deque(maxlen=window)
        self._losses: deque[float] = deque(maxlen=_MOST_LOSSES)
        self._surpluses: deque[float] = deque(maxlen=_MOST_LOSSES)
        self._ratings: deque[tuple[float, float]] = deque(maxlen=window)
        self._rated: deque[tuple[float, float]] = deque(maxlen=_MOST_LOSSES)
        self.dropped = 0
        """Impressions given up because too many were waiting."""

    def scored(self, examples: Sequence[Example], learner: Floats, champion: Floats | None) -> None:
        """Keep click scores [B, N] of impressions that have just appeared; the first scores of an id stay.

        Those that train nothing (weight 0: bots, answers below stale features) are not judged either.
        """
        for k, example in enumerate(examples):
            shown = shown_items(example)
            if example.impression_id in self._waiting or not shown.any() or not example.weights.any():
                continue
            ours = learner[k, : len(shown)][shown]
            theirs = np.full_like(ours, np.nan) if champion is None else champion[k, : len(shown)][shown]
            self._waiting[example.impression_id] = Judged(ours.copy(), theirs.copy(), np.zeros(len(ours), np.bool_))
        while len(self._waiting) > self._most:
            del self._waiting[next(iter(self._waiting))]
            self.dropped += 1

    def closed(self, example: Example) -> bool:
        """Take the final labels; an impression that was never scored is passed over, and False is said."""
        judged = self._waiting.pop(example.impression_id, None)
        if judged is None:
            return False
        clicks = np.zeros(len(example.impression.items), np.bool_)
        clicks[example.items] = example.labels & 1
        clicks = clicks[shown_items(example)]
        if len(clicks) == len(judged.learner):
            self._window.append(Judged(judged.learner, judged.champion, clicks))
            loss = scores.log_loss(clicks, judged.learner)
            self._losses.append(loss)
            self._surpluses.append(loss - scores.entropy(judged.learner))
        return True

    def take_losses(self) -> tuple[list[float], list[float]]:
        """The learner's log-loss on each impression closed since the last call, in order, and its surplus.

        The surplus is the loss less what the scores themselves expect of it; see `Trigger.see`.
        """
        losses, surpluses = list(self._losses), list(self._surpluses)
        self._losses.clear()
        self._surpluses.clear()
        return losses, surpluses

    def rated(self, expected: Floats, given: Floats) -> None:
        """Keep ratings [n] and what was expected of them before they were learned."""
        pairs = list(zip(expected.tolist(), given.tolist(), strict=True))
        self._ratings.extend(pairs)
        self._rated.extend(pairs)

    def take_ratings(self) -> list[tuple[float, float]]:
        """(expected, given) of each rating since the last call, in order."""
        pairs = list(self._rated)
        self._rated.clear()
        return pairs

    def metrics(self) -> dict[str, float]:
        """auc, log_loss, ndcg_at_10, ctr, predicted_ctr, impressions; with `champion_` the same of the champion.

        threshold, precision, recall, f1: of the highest F1 in the older half of the window, on the newer half.
        rating_rmse, rating_mae, ratings: of as many newest ratings, where the model has a rating.

        As soon as there are impressions that a champion scored too, all figures are over those alone.
        """
        compared = [judged for judged in self._window if judged.compared]
        chosen = compared or list(self._window)
        if not chosen:
            return {**self._of_ratings(), "impressions": 0.0}
        clicks = [judged.clicks for judged in chosen]
        out = figures_of(clicks, [judged.learner for judged in chosen])
        if compared:
            out |= {f"champion_{k}": v for k, v in figures_of(clicks, [judged.champion for judged in chosen]).items()}
        return {**out, **_decided(chosen), **self._of_ratings(), "impressions": float(len(chosen))}

    def _of_ratings(self) -> dict[str, float]:
        if not self._ratings:
            return {}
        off = np.subtract(*np.array(self._ratings).T)
        rmse, mae = float(np.sqrt((off**2).mean())), float(np.abs(off).mean())
        return {"rating_rmse": rmse, "rating_mae": mae, "ratings": float(len(off))}

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything as arrays, for a checkpoint."""
        entries = [*self._waiting.values(), *self._window]
        return {
            "ids": np.frombuffer(json.dumps(list(self._waiting)).encode(), np.uint8),
            "lengths": np.array([len(judged.learner) for judged in entries], np.int64),
            "learner": _joined([judged.learner for judged in entries]),
            "champion": _joined([judged.champion for judged in entries]),
            "clicks": _joined([judged.clicks for judged in entries]).astype(np.uint8),
            "ratings": np.array(self._ratings, np.float64).reshape(-1, 2),
        }

    def load(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """The way back."""
        cuts = np.cumsum(state["lengths"].astype(np.int64))[:-1]
        parts = [np.split(state[name], cuts) for name in ("learner", "champion", "clicks")]
        empty = not len(state["lengths"])
        entries = [] if empty else [Judged(a, b, c.astype(np.bool_)) for a, b, c in zip(*parts, strict=True)]
        ids = json.loads(state["ids"].tobytes())
        self._waiting = dict(zip(ids, entries[: len(ids)], strict=True))
        self._window.clear()
        self._window.extend(entries[len(ids) :])
        self._ratings.clear()
        self._ratings.extend((float(a), float(b)) for a, b in state.get("ratings", ()))


class RunningLoss:
    """The champion's log-loss on the newest examples and current rows, before learning: what the row gate watches.

    A candidate adds its loss(0) when it appears and the flip when its click comes, so nothing has to be waited for.
    """

    def __init__(self) -> None:
        self._sum, self._rows = 0.0, 0

    def add(self, champion: Floats, negatives: Floats, positives: Floats) -> None:
        """Champion's click scores [B, N], weights of loss(0) [B, N] and of click flips [B, N]."""
        logits = scores.logit(champion)
        self._sum += float((np.logaddexp(0, logits) * negatives - logits * positives).sum())
        self._rows += int(np.count_nonzero(negatives))

    def take(self) -> tuple[float, int]:
        """Mean loss and candidates since the last call; (NaN, 0) while no candidate has appeared."""
        if not self._rows:
            return float("nan"), 0
        out = (self._sum / self._rows, self._rows)
        self._sum, self._rows = 0.0, 0
        return out


def shown_items(example: Example) -> NDArray[np.bool_]:
    """Which items of the impression the shopper saw, [n]."""
    return np.fromiter((item.shown for item in example.impression.items), np.bool_)


def figures_of(clicks: Sequence[NDArray[np.bool_]], lists: Sequence[Floats]) -> dict[str, float]:
    """Figures of lists of click scores against their clicks: auc, log_loss, ndcg_at_10, ctr, predicted_ctr."""
    labels, flat = np.concatenate(clicks), np.concatenate(lists)
    gains = [scores.ndcg(c, s) for c, s in zip(clicks, lists, strict=True) if c.any()]
    return {
        "auc": scores.auc(labels, flat),
        "log_loss": scores.log_loss(labels, flat),
        "ndcg_at_10": float(np.mean(gains)) if gains else float("nan"),
        "ctr": float(labels.mean()),
        "predicted_ctr": float(flat.mean()),
    }


def _decided(judged: Sequence[Judged]) -> dict[str, float]:
    half = len(judged) // 2
    if not half:
        return {}
    past, now = (
        (np.concatenate([j.clicks for j in part]), np.concatenate([j.learner for j in part]))
        for part in (judged[:half], judged[half:])
    )
    threshold = scores.best_threshold(*past)
    found = scores.decided(*now, threshold)
    return {"threshold": threshold, "precision": found["precision"], "recall": found["recall"], "f1": found["f"]}


def _joined(parts: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    return np.concatenate([*parts, np.zeros(0, np.float32)])
