"""The gateway as it really runs: its processes over real Kafka, Redis and Triton; releases that a test can route."""

import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import redis
import tritonclient.grpc as triton_client
from confluent_kafka import Consumer, Producer, TopicPartition
from freshrank import Client
from freshrank.v1.events_pb2 import Inbound
from freshrank.v1.models_pb2 import ItemFeatures, ItemRow, Route, TextRoute

from services.common.plans import Plan
from services.common.spec import ModelSpec
from services.common.topics import EVENTS, ITEM_UPDATES, ROUTES, TOPICS
from services.demo.kafka import TopicSpec, create_topics
from services.demo.processes import Program
from services.demo.stack import Stack
from services.demo.tools import Tools
from services.online.encode import Column, Kind
from services.online.epochs import Epochs
from services.online.registry import load_plan
from services.online.repository import apply_repository
from services.online.writer import Batch, MatrixWriter, Packer
from services.publisher.triton_backend import MODEL_PY, config_pbtxt
from services.text import names
from services.text.folder import RERANKER
from tests.gateway.small_ranker import write_release

ROOT = Path(__file__).parents[2]
PARTITIONS = 2


def until(holds: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What `holds` gives once it is true. Fails after the time."""
    ends = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < ends, "did not come true in time"
        time.sleep(0.02)
    return found


class Stage:
    """A running gateway and hands for everything around it."""

    def __init__(self, stack: Stack, store: Path, plan: Plan) -> None:
        self.stack, self.store, self.plan = stack, store, plan
        self.port, self.admin_port, self.http_port = (stack.take_port() for _ in range(3))
        self.redis = redis.Redis.from_url(stack.redis.url)
        self.producer = Producer({"bootstrap.servers": stack.kafka.bootstrap, "partitioner": "murmur2_random"})
        self.spec = ModelSpec(
            plan.ranking.user, plan.ranking.item, row_dim=4, feature_service=plan.ranking.feature_service
        )
        self.client = Client(f"127.0.0.1:{self.port}", read_s=2.0)

    def program(self, **more: Any) -> Program:
        """How the gateway is run; `more` settings by their names in capitals."""
        ports = {"PORT": self.port, "ADMIN_PORT": self.admin_port, "HTTP_PORT": self.http_port}
        settings = {**ports, "EXPLORE": 0, "ITEM_VECTORS": '{"image": 16}', "SEARCH_RERANK": 10, **more}
        variables = {f"FRESHRANK_GATEWAY_{name}": str(value) for name, value in settings.items()}
        return Program(
            "gateway",
            (sys.executable, "-m", "services.gateway"),
            variables,
            cwd=ROOT,
            ready=lambda: self.get("/readyz"),
        )

    def get(self, path: str) -> bytes:
        """A page of the probe server; empty when there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=1) as answer:
                body: bytes = answer.read()
                return body
        except OSError:
            return b""

    def positions(self) -> dict[str, Any]:
        """What /positions says."""
        found: dict[str, Any] = orjson.loads(self.get("/positions"))
        return found

    def load(self, name: str) -> None:
        """Write a release and load it in Triton."""
        folder = write_release(self.store, name, self.spec, time.time_ns() // 1000, seed=len(name))
        model = self.store / "triton" / name
        (model / "1").mkdir(parents=True)
        shutil.copy(folder / "model.onnx", model / "1" / "model.onnx")
        shutil.copy(MODEL_PY, model / "1" / "model.py")
        (model / "config.pbtxt").write_text(config_pbtxt(name, folder / "model.onnx", "python"))
        self.reload(name)

    def rerank(self, folder: Path, name: str) -> None:
        """Have an exported reranker in the store and in Triton, route to it, and wait until the gateway obeys."""
        kept, model = names.kept(self.store, RERANKER) / name, self.store / "triton" / name
        shutil.copytree(folder, kept)
        (model / "1").mkdir(parents=True)
        shutil.copy(folder / "model.onnx", model / "1" / "model.onnx")
        shutil.copy(MODEL_PY, model / "1" / "model.py")
        (model / "config.pbtxt").write_text(config_pbtxt(name, folder / "model.onnx", "python", together=64))
        self.reload(name)
        self.produce(ROUTES.name, b"reranker", TextRoute(encoder=name, at=[self.stack.triton.grpc_address]))
        until(lambda: self.positions()["reranker"] == name)

    def unload(self, name: str) -> None:
        """Have Triton lose a model."""
        with triton_client.InferenceServerClient(self.stack.triton.grpc_address) as client:
            client.unload_model(name)
            until(lambda: not client.is_model_ready(name))

    def reload(self, name: str) -> None:
        """Have Triton load a release that is written."""
        with triton_client.InferenceServerClient(self.stack.triton.grpc_address) as client:
            client.load_model(name)

    def route(self, champion: str, **more: Any) -> None:
        """Route to a release, and wait until the gateway obeys."""
        self.produce(ROUTES.name, b"route", Route(champion=champion, slot="a", epoch=1, arm="main", **more))
        until(lambda: self.positions()["champion"] == champion)

    def produce(self, topic: str, key: bytes, message: Any) -> None:
        """Put a record on a topic."""
        self.producer.produce(topic, message.SerializeToString(), key=key)
        self.producer.flush()

    def stats(self, item: str, value: float) -> None:
        """All streaming features of an item."""
        ids = [feature.id for feature in self.plan.view("item_stats").features]
        message = ItemFeatures(ids=ids, values=[value] * len(ids), pos=5, time_us=time.time_ns() // 1000)
        self.produce(ITEM_UPDATES.name, f"f|item_stats|{item}".encode(), message)

    def row(self, item: str, *values: float) -> None:
        """The embedding row of an item."""
        message = ItemRow(row=values, epoch=1, seq=3, learned_up_to_us=time.time_ns() // 1000)
        self.produce(ITEM_UPDATES.name, f"r|a|{item}".encode(), message)

    def shopper(self, user: str, clicks: int) -> None:
        """Features, history and row of a shopper in the online store."""
        project, now_us, order = self.plan.project, time.time_ns() // 1000, self._order()
        for view in self.plan.views:
            Epochs(self.redis, project).raise_to(view.name, 1)
        view = self.plan.view("user_stats")
        kinds = {feature.name: Kind[feature.value_type] for feature in view.features}
        columns = {name: Column([clicks]) for name, kind in kinds.items() if kind is Kind.INT64}
        columns |= {"recent_items": Column([["i2", "i3"]]), "recent_kinds": Column([[2, 1]])}
        columns |= {"recent_times": Column([[now_us - 1_000_000, now_us - 9_000_000]])}
        MatrixWriter(self.redis, Packer(project, "user_stats", ("user_id",), kinds)).write(
            Batch([[user]], columns, *order)
        )
        row = {"row": Column(np.array([[0.5, -0.5, 1, 0]], np.float32))}
        for name in ("user_row_a", "item_row_a"):
            Epochs(self.redis, project).raise_to(name, 1)
        MatrixWriter(self.redis, Packer(project, "user_row_a", ("user_id",), {"row": Kind.FLOAT32_LIST})).write(
            Batch([[user]], row, *order)
        )

    def stored_item(self, item: str, value: float, row: list[float]) -> None:
        """An item's features and row in the online store alone."""
        self._store("item_stats", [[item]], value)
        packer = Packer(self.plan.project, "item_row_a", ("item_id",), {"row": Kind.FLOAT32_LIST})
        columns = {"row": Column(np.array([row], np.float32))}
        MatrixWriter(self.redis, packer).write(Batch([[item]], columns, *self._order()))

    def pair(self, user: str, category: str, value: float) -> None:
        """A shopper's features of a category in the online store."""
        keys = {"user_id": [user], "category": [category]}
        view = self.plan.view("user_category_stats")
        self._store(view.name, [keys[name] for name in view.join_keys], value)

    def asked(self, query: str, item: str, category: str, value: float) -> None:
        """What is counted of a query, alone and with an item and a category, in the online store."""
        keys = {"query": [query], "item_id": [item], "category": [category]}
        for name in ("query_stats", "query_item_stats", "query_category_stats"):
            self._store(name, [keys[key] for key in self.plan.view(name).join_keys], value)

    def _store(self, name: str, entities: list[list[str]], value: float) -> None:
        view = self.plan.view(name)
        kinds = {feature.name: Kind[feature.value_type] for feature in view.features}
        columns = {n: Column([int(value) if kind is Kind.INT64 else value]) for n, kind in kinds.items()}
        MatrixWriter(self.redis, Packer(self.plan.project, name, view.join_keys, kinds)).write(
            Batch(entities, columns, *self._order())
        )

    def _order(self) -> tuple[np.ndarray, int, np.ndarray]:
        return np.array([time.time_ns() // 1000]), 1, np.array([9], np.uint64)

    def record(self, partition: int, offset: int) -> Inbound:
        """One record of events.in."""
        consumer = self._consumer()
        consumer.assign([TopicPartition(EVENTS.name, partition, offset)])
        message = until(lambda: consumer.poll(0.1))
        consumer.close()
        return Inbound.FromString(message.value())

    def impression(self, impression_id: str) -> Any:
        """An impression on events.in."""
        consumer = self._consumer()
        consumer.assign([TopicPartition(EVENTS.name, partition, 0) for partition in range(PARTITIONS)])

        def found() -> Any:
            message = consumer.poll(0.1)
            inbound = Inbound.FromString(message.value()) if message is not None else Inbound()
            return inbound.impression if inbound.impression.impression_id == impression_id else None

        impression = until(found)
        consumer.close()
        return impression

    def _consumer(self) -> Consumer:
        return Consumer({"bootstrap.servers": self.stack.kafka.bootstrap, "group.id": "test"})


@contextmanager
def staged(folder: Path, tools: Tools) -> Iterator[Stage]:
    """Everything up, the gateway too, with thirty items and no release."""
    store = folder / "store"
    (store / "triton").mkdir(parents=True)
    stack = Stack(folder / "stack", PARTITIONS, tools=tools, model_repository=store / "triton")
    with stack, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "FRESHRANK_BOOTSTRAP": stack.kafka.bootstrap,
            "FRESHRANK_REDIS_URL": stack.redis.url,
            "FRESHRANK_STORE": str(store),
            "FRESHRANK_FEATURE_REPO": str(ROOT / "feature_repo"),
            "FRESHRANK_PARTITIONS": str(PARTITIONS),
            "FRESHRANK_TRITON": stack.triton.grpc_address,
            "FRESHRANK_TOKEN_KEYS": "1:" + "ab" * 16,
            "OMP_NUM_THREADS": "1",
        }.items():
            patch.setenv(name, value)
        create_topics(stack.kafka.bootstrap, [TopicSpec.of(topic, PARTITIONS) for topic in TOPICS])
        apply_repository(ROOT / "feature_repo")
        stage = Stage(stack, store, load_plan(ROOT / "feature_repo"))
        stack.supervisor.start(stage.program())
        stack.supervisor.wait_ready("gateway")
        try:
            yield stage
        finally:
            stage.client.close()
