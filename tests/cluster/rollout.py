"""A shop's serving side around a real API server: Triton pods, publishers, gateways, callers.

Loopback may be nobody's endpoint in Kubernetes, but names may: `pod-0.localhost` is this machine by its name, and
each pod has a slice of its own with its own port.
"""

import json
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import redis
from confluent_kafka import Producer
from freshrank import ApiError, Client
from freshrank.v1.events_pb2 import Degradation
from freshrank.v1.models_pb2 import CatalogueItem, Route
from safetensors.numpy import save_file
from tritonclient.grpc import service_pb2

from services.common import records
from services.common.errors import NotFound
from services.common.kafka import Tail
from services.common.spec import ModelSpec
from services.common.topics import EXAMPLES, ITEM_UPDATES, ROUTES, TOPICS
from services.demo.kafka import TopicSpec, create_topics
from services.demo.processes import Program
from services.demo.stack import Stack
from services.demo.tools import Tools
from services.demo.triton import Triton
from services.online.epochs import Epochs
from services.online.registry import load_plan
from services.online.repository import apply_repository
from services.publisher.audit import Audit
from services.publisher.triton import TritonServer
from tests.cluster import build
from tests.cluster.api import Api
from tests.cluster.control_plane import ControlPlane
from tests.publisher.exports import SPEC, Net, export, figures, noisy, window, write_delta, write_manifest
from tests.publisher.test_app import final, opened

ROOT = Path(__file__).parents[2]
NAMESPACE, SERVICE = "default", "triton"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
LEASE_S = 10
NET = Net(rows=0.0, spec=ModelSpec(SPEC.user_features, SPEC.item_features, row_dim=4))
ITEMS = [f"item-{n}" for n in range(20)]
RETRIEVAL = {"content": NET.spec.content_dim, "row": 4, "user_row": 4}


def until(holds: Callable[[], Any], what: str, seconds: float = 240.0) -> Any:
    """What `holds` gives once it is true. Fails after the time."""
    ends = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < ends, f"did not come true in time: {what}"
        time.sleep(0.02)
    return found


class Liar:
    """Stands before a Triton server and passes everything on; while it lies every score is another one."""

    def __init__(self, behind: str) -> None:
        self.lies = False
        self._channel = grpc.insecure_channel(behind)
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers([_Passes(self)])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def call(self, method: str, request: bytes, context: Any) -> bytes:
        """One call behind."""
        try:
            left = min(context.time_remaining() or 60.0, 60.0)
            answer: bytes = self._channel.unary_unary(method)(request, timeout=left)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())  # type: ignore[attr-defined]
        return _turned(answer) if self.lies and method.endswith("/ModelInfer") else answer

    def close(self) -> None:
        """Stop."""
        self._server.stop(None).wait()
        self._channel.close()


class _Passes(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, liar: Liar) -> None:
        self._liar = liar

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._liar.call(details.method, request, context)
        )


def _turned(answer: bytes) -> bytes:
    message: Any = service_pb2.ModelInferResponse.FromString(answer)
    scores = 1 - np.frombuffer(message.raw_output_contents[0], np.float32)
    message.raw_output_contents[0] = scores.tobytes()
    turned: bytes = message.SerializeToString()
    return turned


@dataclass
class Traffic:
    """Callers of both gateways; what was answered, by which release, and what failed."""

    target: str
    every_s: float = 0.03
    releases: Counter[str] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def answered(self) -> int:
        """Calls that were answered."""
        return self.releases.total()

    def __call__(self) -> None:
        with Client(self.target, read_s=2.0) as client:
            number = 0
            while not self.stopped.wait(self.every_s):
                number += 1
                try:
                    answer = client.rank(f"user-{number % 50}", ITEMS[:8])
                except ApiError as error:
                    self.failed.append(repr(error))
                    continue
                self.releases[answer.release] += 1
                self.rungs[Degradation.Name(answer.degradation)] += 1


@contextmanager
def calling(target: str) -> Iterator[Traffic]:
    """Two callers until the block ends."""
    traffic = Traffic(target)
    threads = [threading.Thread(target=traffic) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield traffic
    finally:
        traffic.stopped.set()
        for thread in threads:
            thread.join()


class Shop:
    """Everything but the API server, which a test brings."""

    def __init__(self, stack: Stack, tools: Tools, store: Path, api: Api, kubeconfig: Path) -> None:
        self.stack, self.store, self.api = stack, store, api
        self._tools, self._kubeconfig = tools, kubeconfig
        self.ports = {name: stack.take_port() for name in ("gateway-0", "gateway-1", "publisher-0", "publisher-1")}
        self.http = {name: stack.take_port() for name in self.ports}
        self.servers = [self._triton(number) for number in range(3)]
        self.liar = Liar(self.servers[2].grpc_address)
        self.producer = Producer({"bootstrap.servers": stack.kafka.bootstrap, "partitioner": "murmur2_random"})
        self.routes = Tail(stack.kafka.bootstrap, ROUTES.name)
        self.written: list[Route] = []
        self.closed = window(600, 7)
        self._seq = 0
        self._stopped = threading.Event()
        self._kubelet = threading.Thread(target=self._restart, name="kubelet")
        self._champion_net = NET

    @property
    def target(self) -> str:
        """Both gateways, for a client."""
        return "ipv4:" + ",".join(f"127.0.0.1:{self.ports[f'gateway-{n}']}" for n in range(2))

    @property
    def exports(self) -> Path:
        """Where the trainer puts candidates."""
        return self.store / "arms" / "main" / "exports"

    def start(self) -> None:
        """Bring up pods, publishers and gateways; the first release has still to come."""
        for number, server in enumerate(self.servers):
            server.prepare(self._tools)
            self.stack.supervisor.start(replace(server.program(self._tools), name=f"triton-{number}"))
        for number in range(3):
            self.stack.supervisor.wait_ready(f"triton-{number}")
            self.join(number)
        for name in ("publisher-0", "publisher-1", "gateway-0", "gateway-1"):
            self.stack.supervisor.start(self._program(name))
        self._kubelet.start()
        for item in ITEMS:
            self._produce(ITEM_UPDATES.name, f"c|{item}".encode(), CatalogueItem(item_id=item, stock=-1))
        write_delta(self.store / "arms" / "main" / "deltas", 1, {item: [0.1] * 4 for item in ITEMS})
        for name in ("gateway-0", "gateway-1"):
            self.stack.supervisor.wait_ready(name)
        until(lambda: self.leader(), "a leader")
        self._show_examples()
        until(lambda: self.positions(self.leader() or "").get("impressions", 0) >= 500, "impressions")

    def stop(self) -> None:
        """Close what this process holds."""
        self._stopped.set()
        if self._kubelet.is_alive():
            self._kubelet.join()
        self.routes.close()
        self.liar.close()

    # Pods

    def join(self, number: int) -> None:
        """Add a pod to the service."""
        port = self.liar.port if number == 2 else self.servers[number].grpc_port
        self.api.create(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": f"pod-{number}", "labels": {"kubernetes.io/service-name": SERVICE}},
                "addressType": "FQDN",
                "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
                "endpoints": [{"addresses": [f"pod-{number}.localhost"], "conditions": {"ready": True}}],
            },
            NAMESPACE,
        )

    def leave(self, number: int) -> None:
        """Take a pod out of the service; it goes on running."""
        self.api.delete(f"{SLICES}/pod-{number}")

    def endpoint(self, number: int) -> str:
        """The address of a pod as routes have it."""
        return f"pod-{number}.localhost:{self.liar.port if number == 2 else self.servers[number].grpc_port}"

    def loaded(self, number: int) -> set[str]:
        """Releases on a pod."""
        client = TritonServer(self.servers[number].grpc_address)
        try:
            return client.loaded()
        finally:
            client.close()

    # Releases

    def offer(self, wrong: bool = False) -> str:
        """Put a candidate where the trainer does; a wrong one answers otherwise than its golden scores say."""
        self._seq += 1
        net = noisy(NET, 0.002, self._seq)
        parent = self.route().champion
        told = figures(net, self._champion_net if parent else None, self.closed)
        folder = self.store / "staged"
        made = export(
            folder, noisy(NET, 0.5, self._seq) if wrong else net, told, trained=net, seq=self._seq,
            second=1, parent=parent,
        )  # fmt: skip
        random = np.random.default_rng(self._seq)
        matrices = {name: random.normal(size=(rows, 8)).astype(np.float32) for name, rows in RETRIEVAL.items()}
        save_file(matrices, str(made / "retrieval.safetensors"))
        write_manifest(made, told, seq=self._seq, parent=parent, spec=NET.spec)
        self.exports.mkdir(parents=True, exist_ok=True)
        made.rename(self.exports / made.name)
        if not wrong:
            self._champion_net = net
        return made.name

    def released(self, release: str, seconds: float = 240.0) -> None:
        """Wait until both gateways serve a release."""

        def both() -> bool:
            return all(self.positions(f"gateway-{n}").get("champion") == release for n in range(2))

        until(both, f"both gateways serve {release}", seconds)

    def route(self) -> Route:
        """The record that holds: the last one of the largest term."""
        self.written += [Route.FromString(record[4] or b"") for record in self.routes.poll(timeout_s=0.02)]
        last = max((route.term for route in self.written), default=0)
        return next((route for route in reversed(self.written) if route.term == last), Route())

    def blessed(self) -> set[str]:
        """Releases that were ever promoted."""
        entries = Audit(self.store / "releases" / "audit.jsonl").entries()
        return {entry["release"] for entry in entries if entry["decision"] == "promoted"}

    # Processes

    def leader(self) -> str | None:
        """The publisher that leads, by its own word."""
        return next((name for name in ("publisher-0", "publisher-1") if "champion" in self.positions(name)), None)

    def positions(self, name: str) -> dict[str, Any]:
        """What a service says of itself; empty when it does not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http[name]}/positions", timeout=1) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (OSError, KeyError):
            return {}

    def memory(self) -> dict[str, int]:
        """Resident bytes of each program with its children."""
        found = {}
        for name in self.stack.supervisor.names():
            with suppress(NotFound, psutil.NoSuchProcess):  # just being started again
                pids = self.stack.supervisor.pids(name)
                found[name] = sum(psutil.Process(pid).memory_info().rss for pid in pids)
        return found

    def _restart(self) -> None:
        """What a kubelet does for publishers: start again what has ended."""
        while not self._stopped.wait(1.0):
            for name in ("publisher-0", "publisher-1"):
                if not self.stack.supervisor.running(name):
                    self.stack.supervisor.restart(name)

    def _triton(self, number: int) -> Triton:
        take, prefix = self.stack.take_port, self.stack.supervisor.shared_memory(f"triton-{number}")
        return Triton(self.store / "triton", take(), take(), take(), prefix)

    def _program(self, name: str) -> Program:
        service = name.partition("-")[0]
        own = {
            "HTTP_PORT": self.http[name],
            **(self._gateway(name) if service == "gateway" else self._publisher(name)),
        }
        variables = {f"FRESHRANK_{service.upper()}_{key}": str(value) for key, value in own.items()}
        return Program(
            name,
            (sys.executable, "-m", f"services.{service}"),
            {**variables, "KUBECONFIG": str(self._kubeconfig)},
            cwd=ROOT,
            ready=lambda: bool(self.positions(name)),
        )

    def _gateway(self, name: str) -> dict[str, Any]:
        return {
            "PORT": self.ports[name],
            "ADMIN_PORT": self.stack.take_port(),
            "EXPLORE": 0,
            "TABLE_DIR": self.store / name,
            "TRITON": "127.0.0.1:9",
            "DEADLINE_MS": 1_000,
        }

    def _publisher(self, name: str) -> dict[str, Any]:
        return {
            "TRITON": f"kubernetes:{NAMESPACE}/{SERVICE}:grpc",
            "LEADERSHIP": "lease",
            "NAMESPACE": NAMESPACE,
            "IDENTITY": name,
            "LEASE_S": LEASE_S,
            "ROW_DIM": 4,
            "DRAIN_S": 1,
            "ROWS_AGE_S": 1e9,
        }

    def _show_examples(self) -> None:
        rows = [row for closed in self.closed for row in opened(closed)] + [final(closed) for closed in self.closed]
        for start in range(0, len(rows), 200):
            part = rows[start : start + 200]
            columns: dict[str, object] = {name: [row[name] for row in part] for name in part[0]}
            columns["src_offset"] = list(range(start, start + len(part)))
            batch = records.encode(records.batch_of(records.EXAMPLES, columns))
            self.producer.produce(EXAMPLES.name, batch, partition=0)
        assert self.producer.flush(20) == 0

    def _produce(self, topic: str, key: bytes, message: Any) -> None:
        self.producer.produce(topic, message.SerializeToString(), key=key)
        self.producer.flush()


@contextmanager
def opened_shop(folder: Path, tools: Tools, api: Api, kubeconfig: Path) -> Iterator[Shop]:
    """Kafka, Redis, and the serving side over them."""
    store = folder / "store"
    given = {"FRESHRANK_STORE": str(store), "FRESHRANK_FEATURE_REPO": str(ROOT / "feature_repo")}
    with Stack(folder / "stack", 2, parts=["kafka", "redis"], tools=tools) as stack:
        given |= {
            "FRESHRANK_BOOTSTRAP": stack.kafka.bootstrap,
            "FRESHRANK_REDIS_URL": stack.redis.url,
            "FRESHRANK_PARTITIONS": "2",
            "FRESHRANK_TOKEN_KEYS": "1:" + "ab" * 16,
            "OMP_NUM_THREADS": "1",
        }
        with pytest.MonkeyPatch.context() as environment:
            for name, value in given.items():
                environment.setenv(name, value)
            store.mkdir(parents=True)
            create_topics(stack.kafka.bootstrap, [TopicSpec.of(topic, 2) for topic in TOPICS])
            apply_repository(ROOT / "feature_repo")
            _open_views(stack.redis.url)
            shop = Shop(stack, tools, store, api, kubeconfig)
            try:
                shop.start()
                yield shop
            finally:
                shop.stop()


@contextmanager
def own_plane(folder: Path) -> Iterator[ControlPlane]:
    """An API server that a test may disturb; skips where its programs have not been built."""
    if build.program("kube") is None or build.program("etcd") is None:
        pytest.skip("no API server here; `make cluster-tools` builds it where there is Go")
    (folder / "plane").mkdir()
    with ControlPlane(folder / "plane") as it:
        yield it


def _open_views(url: str) -> None:
    """Let every view have an epoch, as the features service does: without one its data counts as lost."""
    plan, client = load_plan(ROOT / "feature_repo"), redis.Redis.from_url(url)
    for view in plan.views:
        Epochs(client, plan.project).raise_to(view.name, 1)
    client.close()
