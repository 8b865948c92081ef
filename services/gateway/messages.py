"""Answers of the core -> messages of the wire."""

from collections.abc import Sequence

from freshrank.v1 import ranking_pb2 as pb
from freshrank.v1.events_pb2 import Degradation

from services.gateway.calls import Answer, Explanation
from services.gateway.intake import Outcome


def answer(found: Answer) -> pb.RankingResponse:
    """The response to Recommend, Rank and Similar."""
    ages = found.ages
    out = pb.RankingResponse(
        attribution_token=found.token,
        next_page_token=found.next_page,
        release=found.release,
        arm=found.arm,
        degradation=Degradation.Name(found.rung),
        ages=pb.Ages(
            user_features_ms=ages.user_features_ms,
            item_features_ms=ages.item_features_ms,
            rows_ms=ages.rows_ms,
            release_ms=ages.release_ms,
        ),
        frozen=found.frozen,
        missing_ids=found.missing,
        request_id=found.request_id,
    )
    add = out.results.add
    objectives = found.objectives.tolist() if found.heads else [()] * len(found.ids)
    reasons = found.reasons or [()] * len(found.ids)
    for item, score, chances, why in zip(found.ids, found.scores.tolist(), objectives, reasons, strict=True):
        add(item_id=item, score=score, objective_scores=dict(zip(found.heads, chances, strict=True)), reasons=why)
    return out


def tracked(outcomes: Sequence[Outcome]) -> pb.TrackResponse:
    """The response to Track."""
    return pb.TrackResponse(results=[_result(outcome) for outcome in outcomes])


def _result(outcome: Outcome) -> pb.TrackResult:
    fault = outcome.fault
    if fault is None:
        return pb.TrackResult(partition=outcome.partition, offset=outcome.offset)
    return pb.TrackResult(
        partition=-1, offset=-1, error_reason=fault.reason, error_field=fault.field, error_detail=fault.detail
    )


def explanation(found: Explanation) -> pb.ExplainResponse:
    """The response to Explain."""
    return pb.ExplainResponse(
        item_id=found.item,
        score=found.score,
        served_score=found.served_score,
        release=found.release,
        contributions=[
            pb.Contribution(feature=p.feature, value=p.value, contribution=p.contribution, age_ms=p.age_ms)
            for p in found.parts
        ],
    )
