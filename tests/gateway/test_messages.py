"""Answers on the wire: written by hand, read by protobuf."""

import numpy as np
import pytest
from freshrank.v1.ranking_pb2 import RankingResponse

from services.gateway import messages
from services.gateway.calls import Ages, Answer


@pytest.mark.parametrize("count", [0, 1, 200])
@pytest.mark.parametrize("heads", [(), ("click", "a head with a rather long name " * 9)])
def test_bytes_written_by_hand_say_what_the_answer_says(count: int, heads: tuple[str, ...]) -> None:
    random = np.random.default_rng(0)
    ids = [f"item-{'ü' * (n % 150)}-{n}" for n in range(count)]
    answer = Answer(
        ids=ids,
        scores=random.random(count).astype(np.float32),
        heads=heads,
        objectives=random.random((count, len(heads))).astype(np.float32),
        reasons=[["new", "x" * 200] if n % 2 else [] for n in range(count)],
        token="t",
        release="r1",
        ages=Ages(rows_ms=5.0),
        missing=ids[:1],
        asked=[("shoes", 0.5), ("hats", 0.25)],
        language="en",
    )
    read = RankingResponse.FromString(messages.answer(answer))
    assert [r.item_id for r in read.results] == ids
    assert [r.score for r in read.results] == answer.scores.tolist()
    assert [[r.objective_scores[h] for h in heads] for r in read.results] == answer.objectives.tolist()
    assert [list(r.reasons) for r in read.results] == answer.reasons
    assert (read.attribution_token, read.release, read.ages.rows_ms) == ("t", "r1", 5.0)
    assert list(read.missing_ids) == ids[:1]
    assert [(told.category, told.probability) for told in read.categories] == answer.asked
    assert read.language == "en"


def test_an_answer_without_reasons_has_none() -> None:
    read = RankingResponse.FromString(messages.answer(Answer(["a"], np.ones(1, np.float32))))
    assert [(r.item_id, r.score, list(r.reasons)) for r in read.results] == [("a", 1.0, [])]
