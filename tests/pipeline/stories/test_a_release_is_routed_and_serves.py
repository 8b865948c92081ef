"""From nothing to a served model: traffic becomes examples, examples a candidate, the candidate the champion."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest
from freshrank.v1 import events_pb2, models_pb2, ranking_pb2
from numpy.typing import NDArray

from services.common.encode import encode
from services.common.topics import ITEM_UPDATES
from services.publisher import manifest
from tests.pipeline.loop import Loop, keyed

pytestmark = pytest.mark.pipeline

Floats = NDArray[np.float32]


async def test_a_first_release_passes_the_gate_and_is_promoted(loop: Loop) -> None:
    champion = await loop.serving()
    decisions = [entry["decision"] for entry in loop.audit() if entry["release"] == champion]
    assert "promoted" in decisions
    assert (loop.plan.store / "releases" / champion / "model.onnx").exists()


async def test_scores_served_are_the_releases_own_of_the_inputs_as_served(loop: Loop) -> None:
    await loop.serving()
    async with loop.calling() as api:
        asked = await api.recommend(ranking_pb2.Shopper(user_id="bea", session_id="bea-1"))
    assert asked is not None
    answer = asked[0]
    await loop.follower.caught_up()
    (impression,) = (i for i in loop.impressions() if i.impression_id == answer.request_id)
    assert answer.degradation == events_pb2.DEGRADATION_NONE
    assert impression.user_row_seq == 0  # nobody has learned of this shopper yet

    folder = loop.plan.store / "releases" / answer.release
    release = manifest.read(folder)
    arrays = encode([impression], release.spec, RowsAsServed(loop, impression, release.spec.row_dim))
    model = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    (heads,) = model.run(["scores"], arrays)
    weights = np.array([release.objective[head] for head in release.spec.heads], np.float32)
    recomputed = dict(zip([item.item_id for item in impression.items], heads[0] @ weights, strict=True))
    served = {result.item_id: result.score for result in answer.results}
    assert len(served) == 20
    assert arrays["row_mask"].sum() > 0
    np.testing.assert_allclose([recomputed[item] for item in served], list(served.values()), rtol=1e-5, atol=1e-6)


class RowsAsServed:
    """Item rows by the sequence that the impression names, from the log of item updates."""

    def __init__(self, loop: Loop, impression: events_pb2.Impression, row_dim: int) -> None:
        wanted = {(entry.item_id, entry.row_seq) for entry in [*impression.items, *impression.history]}
        self._dim, self._rows = row_dim, dict[str, list[float]]()
        for key, value in keyed(loop.bootstrap, ITEM_UPDATES.name):
            kind, _, rest = key.partition("|")
            slot, _, item = rest.partition("|")
            if (kind, slot) == ("r", impression.slot):
                row = models_pb2.ItemRow.FromString(value)
                if (item, row.seq) in wanted and row.epoch == impression.epoch:
                    self._rows[item] = list(row.row)

    def items(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of items."""
        rows = [self._rows.get(item) or [0.0] * self._dim for item in ids]
        masks = [float(bool(self._rows.get(item))) for item in ids]
        return np.array(rows, np.float32).reshape(-1, self._dim), np.array(masks, np.float32)

    def users(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """All absent."""
        return np.zeros((len(ids), self._dim), np.float32), np.zeros(len(ids), np.float32)
