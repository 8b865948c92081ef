"""The gateway put together: one worker with everything it needs, and the processes beside it."""

import asyncio
import gc
import itertools
import logging
import signal
import uuid
from collections.abc import Callable, Coroutine
from http.server import ThreadingHTTPServer
from typing import Any

import uvloop
from freshrank.v1 import models_pb2_grpc, ranking_pb2_grpc

from services.common import health as probes
from services.common.errors import InvalidInput, TemporaryError
from services.common.health import Health
from services.common.metrics import Metrics, whole
from services.common.tokens import Tokens
from services.common.topics import ITEM_UPDATES, ROUTES
from services.common.tracing import Tracing, tracing_for
from services.gateway import kafka, keep
from services.gateway.beside import plan_path, table_folder
from services.gateway.blocks import CAUGHT_UP, COUNT
from services.gateway.given import watch_given
from services.gateway.grpc.admin import AdminServicer
from services.gateway.grpc.guard import Bearer, Guard
from services.gateway.grpc.ranking import Deadlines, RankingServicer
from services.gateway.grpc.server import ADMIN, RANKING, ConnectionAge, Server, Tls
from services.gateway.limits import Concurrency, TokenBuckets
from services.gateway.meters import Meters
from services.gateway.operate import Operations
from services.gateway.parts import Parts
from services.gateway.plan_file import PlanFile
from services.gateway.processes import Child
from services.gateway.releases import Routes
from services.gateway.search.reranker import watch_rerankers
from services.gateway.search.searcher import watch_words
from services.gateway.search.texts import watch_texts
from services.gateway.settings import GatewaySettings
from services.gateway.table import ItemTable
from services.online.connect import asyncio_client
from services.online.epochs import AsyncEpochs

logger = logging.getLogger(__name__)

OPEN_S = 60.0
"""The item table must be there after so long, or the process ends and is started again."""
CHILD_S = 0.5
ADMIN_CALLS = 16


def run(settings: GatewaySettings, role: str = "serve") -> None:
    """Serve until SIGTERM. `role`: serve (with the processes beside it), or worker (one more that answers)."""
    uvloop.run(_serve(settings, first=role == "serve"))


async def _serve(settings: GatewaySettings, first: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    check(settings)
    roles = [("table",)] + [("worker",)] * (settings.workers - 1) if first else []
    children = [Child(role) for role in roles]
    try:
        table = await _opened(settings, stop)
        if table is not None:
            await build(settings, table, first, children).run(stop)
    finally:
        for child in children:
            child.stop(5 + settings.leave_seconds + settings.drain_seconds)


def check(settings: GatewaySettings) -> None:
    """Raises InvalidInput for settings that cannot work together."""
    if not settings.token_keys:
        raise InvalidInput("token_keys", "missing_field", "set FRESHRANK_TOKEN_KEYS, the same for gateway and joiner")
    Tokens.parse(settings.token_keys)
    if settings.workers > 1 and not settings.port:
        raise InvalidInput("port", "out_of_range", "several workers share a port, so it cannot be 0")
    longest_s = max(settings.deadline_ms, settings.write_deadline_ms, settings.longest_deadline_ms) / 1e3
    for name in ("drain_seconds", "connection_age_grace_seconds"):
        if getattr(settings, name) < longest_s:
            raise InvalidInput(name, "out_of_range", f"calls may take {longest_s:g} s, and would be cut off")
    _tls(settings).credentials()


async def _opened(settings: GatewaySettings, stop: asyncio.Event) -> ItemTable | None:
    """The item table once its writer has made it; None when told to stop meanwhile."""
    for _ in range(int(OPEN_S / 0.1)):
        if stop.is_set():
            return None
        try:
            return ItemTable(table_folder(settings))
        except TemporaryError:
            await asyncio.sleep(0.1)
    raise TemporaryError("the item table's writer has not made the table")


def build(settings: GatewaySettings, table: ItemTable, first: bool, children: list[Child]) -> "Worker":
    """One worker. `first`: it has the operator's port, the probes, and looks after the processes beside it."""
    meters, tracing = Meters(Metrics("gateway")), tracing_for("gateway", settings.otlp_endpoint)
    parts = Parts(settings, table, meters, tracing)
    deadlines = Deadlines(
        settings.deadline_ms / 1e3, settings.write_deadline_ms / 1e3, settings.longest_deadline_ms / 1e3
    )
    guard = Guard(meters, tracing, Concurrency(settings.concurrency), (RANKING,))
    age = ConnectionAge(settings.connection_age_seconds, settings.connection_age_grace_seconds)
    ranking = Server(RANKING, [guard], settings.reflection, share_port=settings.workers > 1, age=age)
    buckets = TokenBuckets(settings.user_rate, settings.user_burst)
    servicer = RankingServicer(
        parts.ranker,
        parts.searcher,
        parts.intake,
        parts.explainer,
        deadlines,
        buckets,
        parts.times,
        parts.request_clock.advance_to,
    )
    ranking_pb2_grpc.add_RankingServicer_to_server(servicer, ranking.grpc)  # type: ignore[no-untyped-call]
    admin = _admin(settings, parts, meters, tracing, deadlines) if first else None
    return Worker(settings, parts, meters, tracing, ranking, admin, children)


def _admin(settings: GatewaySettings, parts: Parts, meters: Meters, tracing: Tracing, deadlines: Deadlines) -> Server:
    bearer = [Bearer(settings.admin_token)] if settings.admin_token else []
    guard = Guard(meters, tracing, Concurrency(ADMIN_CALLS), (ADMIN,))
    admin = Server(ADMIN, [*bearer, guard], settings.reflection)
    operations = Operations(
        settings.store, parts.sender, parts.intake, lambda: parts.state.worlds, lambda: uuid.uuid4().hex
    )
    servicer = AdminServicer(operations, deadlines, lambda: parts.times().now_us)
    models_pb2_grpc.add_AdminServicer_to_server(servicer, admin.grpc)  # type: ignore[no-untyped-call]
    return admin


def _tls(settings: GatewaySettings) -> Tls:
    return Tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


class Worker:
    """One process that answers: opens ports, keeps the state current, drains."""

    def __init__(
        self,
        settings: GatewaySettings,
        parts: Parts,
        meters: Meters,
        tracing: Tracing,
        ranking: Server,
        admin: Server | None,
        children: list[Child],
    ) -> None:
        self._settings, self._parts, self._meters, self._tracing = settings, parts, meters, tracing
        self._ranking, self._admin, self._children = ranking, admin, children
        self._servers = [ranking] if admin is None else [ranking, admin]
        self._routes = kafka.RouteTail(settings.kafka, self._follower())
        self.health = Health()
        self.health.extra = self._positions
        self.health.lag = 1  # there is always work: a loop that stands still is not alive

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until told to stop, then drain. Raises what a background task failed with."""
        settings = self._settings
        await self._ranking.open(settings.host, settings.port, _tls(settings))
        if self._admin is not None:
            await self._admin.open(settings.host, settings.admin_port, _tls(settings))
        probe = self._probe()
        self._routes.start()
        stopping = asyncio.create_task(stop.wait())
        tasks = [stopping, *(asyncio.create_task(task) for task in self._tasks())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.health.ready = False
            for child in self._children:
                if child.answers:
                    child.leave()  # they drain at the same time
            drain, leave = settings.drain_seconds, settings.leave_seconds
            await asyncio.gather(*(server.drain(drain, leave) for server in self._servers))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(self._routes.close)
            await self._parts.close()
            self._tracing.close()
            if probe is not None:
                probe.shutdown()
                probe.server_close()

    def _tasks(self) -> list[Coroutine[Any, Any, Any]]:
        settings, keeper = self._settings, self._parts.keeper
        painting = ItemTable(table_folder(settings))  # of its own: it is read in a thread
        client = asyncio_client(settings.redis_url, settings.redis_tls, socket_timeout=1)
        now_us, seconds = self._parts.wall.now_us, settings.picture_seconds
        return [
            keep.watch_plan(keeper, PlanFile(plan_path(settings))),
            keep.watch_table(keeper, painting, now_us, seconds, settings.table_lag_seconds),
            watch_words(self._parts.words),
            watch_texts(self._parts.texts, ItemTable(table_folder(settings))),
            watch_rerankers(self._parts.rerankers),
            watch_given(self._parts.given, ItemTable(table_folder(settings))),
            keep.watch_epochs(keeper, lambda project: AsyncEpochs(client, project)),
            self._watch_children(),
            self._watch_readiness(),
        ]

    async def _watch_children(self) -> None:
        for beat in itertools.count():
            self.health.applied("loop", 0, beat)
            self._parts.sender.check()
            for child in self._children:
                child.ended()
            await asyncio.sleep(CHILD_S)

    async def _watch_readiness(self) -> None:
        table = self._parts.table
        while not (self._parts.keeper.ready and self._parts.words.reader and table.header[CAUGHT_UP]):
            await asyncio.sleep(0.05)
        gc.collect()
        gc.set_threshold(50_000, 20, 50)  # an answer makes some thousand short-lived lists, none of them in cycles
        gc.freeze()  # what is loaded now stays: the collector need not look at it again in the middle of answers
        for server in self._servers:
            await server.ready(True)
        self.health.ready = True
        logger.info("ready", extra={"port": self._ranking.port, "items": int(table.header[COUNT])})
        await asyncio.Event().wait()

    def _follower(self) -> Callable[[Routes], None]:
        loop, parts = asyncio.get_running_loop(), self._parts

        def follow(routes: Routes) -> None:
            asyncio.run_coroutine_threadsafe(parts.keeper.routed(routes), loop).result()
            parts.texts.routed(routes.text)
            if self._settings.search_rerank:
                parts.rerankers.routed(routes.reranker)

        return follow

    def _probe(self) -> ThreadingHTTPServer | None:
        if self._admin is None:
            return None
        registry = whole(self._meters.registry)
        return probes.serve(self.health, registry, self._settings.http_port, self._settings.http_host)

    def _encoders(self) -> dict[str, str]:
        found = self._parts.texts.in_force
        before = found.before if found else None
        return {"encoder": found.now.encoder if found else "", "encoder_before": before.encoder if before else ""}

    def _positions(self) -> dict[str, Any]:
        route, table = self._parts.route(), self._parts.table
        applied = {f"{ITEM_UPDATES.name}-{p}": offset for p, offset in table.positions.items()}
        applied |= {f"{ROUTES.name}-{p}": offset for p, offset in self._routes.positions.items()}
        return {
            "applied": applied,
            "lag": 0,
            "champion": route.champion,
            "arms": {arm: world.route.champion for arm, world in self._parts.state.worlds.arms.items()},
            "trial": self._parts.state.worlds.split.trial,
            "slot": route.slot,
            "epoch": route.epoch,
            **self._encoders(),
            "reranker": self._parts.rerankers.now.name if self._parts.rerankers.now else "",
            "table_items": int(table.header[COUNT]),
            "impressions_waiting": self._parts.emitter.waiting,
        }
