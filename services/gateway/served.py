"""An answer as it was served: what the evaluation found, and what of it was shown."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.gateway import rerank
from services.gateway.calls import Caller
from services.gateway.impressions import AsServed
from services.gateway.pipeline import Evaluation
from services.gateway.search.reranker import Reranked

Floats = NDArray[np.float32]


def as_served(
    found: Evaluation,
    caller: Caller,
    placement: str,
    now_us: int,
    shown: rerank.Shown,
    closed_loop: bool,
    unshown: Sequence[int] = (),
    page: int = 0,
    first: int = 0,
    score: Floats | None = None,
    query: str = "",
    reranked: Reranked | None = None,
) -> AsServed:
    """Put together what becomes the impression; `score`: what the order is by, where it is not the release's own."""
    return AsServed(
        impression_id=found.impression_id,
        user=caller.user,
        session=caller.session,
        context=caller.context,
        placement=placement,
        time_us=now_us,
        release=found.serving.release.name if found.serving else "",
        arm=found.world.route.arm,
        slot=found.rows.name,
        epoch=found.rows.epoch,
        degradation=found.rung,
        closed_loop=closed_loop,
        page=page,
        schema=found.world.schema,
        shopper=found.shopper,
        served=found.served,
        candidates=found.candidates,
        score=found.scored.score if score is None else score.astype(np.float32),
        order=shown.order,
        first_position=first,
        propensity=shown.propensity,
        explored=shown.explored,
        drawable=shown.drawable,
        unshown=unshown,
        query=query,
        reranker=reranked.reranker if reranked is not None else "",
        reranked=reranked.scores if reranked is not None else None,
    )
