"""A reranker on a real Triton: the publisher lets it in by its golden pairs, and the gateway asks it."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from services.demo.stack import Stack
from services.demo.tools import Tools
from services.gateway.triton import TritonScorer
from services.text import names
from services.text.folder import RERANKER
from services.text.reranker import PairTokenizer
from tests.publisher.encoders.parts import Log, MadeRerankers, Stage

pytestmark = pytest.mark.pipeline

QUERY, TEXTS = "red shoes", ["red shoe 3", "lamp", "large steel kitchen sink", "blue " * 60]


def test_triton_scores_pairs_as_the_exported_file_does(tools: Tools, tmp_path: Path) -> None:
    made, store = MadeRerankers(tmp_path / "made"), tmp_path / "store"
    (store / "triton").mkdir(parents=True)
    with Stack(tmp_path / "stack", parts=["triton"], tools=tools, model_repository=store / "triton") as stack:
        address = stack.triton.grpc_address
        stage = Stage(store, Log(), address=address)
        name = made.candidate(store)
        stage.steps(2)
        assert [entry.state for entry in stage.rerankers.book.decided] == ["serving"], stage.rerankers.book.decided
        assert list(stage.ranked.routes[-1].at) == [address]
        found = asyncio.run(asked(address, name, PairTokenizer.of(names.kept(store, RERANKER) / name)))
        wanted = made.scores(QUERY, TEXTS)
        for scores in found:
            np.testing.assert_allclose(scores[:, 0], wanted[: len(scores)], atol=1e-4)
        stage.models.close()


async def asked(address: str, name: str, tokens: PairTokenizer) -> list[np.ndarray]:
    """Several at once, which Triton may put together, and one pair alone."""
    scorer = TritonScorer(address)
    every, one = tokens.pairs(QUERY, TEXTS), tokens.pairs(QUERY, TEXTS[:1])
    found = await asyncio.gather(*(scorer.pairs(name, arrays, 20.0) for arrays in (every, one, every, one)))
    await scorer.close()
    return list(found)
