"""Writes values into Feast's online store, and notices when the store has lost them."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import redis.asyncio

from services.common.clock import Clock
from services.common.definitions import LONGEST_WINDOW_US
from services.features.fold import ViewsFold
from services.features.meters import Meters
from services.features.views import ViewRows
from services.online.encode import Column, Kind
from services.online.epochs import AsyncEpochs
from services.online.failures import reported
from services.online.writer import AsyncMatrixWriter, Batch, Packer

log = logging.getLogger(__name__)

FIRST_EPOCH = 1

QUERY_TTL_S = LONGEST_WINDOW_US // 1_000_000 + 2 * 24 * 3600
"""Seconds until the store lets go of a query that is not written any more: longer than any value stays as it is. People
never run out of new queries, and some say who they are."""


class OnlineSink:
    """Writes rows of any view: a packer for each set of columns."""

    def __init__(self, client: redis.asyncio.Redis, project: str, meters: Meters, clock: Clock) -> None:
        self._client, self._project, self._meters, self._clock = client, project, meters, clock
        self._writers: dict[tuple[str, tuple[tuple[str, str], ...]], AsyncMatrixWriter] = {}

    async def write(self, rows: ViewRows, epoch: int) -> bool:
        """Store rows in the order (epoch, position); False when the view's epoch was raised above it meanwhile.

        Raises TemporaryError when Redis failed.
        """
        size = len(rows.keys)
        marks = {"_pos": rows.position, "_clock": rows.clock_us}
        columns = {**rows.columns, **{name: Column(np.full(size, value, np.int64)) for name, value in marks.items()}}
        batch = Batch(
            entities=list(zip(*rows.keys, strict=True)),
            columns=columns,
            event_us=rows.event_us,
            epoch=epoch,
            seqs=np.full(size, rows.position, np.uint64),
        )
        result = await self._writer(rows).write(batch)
        known = rows.received_us[rows.received_us > 0]
        oldest = int(known.min()) if len(known) else 0
        self._meters.written(rows.view, result.written, result.dropped, oldest, self._clock.now_us())
        return not result.fenced

    def _writer(self, rows: ViewRows) -> AsyncMatrixWriter:
        key = (rows.view, tuple(rows.kinds.items()))
        if key not in self._writers:
            kinds = {name: Kind[kind] for name, kind in rows.kinds.items()}
            kinds |= {"_pos": Kind.INT64, "_clock": Kind.INT64}
            live_s = QUERY_TTL_S if "query" in rows.join_keys else 0
            packer = Packer(self._project, rows.view, rows.join_keys, kinds, key_ttl_s=live_s)
            self._writers[key] = AsyncMatrixWriter(self._client, packer)
        return self._writers[key]


class StoreGuard:
    """Has folds publish everything again when the store has lost their values (design D9).

    What a fold's values were last written under - the epoch of each view, and the run of the server - is kept with
    its state. A view without an epoch lost its data: everything is written again, then the epoch is raised above the
    last one, which tells the folds of other workers the same. A server that was restarted may lack its last second.
    """

    def __init__(self, client: redis.asyncio.Redis, project: str, meters: Meters) -> None:
        self._client, self._meters = client, meters
        self._epochs = AsyncEpochs(client, project)
        self._lost: set[str] = set()

    async def run(self, folds: Callable[[], Iterable[ViewsFold]], every_s: float) -> None:
        """Check the folds owned now, for ever. A store that cannot be reached is left to the writers."""
        while True:
            try:
                await self.check(folds())
            except Exception as error:
                log.warning("the online store cannot be checked", extra={"error": str(error)})
            await asyncio.sleep(every_s)

    async def check(self, folds: Iterable[ViewsFold]) -> None:
        """Compare what the folds know with what the store has. Raises TemporaryError when it cannot be read."""
        by_view: dict[str, list[ViewsFold]] = {}
        for fold in folds:
            for name in fold.views:
                by_view.setdefault(name, []).append(fold)
        stored = await self._epochs.read(sorted(by_view))
        run = await self._run_id()
        for name, mine in by_view.items():
            epoch = stored[name]
            if epoch is None:
                await self._restore(name, mine, run)
                continue
            self._lost.discard(name)
            for fold in mine:
                self._compare(name, fold, epoch, run)

    async def _run_id(self) -> str:
        with reported():
            info: Any = await self._client.info("server")
        return str(info["run_id"])

    def _compare(self, name: str, fold: ViewsFold, epoch: int, run: str) -> None:
        known = fold.marks.get(name, [epoch, run])
        if known != [epoch, run]:
            self._publish_all(name, fold)
        fold.marks[name] = [epoch, run]

    async def _restore(self, name: str, folds: list[ViewsFold], run: str) -> None:
        last = max(fold.marks.get(name, [0, run])[0] for fold in folds)
        if name not in self._lost:
            self._lost.add(name)
            for fold in folds:
                self._publish_all(name, fold)
            return
        if any(fold.writing or fold.views[name].overdue() for fold in folds):
            return
        epoch = await self._epochs.raise_to(name, last + 1)
        self._lost.discard(name)
        for fold in folds:
            fold.marks[name] = [epoch, run]

    def _publish_all(self, name: str, fold: ViewsFold) -> None:
        if len(fold.views[name].keys):
            self._meters.republished(name)
        fold.views[name].publish_all()


def epoch_of(fold: ViewsFold, view: str) -> int:
    """The epoch to write a view's rows under."""
    return int(fold.marks.get(view, [FIRST_EPOCH, ""])[0])
