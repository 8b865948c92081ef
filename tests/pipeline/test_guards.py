"""Guards switched off one by one: each breaks the ledger under traffic and faults that leave it whole otherwise."""

from pathlib import Path

import pytest

from services.demo.tools import Tools
from services.online import scripts
from tests.pipeline.drill import DRILLED, STEADY, drill
from tests.pipeline.loop import Loop
from tests.pipeline.mutants import GUARDS

pytestmark = [pytest.mark.pipeline, pytest.mark.long]


async def drilled(
    tools: Tools, folder: Path, programs: dict[str, tuple[str, ...]], order: scripts.Script = scripts.WRITE
) -> dict[str, str]:
    loop = Loop(folder, tools, settings=STEADY, services=DRILLED, programs=programs)
    loop.start()
    try:
        return await drill(loop, order)
    finally:
        loop.stop()


@pytest.mark.parametrize("slow", [False, True], ids=["as it is", "slow ingest"])
async def test_with_all_guards_the_ledger_holds(tools: Tools, tmp_path: Path, slow: bool) -> None:
    programs = {"ingest": ("-m", "tests.pipeline.mutants", "ingest", "slow")} if slow else {}
    assert await drilled(tools, tmp_path, programs) == {}


@pytest.mark.parametrize("guard", list(GUARDS))
async def test_without_the_guard_it_breaks(tools: Tools, tmp_path: Path, guard: str) -> None:
    service = GUARDS[guard][0]
    broken = await drilled(tools, tmp_path, {service: ("-m", "tests.pipeline.mutants", service, guard)})
    print(f"without '{guard}': {broken}")
    assert broken


async def test_without_the_order_of_writes_an_old_owner_spoils_the_store(tools: Tools, tmp_path: Path) -> None:
    compared = "wins = e1 > e0 or (e1 == e0 and (h1 > h0 or (h1 == h0 and l1 > l0)))"
    assert compared in scripts.WRITE.source
    broken = await drilled(tools, tmp_path, {}, scripts.Script(scripts.WRITE.source.replace(compared, "wins = true")))
    print(f"without the order of writes: {broken}")
    assert broken
