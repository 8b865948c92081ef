"""Answers of the core -> messages of the wire."""

from collections.abc import Sequence

import numpy as np
from freshrank.v1 import ranking_pb2 as pb
from freshrank.v1.events_pb2 import Degradation

from services.gateway.calls import Answer, Explanation
from services.gateway.intake import Outcome
from services.gateway.wire import varint


def answer(found: Answer) -> bytes:
    """The response to Recommend, Search, Rank and Similar, serialized.

    A message may be a concatenation of parts: what occurs once comes from protobuf, the results from `results`.
    """
    ages = found.ages
    once: bytes = pb.RankingResponse(
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
        query=found.query,
        corrected_query=found.corrected,
        found=found.found,
        facets=[
            pb.Facet(name=name, values=[pb.FacetValue(value=value, count=count) for value, count in values])
            for name, values in found.facets.items()
        ],
        categories=_asked(found.asked),
        language=found.language,
    ).SerializeToString()
    return results(found) + once


def results(found: Answer) -> bytes:
    """The field `results`, written by hand: as objects, a hundred of them cost more than their features' lookup."""
    numbers, width = _numbers(found)
    reasons = found.reasons or [()] * len(found.ids)
    parts: list[bytes] = []
    for place, (item, why) in enumerate(zip(found.ids, reasons, strict=True)):
        name = item.encode()
        body = [_ID, varint(len(name)), name, numbers[place * width : (place + 1) * width]]
        for reason in why:
            text = reason.encode()
            body += (_REASON, varint(len(text)), text)
        item_bytes = b"".join(body)
        parts += (_RESULT, varint(len(item_bytes)), item_bytes)
    return b"".join(parts)


_RANKED = pb.RankedItem.DESCRIPTOR.fields_by_name
_RESULT = bytes([pb.RankingResponse.DESCRIPTOR.fields_by_name["results"].number << 3 | 2])
_ID, _REASON, _CHANCE = (bytes([_RANKED[name].number << 3 | 2]) for name in ("item_id", "reasons", "objective_scores"))
_SCORE = bytes([_RANKED["score"].number << 3 | 5])
_KEY, _VALUE = b"\x0a", b"\x15"
"""Tags inside a map entry: 1 = key (text), 2 = value (float)."""


def _numbers(found: Answer) -> tuple[bytes, int]:
    """Score and objectives of all results, as equally long pieces: (bytes, bytes per result)."""
    template, at = bytearray(_SCORE + bytes(4)), [len(_SCORE)]
    for head in found.heads:
        name = head.encode()
        entry = _KEY + varint(len(name)) + name + _VALUE + bytes(4)
        template += _CHANCE + varint(len(entry)) + entry
        at.append(len(template) - 4)
    pieces = np.tile(np.frombuffer(bytes(template), np.uint8), (len(found.ids), 1))
    columns = [found.scores, *(found.objectives[:, k] for k in range(len(found.heads)))]
    for start, values in zip(at, columns, strict=True):
        pieces[:, start : start + 4] = np.ascontiguousarray(values, "<f4").view(np.uint8).reshape(-1, 4)
    return pieces.tobytes(), len(template)


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


def _asked(categories: Sequence[tuple[str, float]]) -> list[pb.AskedCategory]:
    return [pb.AskedCategory(category=name, probability=chance) for name, chance in categories]


def explanation(found: Explanation) -> pb.ExplainResponse:
    """The response to Explain."""
    return pb.ExplainResponse(
        item_id=found.item,
        score=found.score,
        served_score=found.served_score,
        release=found.release,
        query=found.query,
        matched_words=found.matched,
        reranker=found.reranker,
        reranked=found.reranked if found.reranker else 0.0,
        categories=_asked(found.asked),
        contributions=[
            pb.Contribution(feature=p.feature, value=p.value, contribution=p.contribution, age_ms=p.age_ms)
            for p in found.parts
        ],
    )
