"""The gate of releases: every candidate is judged by figures, and every figure has a bound.

Two views of one candidate (design D8). The *learner's*: its scores of each impression, taken once before learning from
it, against the champion's on the same impressions and rows. The *file's*: the exported graph itself, run on the last
closed impressions with the rows that are in the store, which is what shoppers would get. A wrong export (inputs
permuted, rows of another time, labels swapped) looks well in the first and bad in the second.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.publisher import scores
from services.publisher.checks import Check, at_least, at_most, holds
from services.publisher.judgments import RelevanceBounds
from services.publisher.replay import Scored


@dataclass(frozen=True)
class GateBounds:
    """How much worse than the champion a candidate may be, and how sure that must be."""

    learner_impressions: int = 300
    """Impressions behind the learner's figures."""
    replayed_impressions: int = 300
    """Labelled impressions that the file is run on."""
    auc: float = 0.005
    """Area lost against the champion."""
    log_loss: float = 0.01
    """Relative rise of the learner's log-loss over the champion's."""
    file_log_loss: float = 0.01
    """Relative rise of the file's log-loss over the champion's, and over what the learner's figures promise."""
    head_log_loss: float = 0.05
    """Relative rise of each further head's log-loss over the champion's."""
    head_positives: int = 30
    """Positives from which a further head is judged."""
    calibration: float = 1.25
    """Sum of probabilities over clicks, and its inverse."""
    stability: float = 0.2
    """Population stability index against the champion's scores, unless the candidate is clearly better."""
    spread: float = 1e-4
    """Least mean standard deviation of scores inside an impression."""
    parity: float = 1e-3
    """Most that the manifest may claim as the golden tolerance."""
    latency_ratio: float = 2.0
    """Time of a golden batch over the champion's."""
    latency_ms: float = 25.0
    """Time of a golden batch that is always allowed."""
    offpolicy: bool = False
    """Whether a candidate must not be surely worse than the champion where answers were left to chance."""
    relevance: RelevanceBounds = RelevanceBounds()
    """NDCG@10 on judged queries lost against the champion."""
    rows_age_s: float = 120.0
    """How far the rows in the store may lag behind what the weights have learned."""


def judge_learner(metrics: Mapping[str, float], first: bool, young: bool, bounds: GateBounds) -> list[Check]:
    """(a) The learner's own figures against the champion's; the first release has to beat the base rate.

    `young`: too few impressions have closed since there is this champion, so there can be no such figures yet; then
    those of the file must do.
    """
    figure = {**dict.fromkeys(_METRICS, float("nan")), **metrics}
    if young and not figure["impressions"] >= bounds.learner_impressions:
        return []
    if first:
        return [
            at_least("learner_auc", figure["auc"], 0.5),
            at_most("learner_log_loss", figure["log_loss"], scores.entropy(figure["ctr"]), "the base rate's"),
        ]
    rise = figure["log_loss"] / figure["champion_log_loss"] - 1 if figure["champion_log_loss"] else float("nan")
    checks = [
        at_least("learner_impressions", figure["impressions"], bounds.learner_impressions),
        at_least("learner_auc", figure["auc"] - figure["champion_auc"], -bounds.auc, "against the champion"),
        at_most("learner_log_loss", rise, bounds.log_loss, "relative to the champion"),
    ]
    if "predicted_ctr" in metrics:
        off, champions = (_ratio_off(figure, prefix) for prefix in ("", "champion_"))
        allowed = max(math.log(bounds.calibration), champions if math.isfinite(champions) else 0.0)
        checks.append(at_most("learner_calibration", off, allowed, "log of predicted over true"))
    return checks


def judge_replay(
    candidate: Scored, champion: Scored | None, metrics: Mapping[str, float], young: bool, bounds: GateBounds
) -> list[Check]:
    """(b) The file on the last labelled impressions."""
    finite = int(np.count_nonzero(~np.isfinite(candidate.scores)))
    needed = champion is not None or young
    enough = at_least("replayed_impressions", candidate.impressions, bounds.replayed_impressions if needed else 0)
    clean = at_most("file_finite", finite, 0, "scores that are no numbers" if finite else "")
    if not (enough.passed and clean.passed) or candidate.impressions < bounds.replayed_impressions:
        return [enough, clean]
    within = float(candidate.scores.min()) >= 0 and float(candidate.scores.max()) <= 1
    checks = [
        enough,
        clean,
        holds("file_probabilities", within, "a score outside 0 and 1"),
        at_least("file_spread", scores.spread_within(candidate.scores[:, 0], candidate.groups), bounds.spread),
        _calibration(candidate, champion, bounds),
        _promise(candidate, champion, metrics, bounds),
    ]
    return checks + (_against(candidate, champion, bounds) if champion is not None else [])


def judge_golden(
    answers: NDArray[np.float32],
    golden: NDArray[np.float32],
    mask: NDArray[np.float32],
    tolerance: float,
    bounds: GateBounds,
) -> list[Check]:
    """The exported graph must answer the recorded requests as the trainer did; padding does not count."""
    if answers.shape != golden.shape:
        return [holds("golden_parity", False, f"answers {answers.shape}, golden {golden.shape}")]
    asked = mask > 0
    gap = np.abs(answers[asked] - golden[asked])
    spread = float(np.std(golden[asked][:, 0])) if asked.any() else float("nan")
    return [
        at_most("golden_tolerance", tolerance, bounds.parity),
        at_most("golden_parity", gap.max() if gap.size else float("nan"), tolerance, "largest difference"),
        at_least("golden_spread", spread, bounds.spread / 10, "of the trainer's own scores"),
    ]


def judge_latency(candidate_ms: float, champion_ms: float | None, bounds: GateBounds) -> Check:
    """A golden batch may take twice the champion's time, or what is always allowed."""
    bound = max(bounds.latency_ms, bounds.latency_ratio * (champion_ms or 0.0))
    return at_most("latency_ms", candidate_ms, bound, "of a golden batch")


def judge_rows(learned_up_to_us: int, seq: int, rows_time_us: int, pushed_seq: int, bounds: GateBounds) -> list[Check]:
    """The rows that the weights have learned with must be in the store; weights older than any row need none."""
    none_yet = seq == 0 and rows_time_us == 0
    lag_s = 0.0 if none_yet else max(0, learned_up_to_us - rows_time_us) / 1e6
    return [
        at_least("rows_pushed", pushed_seq, seq, "sequence of the rows"),
        at_most("rows_age_s", lag_s, bounds.rows_age_s, "rows behind the weights"),
    ]


_METRICS = (
    "auc", "log_loss", "ctr", "predicted_ctr", "impressions",
    "champion_auc", "champion_log_loss", "champion_ctr", "champion_predicted_ctr",
)  # fmt: skip


def _promise(candidate: Scored, champion: Scored | None, metrics: Mapping[str, float], bounds: GateBounds) -> Check:
    """Log-loss over the base rate's (normalised entropy; He et al., 2014), because click rates differ between hours.

    It must be below 1, and near what the learner's figures promise. Where the champion, too, is further from that
    than it was, shoppers have changed and not the export: then the champion is the measure.
    """
    labels = candidate.labels[:, 0]
    base = scores.base_rate_loss(labels)
    found = scores.log_loss(labels, candidate.scores[:, 0]) / base
    promised = metrics.get("log_loss", float("nan")) / scores.entropy(metrics.get("ctr", float("nan")))
    noise = 3 * scores.loss_error(labels, candidate.scores[:, 0], candidate.groups) / base
    bound = promised * (1 + bounds.file_log_loss) + noise if math.isfinite(promised) else 1.0
    if champion is not None:
        bound = max(bound, scores.log_loss(labels, champion.scores[:, 0]) / base * (1 + bounds.file_log_loss))
    return at_most("file_log_loss", found, bound if champion is not None else min(bound, 1.0), "over the base rate's")


def _against(candidate: Scored, champion: Scored, bounds: GateBounds) -> list[Check]:
    labels, groups = candidate.labels, candidate.groups
    one, other = candidate.scores[:, 0], champion.scores[:, 0]
    area = scores.auc_difference(labels[:, 0], one, other, groups)
    loss = scores.loss_difference(labels[:, 0], one, other, groups)
    base = scores.log_loss(labels[:, 0], other)
    allowed = bounds.file_log_loss + 2 * loss.error / base
    better = loss.mean + 2 * loss.error < 0
    moved = scores.stability_index(other, one)
    checks = [
        at_least("file_auc", area.mean, -max(bounds.auc, 2 * area.error), "against the champion"),
        at_most("file_log_loss_rise", loss.mean / base, allowed, "relative to the champion"),
        at_most("file_stability", moved, float("inf") if better else bounds.stability, "index against the champion"),
    ]
    for head in range(1, labels.shape[1]):
        if labels[:, head].sum() >= bounds.head_positives:
            checks.append(_head(candidate, champion, head, bounds))
    return checks


def _head(candidate: Scored, champion: Scored, head: int, bounds: GateBounds) -> Check:
    labels = candidate.labels[:, head]
    gap = scores.loss_difference(labels, candidate.scores[:, head], champion.scores[:, head], candidate.groups)
    base = scores.log_loss(labels, champion.scores[:, head])
    return at_most(f"file_log_loss_{head}", gap.mean / base, bounds.head_log_loss + 3 * gap.error / base, "head")


def _calibration(candidate: Scored, champion: Scored | None, bounds: GateBounds) -> Check:
    """A candidate no further from right than the champion passes: traffic may have moved under both."""
    labels = candidate.labels[:, 0]
    off = _off(labels, candidate.scores[:, 0])
    allowed = math.log(bounds.calibration) + 2 / math.sqrt(max(1.0, float(labels.sum())))
    if champion is not None:
        allowed = max(allowed, _off(labels, champion.scores[:, 0]))
    return at_most("file_calibration", off, allowed, "log of predicted over true")


def _ratio_off(figure: Mapping[str, float], prefix: str) -> float:
    predicted, true = figure[f"{prefix}predicted_ctr"], figure[f"{prefix}ctr"]
    return abs(math.log(predicted / true)) if predicted > 0 and true > 0 else float("nan")


def _off(labels: NDArray[np.float32], predicted: NDArray[np.float32]) -> float:
    ratio = scores.calibration(labels, predicted)
    return abs(math.log(ratio)) if ratio > 0 else float("nan")
