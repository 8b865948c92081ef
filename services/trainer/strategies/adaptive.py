"""Steps whose length follows what happens."""

import torch

from services.trainer.strategies.optimisers import DenseOptimiser
from services.trainer.strategies.parts import Part, Seen


class Hypergradient(Part):
    """The rate grows while gradients agree and falls while they do not (Baydin et al., 2018).

    Multiplicative form: ln(rate) += pace · cos(g_t, g_{t-1}), kept within `most` times either way.
    """

    name = "hypergradient"

    def __init__(self, pace: float = 0.02, most: float = 10.0) -> None:
        super().__init__()
        self._pace, self._most = pace, torch.log(torch.tensor(most)).item()

    def begin(self, dense: DenseOptimiser) -> None:
        """See `Part`."""
        self.vectors, self.counters = {"last": torch.zeros_like(dense.flat)}, {"log_scale": 0.0}

    def gradient(self, dense: DenseOptimiser, impressions: int) -> None:
        """See `Part`."""
        last, now = self.vectors["last"], dense.gradient
        length = torch.linalg.vector_norm(last) * torch.linalg.vector_norm(now)
        agreement = float(torch.dot(last, now) / length) if float(length) > 0 else 0.0
        moved = self.counters["log_scale"] + self._pace * agreement
        self.counters["log_scale"] = min(self._most, max(-self._most, moved))
        last.copy_(now)
        dense.scale = float(torch.exp(torch.tensor(self.counters["log_scale"])))


class DriftStep(Part):
    """Longer steps after a drift: `times` the rate at the moment of the drift, fading over `impressions`.

    Drift by Page and Hinkley (1954) on the mean loss of a step: the sum of what lies above the running mean, less a
    tolerance, against its minimum. Its four numbers are in the checkpoint.
    """

    name = "drift_step"
    TOLERANCE, BOUND, FEWEST = 0.02, 25.0, 200.0

    def __init__(self, times: float = 4.0, impressions: float = 500) -> None:
        super().__init__()
        self._times, self._fade = times, impressions
        self.counters = dict.fromkeys(("count", "mean", "sum", "least", "drifts", "since"), 0.0)
        self.counters["since"] = float("inf")

    def term(self, seen: Seen) -> None:
        """See `Part`: looks at the loss of what appeared, impression by impression, and adds nothing."""
        shown = seen.group.negatives.sum(axis=1)
        if shown.any():
            heads = seen.objective.free
            losses = (seen.objective.point.zero(seen.logits.detach()) * heads).sum(-1).cpu().numpy()
            for loss, weights in zip(losses, seen.group.negatives, strict=True):
                self._see(float((loss * weights).sum() / max(1e-9, weights.sum())))

    def gradient(self, dense: DenseOptimiser, impressions: int) -> None:
        """See `Part`."""
        c = self.counters
        c["since"] += impressions
        left = max(0.0, 1 - c["since"] / self._fade)
        dense.scale = 1 + (self._times - 1) * left

    def _see(self, loss: float) -> None:
        c = self.counters
        c["count"] += 1
        c["mean"] += (loss - c["mean"]) / c["count"]
        c["sum"] += loss - c["mean"] - self.TOLERANCE
        c["least"] = min(c["least"], c["sum"])
        if c["count"] >= self.FEWEST and c["sum"] - c["least"] > self.BOUND:
            c.update(count=0.0, mean=0.0, sum=0.0, least=0.0, drifts=c["drifts"] + 1, since=0.0)
