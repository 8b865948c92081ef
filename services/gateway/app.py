"""The gateway put together: one worker with everything it needs, and the processes beside it."""

import asyncio
import logging
import signal
import uuid
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import redis.asyncio
import uvloop
from freshrank.v1 import models_pb2_grpc, ranking_pb2_grpc
from freshrank.v1.models_pb2 import Route
from numpy.typing import NDArray

from services.common import health as probes
from services.common.clock import ManualClock, WallClock
from services.common.errors import InvalidInput, TemporaryError
from services.common.health import Health
from services.common.kafka import Outbox
from services.common.metrics import Metrics
from services.common.tokens import Tokens
from services.common.topics import ITEM_UPDATES, ROUTES
from services.common.tracing import tracing_for
from services.gateway import catalogue, kafka, keep, retrieve, schema
from services.gateway.beside import plan_path, table_folder
from services.gateway.blocks import CAUGHT_UP, COUNT
from services.gateway.checks import Times
from services.gateway.emit import Emitter
from services.gateway.explain import Explainer
from services.gateway.feast import ShopperStore
from services.gateway.grpc.admin import AdminServicer
from services.gateway.grpc.guard import Bearer, Guard
from services.gateway.grpc.ranking import Deadlines, RankingServicer
from services.gateway.grpc.server import ADMIN, RANKING, Server, Tls
from services.gateway.impressions import RecentAnswers
from services.gateway.intake import Intake
from services.gateway.keep import Keeper
from services.gateway.limits import Concurrency, TokenBuckets
from services.gateway.meters import Meters
from services.gateway.operate import Operations
from services.gateway.pipeline import Pipeline, State
from services.gateway.plan_file import PlanFile
from services.gateway.processes import Child
from services.gateway.ranker import Policy, Ranker
from services.gateway.releases import World
from services.gateway.retrieve import Covisits
from services.gateway.settings import GatewaySettings
from services.gateway.table import ItemTable
from services.gateway.triton import TritonScorer
from services.online.epochs import AsyncEpochs
from services.online.reader import MatrixReader
from services.online.wire import Endpoint

logger = logging.getLogger(__name__)

OPEN_S = 60.0
"""The item table must be there after so long, or the process ends and is started again."""
CHILD_S = 0.5


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
        worker = await build(settings, first, stop)
        if worker is not None:
            await worker.run(stop, children)
    finally:
        for child in children:
            child.stop(5)


def check(settings: GatewaySettings) -> None:
    """Raises InvalidInput for settings that cannot work together."""
    if not settings.token_keys:
        raise InvalidInput("token_keys", "missing_field", "set FRESHRANK_TOKEN_KEYS, the same for gateway and joiner")
    Tokens.parse(settings.token_keys)
    if settings.workers > 1 and not settings.port:
        raise InvalidInput("port", "out_of_range", "several workers share a port, so it cannot be 0")
    Tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca).credentials()


async def build(settings: GatewaySettings, first: bool, stop: asyncio.Event) -> "Worker | None":
    """One worker; waits for the item table. None when it was told to stop meanwhile."""
    table = await _opened(table_folder(settings), stop)
    return Worker(settings, first, table) if table is not None else None


async def _opened(folder: Path, stop: asyncio.Event) -> ItemTable | None:
    for _ in range(int(OPEN_S / 0.1)):
        if stop.is_set():
            return None
        try:
            return ItemTable(folder)
        except TemporaryError:
            await asyncio.sleep(0.1)
    raise TemporaryError("the item table's writer has not made the table")


@dataclass
class Worker:
    """One process that answers."""

    settings: GatewaySettings
    first: bool
    """The one with the operator's port, the probes and the processes beside it."""
    table: ItemTable

    def __post_init__(self) -> None:
        settings = self.settings
        self.wall = WallClock()
        self.request_clock = ManualClock()
        self.meters = Meters(Metrics("gateway"))
        self.health = Health()
        self.health.extra = self._positions
        self.tracing = tracing_for("gateway", settings.otlp_endpoint)
        self.state = State(World(schema.nothing()))
        self.keeper = Keeper(self.state, settings.store, self.meters, {})
        tokens = Tokens.parse(settings.token_keys)
        self.outbox = Outbox(settings.bootstrap)
        self.sender = kafka.Sender(self.outbox, settings.partitions, self.tracing.headers)
        recent, covisits = RecentAnswers(settings.recent_answers), Covisits()
        self.emitter = Emitter(self.sender.impression, recent, self.meters)
        self.store = ShopperStore(MatrixReader(Endpoint.from_url(settings.redis_url)))
        self.scorer = TritonScorer(settings.triton)
        pipeline = Pipeline(self.table, self.store, self.scorer, self.state, self.meters, self._popular)
        policy = Policy(
            candidates=settings.candidates,
            explore=settings.explore,
            explore_rank=settings.explore_rank,
            unshown=settings.unshown,
            category_cap=settings.category_cap,
        )
        ranker = Ranker(pipeline, tokens, self.emitter, policy, covisits)

        def forgotten(user: str) -> None:
            pipeline.forget(user)
            recent.forget(user)

        replay = settings.clock == "request"
        intake = Intake(self.sender, settings.partitions, replay, self.meters, covisits, forgotten)
        deadlines = Deadlines(
            settings.deadline_ms / 1e3, settings.write_deadline_ms / 1e3, settings.longest_deadline_ms / 1e3
        )
        explainer = Explainer(recent, tokens, self.scorer, self.state)
        buckets = TokenBuckets(settings.user_rate, settings.user_burst)
        ranking = RankingServicer(
            ranker, intake, explainer, deadlines, buckets, self._times, self.request_clock.advance_to
        )
        self.ranking = Server(
            RANKING, [self._guard(settings.concurrency, RANKING)], settings.reflection, settings.workers > 1
        )
        ranking_pb2_grpc.add_RankingServicer_to_server(ranking, self.ranking.grpc)  # type: ignore[no-untyped-call]
        self.servers = [self.ranking]
        self.admin: Server | None = None
        if self.first:
            operations = Operations(
                settings.store, self.sender, intake, lambda: self.state.world.route, lambda: uuid.uuid4().hex
            )
            bearer = [Bearer(settings.admin_token)] if settings.admin_token else []
            self.admin = Server(ADMIN, [*bearer, self._guard(16, ADMIN)], settings.reflection)
            servicer = AdminServicer(operations, deadlines, lambda: self._times().now_us)
            models_pb2_grpc.add_AdminServicer_to_server(servicer, self.admin.grpc)  # type: ignore[no-untyped-call]
            self.servers.append(self.admin)

    async def run(self, stop: asyncio.Event, children: list[Child]) -> None:
        """Serve until told to stop, then drain. Raises what a background task failed with."""
        settings = self.settings
        tls = Tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        await self.ranking.open(settings.host, settings.port, tls)
        if self.admin is not None:
            await self.admin.open(settings.host, settings.admin_port, tls)
        probe = self._probe()
        routes = self._follow_routes()
        tasks = [asyncio.create_task(task) for task in self._tasks(children)]
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
        finally:
            await self._drain()
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            routes.close()
            await self._close()
            if probe is not None:
                probe.shutdown()
                probe.server_close()

    def _tasks(self, children: list[Child]) -> list[Any]:
        settings, painting = self.settings, ItemTable(table_folder(self.settings))
        client = redis.asyncio.from_url(settings.redis_url, socket_timeout=1)
        return [
            keep.watch_plan(self.keeper, PlanFile(plan_path(settings))),
            keep.watch_table(
                self.keeper, painting, self.wall.now_us, settings.picture_seconds, settings.table_lag_seconds
            ),
            keep.watch_epochs(self.keeper, lambda project: AsyncEpochs(client, project)),
            self._watch_children(children),
            self._watch_readiness(),
        ]

    async def _watch_children(self, children: list[Child]) -> None:
        while True:
            for child in children:
                child.ended()
            await asyncio.sleep(CHILD_S)

    async def _watch_readiness(self) -> None:
        while not (self.keeper.ready and self.table.header[CAUGHT_UP]):
            await asyncio.sleep(0.05)
        for server in self.servers:
            await server.ready(True)
        self.health.ready = True
        logger.info("ready", extra={"port": self.ranking.port, "items": self.table.count})
        await asyncio.Event().wait()

    def _follow_routes(self) -> kafka.RouteTail:
        loop = asyncio.get_running_loop()

        def on_route(route: Route) -> None:
            asyncio.run_coroutine_threadsafe(self.keeper.routed(route), loop).result()

        self.routes = kafka.RouteTail(self.settings.bootstrap, on_route)
        self.routes.start()
        return self.routes

    def _probe(self) -> ThreadingHTTPServer | None:
        if not self.first:
            return None
        return probes.serve(self.health, self.meters.registry, self.settings.http_port, self.settings.http_host)

    async def _drain(self) -> None:
        self.health.ready = False
        await asyncio.gather(*(server.drain(self.settings.drain_seconds) for server in self.servers))
        self.emitter.flush()

    async def _close(self) -> None:
        unsent = await asyncio.to_thread(self.sender.close)
        if unsent:
            logger.error("records could not be sent", extra={"records": unsent})
        await self.store.close()
        await self.scorer.close()
        self.tracing.close()

    def _guard(self, concurrency: int, service: str) -> Guard:
        return Guard(self.meters, self.tracing, Concurrency(concurrency), (service,))

    def _times(self) -> Times:
        replay = self.settings.clock == "request"
        return Times(self.request_clock.now_us() if replay else self.wall.now_us(), replay)

    def _popular(self, slots: NDArray[np.int64]) -> NDArray[np.float32]:
        plan = self.keeper.plan
        return catalogue.values_of(self.table, retrieve.popularity(plan).popular if plan else None, slots)

    def _positions(self) -> dict[str, Any]:
        route = self.state.world.route
        applied = {f"{ITEM_UPDATES.name}-{p}": offset for p, offset in self.table.positions.items()}
        applied |= {f"{ROUTES.name}-{p}": offset for p, offset in self.routes.positions.items()}
        return {
            "applied": applied,
            "champion": route.champion,
            "slot": route.slot,
            "epoch": route.epoch,
            "table_items": int(self.table.header[COUNT]),
        }
