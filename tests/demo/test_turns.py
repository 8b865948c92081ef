"""Strategies in turn: what counts as a release of one's own."""

import asyncio

from services.demo.turns import Turns


async def test_a_strategy_without_a_release_is_told_as_such() -> None:
    class NoStack:
        """Nothing to restart."""

    turns = Turns(NoStack(), None, lambda: [{"decision": "promoted", "release": "r20200101t000000-1-1"}])  # type: ignore[arg-type]
    turns._restart = lambda strategy: None  # type: ignore[method-assign]
    await asyncio.wait_for(turns.run(["ewc(10)"], seconds=0.1), 30)
    assert not turns.turns[0].served, "a release of before is none of its own"
