"""Services with one guard switched off: `python -m tests.pipeline.mutants <service> <guard>`.

Each function takes one guard away in this process, which then runs the service as it is. They show that the
ledger sees what the guard is for: with the guard the ledger holds under the same traffic and the same faults.
"""

import asyncio
import runpy
import sys
from collections.abc import Callable

import numpy as np

from services.common import runner
from services.features import by_item, by_user, feast, rows
from services.ingest import clean, duplicates, route
from services.joiner import held, join

SLOW_S = 0.15
"""How long each write of a slow ingest takes: kills then land between folding and writing."""


def slow() -> None:
    """No guard: writes take long."""
    emit = runner.Runner._emit

    async def slowly(self: runner.Runner, outputs: object) -> None:
        await asyncio.sleep(SLOW_S)
        await emit(self, outputs)

    runner.Runner._emit = slowly


def events_sent_twice_are_dropped() -> None:
    """Ingest knows the events it has taken."""
    clean.Cleaner._duplicates = lambda self, draft: clean.KEPT


def known_events_outlive_the_process() -> None:
    """What ingest has taken is part of its snapshot."""
    duplicates.Seen.restore = lambda self, name, snapshot: None


def records_go_home() -> None:
    """A record on another partition than its user's is sent on."""
    route.Router.is_home = lambda self, user: True


def rows_written_twice_are_passed_over() -> None:
    """Features take each source pair once: ingest writes its last rows again after a kill."""

    def everything(position: rows.Ints, applied: int) -> rows.Mask:
        return np.ones(len(position), np.bool_)

    by_user.unseen = everything
    by_item.unseen = everything


def bots_do_not_count() -> None:
    """Features leave out what programs did."""
    rows.BOT = 0


def an_empty_store_is_noticed() -> None:
    """Features look whether the online store has lost its data."""

    async def nothing(self: feast.StoreGuard, folds: object) -> None:
        """Not looked at."""

    feast.StoreGuard.check = nothing


def quick_actions_wait_for_their_impression() -> None:
    """The joiner holds an action that came before what it answers."""
    held.Held.add = lambda self, action, clock_us: None


def an_action_flips_once() -> None:
    """A second click on the same item of the same impression changes nothing."""

    def all_bits(self: join.Joiner, fired: int, known: int, age_us: int) -> tuple[str, int]:
        return "flipped", fired & self._heads.open_at(age_us)

    join.Joiner._new_bits = all_bits


def snapshots_follow_acknowledgements() -> None:
    """A state is saved only when all that followed from it is on the log."""
    slow()

    async def saved_first(self: runner.Runner, batch: list[runner.Message]) -> None:
        outputs = self.fold.apply(batch)
        await asyncio.to_thread(self._around.snapshots.save, self._topic, self._partition, self.fold.snapshot())
        await self._emit(outputs)
        self.applied = self.fold.next_offset
        self._around.health.applied(self._topic, self._partition, self.applied)

    runner.Runner._step = saved_first


GUARDS: dict[str, tuple[str, Callable[[], None]]] = {
    "events sent twice are dropped": ("ingest", events_sent_twice_are_dropped),
    "known events outlive the process": ("ingest", known_events_outlive_the_process),
    "records go home": ("ingest", records_go_home),
    "snapshots follow acknowledgements": ("ingest", snapshots_follow_acknowledgements),
    "rows written twice are passed over": ("features", rows_written_twice_are_passed_over),
    "bots do not count": ("features", bots_do_not_count),
    "an empty store is noticed": ("features", an_empty_store_is_noticed),
    "quick actions wait for their impression": ("joiner", quick_actions_wait_for_their_impression),
    "an action flips once": ("joiner", an_action_flips_once),
}
"""Guard -> the service that has it, and how it is switched off."""


def main() -> None:
    """Switch one guard off and run the service."""
    service, guard = sys.argv[1], sys.argv[2]
    if guard == "slow":
        slow()
    else:
        GUARDS[guard][1]()
    runpy.run_module(f"services.{service}", run_name="__main__")


if __name__ == "__main__":
    main()
