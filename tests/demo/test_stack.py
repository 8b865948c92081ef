"""The real parts: they serve, survive a kill with what they acknowledged, and leave nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
import redis as redis_client
import tritonclient.grpc as triton_client
from confluent_kafka import Consumer, Producer
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from services.common.errors import Conflict, NotFound
from services.common.topics import TOPICS
from services.demo.kafka import Kafka, TopicSpec, create_topics
from services.demo.redis import Redis
from services.demo.stack import Stack
from services.demo.tools import Tools
from services.demo.triton import Triton
from services.demo.watcher import SHARED_MEMORY
from services.publisher.triton_backend import MODEL_PY, config_pbtxt
from tests.demo import small_model

pytestmark = pytest.mark.pipeline


def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    failed: list[object] = []
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(30) == 0
    assert failed == []


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    settings = {"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest"}
    consumer, values = Consumer(settings), []
    consumer.subscribe([topic])
    try:
        while len(values) < count:
            message = consumer.poll(30)
            assert message is not None, f"{len(values)} of {count} messages in 30 s"
            assert message.error() is None
            values.append(message.value())
    finally:
        consumer.close()
    return values


def publish(repository: Path, name: str, seed: int = 0) -> Path:
    version = repository / name / "1"
    version.mkdir(parents=True)
    small_model.write(version / "model.onnx", seed)
    shutil.copy(MODEL_PY, version)
    (repository / name / "config.pbtxt").write_text(config_pbtxt(name, version / "model.onnx", "python"))
    return version / "model.onnx"


def infer(client: triton_client.InferenceServerClient, name: str, request: dict[str, np.ndarray]) -> np.ndarray:
    inputs = []
    for key, value in request.items():
        tensor = triton_client.InferInput(key, value.shape, np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    return client.infer(name, inputs, client_timeout=10).as_numpy("scores")


def test_what_is_produced_is_consumed(kafka: Kafka, unique: Callable[[str], str]) -> None:
    topic, values = unique("events"), [str(i).encode() for i in range(1000)]
    create_topics(kafka.bootstrap, [TopicSpec(topic, 4, {"retention.ms": "-1"})])
    produce(kafka.bootstrap, topic, values)
    assert sorted(consume(kafka.bootstrap, topic, 1000)) == sorted(values)


def test_every_topic_of_the_table_can_be_created_twice(kafka: Kafka) -> None:
    specs = [TopicSpec.of(topic, 3) for topic in TOPICS]
    create_topics(kafka.bootstrap, specs)
    create_topics(kafka.bootstrap, specs)


def test_another_number_of_partitions_is_a_conflict(kafka: Kafka, unique: Callable[[str], str]) -> None:
    topic = unique("events")
    create_topics(kafka.bootstrap, [TopicSpec(topic, 2)])
    with pytest.raises(Conflict, match="2 partitions, not 3"):
        create_topics(kafka.bootstrap, [TopicSpec(topic, 3)])


def test_a_topic_that_nobody_created_is_an_error(kafka: Kafka, unique: Callable[[str], str]) -> None:
    producer, failed = Producer({"bootstrap.servers": kafka.bootstrap, "message.timeout.ms": 2000}), []
    producer.produce(unique("misspelt"), b"x", on_delivery=lambda error, _: failed.append(error))
    producer.flush(30)
    assert failed[0] is not None


def test_servers_listen_on_loopback_only(kafka: Kafka, redis: Redis, triton: Triton) -> None:
    ours = {kafka.port, kafka.controller_port, redis.port, triton.grpc_port, triton.http_port, triton.metrics_port}
    listening = [c.laddr for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    addresses = {port: {a.ip for a in listening if a.port == port} for port in ours}
    assert all(found <= {"127.0.0.1", "::ffff:127.0.0.1"} and found for found in addresses.values()), addresses


def test_scores_equal_onnxruntimes_for_any_shape(triton: Triton, unique: Callable[[str], str]) -> None:
    name = unique("release")
    session = onnxruntime.InferenceSession(publish(triton.repository, name), providers=["CPUExecutionProvider"])
    with triton_client.InferenceServerClient(triton.grpc_address) as client:
        client.load_model(name)
        for batch, n in ((1, 32), (1, 1024), (64, 128), (3, 1)):
            request = dict(small_model.request(batch, n, seed=n))
            np.testing.assert_array_equal(infer(client, name, request), session.run(["scores"], request)[0])
        client.unload_model(name)
        with pytest.raises(InferenceServerException):
            infer(client, name, dict(small_model.request(1, 1)))


def test_a_load_gives_way_to_answers_and_answers_do_not(triton: Triton, unique: Callable[[str], str]) -> None:
    name = unique("release")
    publish(triton.repository, name)
    with triton_client.InferenceServerClient(triton.grpc_address) as client:
        client.load_model(name)
        infer(client, name, dict(small_model.request(1, 8)))
        (stub,) = [
            p for p in psutil.process_iter(["cmdline"]) if f"{triton.repository / name}/" in " ".join(p.cmdline())
        ]
        answering, loading = stub.threads()[0], stub.cpu_times()
        assert os.sched_getscheduler(answering.id) == os.SCHED_OTHER
        # What its threads that are gone had used is in the sum alone.
        assert answering.user_time + answering.system_time < 0.6 * (loading.user + loading.system)
        client.unload_model(name)


def test_a_wrong_shape_is_answered_and_the_next_request_is_served(triton: Triton, unique: Callable[[str], str]) -> None:
    name = unique("release")
    publish(triton.repository, name)
    with triton_client.InferenceServerClient(triton.grpc_address) as client:
        client.load_model(name)
        good = dict(small_model.request(2, 8))
        with pytest.raises(InferenceServerException):
            infer(client, name, good | {"user": good["user"][:1].repeat(3, axis=0)})
        assert infer(client, name, good).shape == (2, 8)


def test_a_truncated_model_is_refused_while_others_serve(triton: Triton, unique: Callable[[str], str]) -> None:
    good, broken = unique("release"), unique("release")
    publish(triton.repository, good)
    path = publish(triton.repository, broken)
    path.write_bytes(path.read_bytes()[:100])
    with triton_client.InferenceServerClient(triton.grpc_address) as client:
        client.load_model(good)
        with pytest.raises(InferenceServerException):
            client.load_model(broken)
        assert triton.answers()
        assert client.is_model_ready(good)
        assert infer(client, good, dict(small_model.request(1, 4))).shape == (1, 4)


def test_a_killed_redis_has_every_acknowledged_write(tools: Tools, tmp_path: Path) -> None:
    with Stack(tmp_path, parts=["redis"], tools=tools) as stack:
        with redis_client.Redis.from_url(stack.redis.url) as client:
            for i in range(5000):
                client.set(f"key{i}", i)
            stack.kill("redis")
        stack.restart("redis")
        with redis_client.Redis.from_url(stack.redis.url) as client:
            assert client.dbsize() == 5000
            assert client.get("key4999") == b"4999"


def test_a_killed_kafka_has_every_acknowledged_message(tools: Tools, tmp_path: Path) -> None:
    with Stack(tmp_path, parts=["kafka"], tools=tools) as stack:
        create_topics(stack.kafka.bootstrap, [TopicSpec("events", 2)])
        values = [str(i).encode() for i in range(5000)]
        produce(stack.kafka.bootstrap, "events", values)
        stack.kill("kafka")
        stack.restart("kafka")
        assert sorted(consume(stack.kafka.bootstrap, "events", 5000)) == sorted(values)


def test_a_killed_stub_heals_by_unloading_and_loading(tools: Tools, tmp_path: Path) -> None:
    with Stack(tmp_path, parts=["triton"], tools=tools) as stack:
        publish(stack.triton.repository, "release")
        request = dict(small_model.request(1, 4))
        with triton_client.InferenceServerClient(stack.triton.grpc_address) as client:
            client.load_model("release")
            stub = stack.supervisor.pids("triton")[1]
            os.kill(stub, signal.SIGKILL)
            with pytest.raises(InferenceServerException):
                infer(client, "release", request)
            client.unload_model("release")
            client.load_model("release")
            assert infer(client, "release", request).shape == (1, 4)


def test_a_killed_triton_comes_back_empty_and_leaves_no_shared_memory(tools: Tools, tmp_path: Path) -> None:
    with Stack(tmp_path, parts=["triton"], tools=tools) as stack:
        publish(stack.triton.repository, "release")
        with triton_client.InferenceServerClient(stack.triton.grpc_address) as client:
            client.load_model("release")
        segments, family = stack.triton.shared_memory, stack.supervisor.pids("triton")
        assert list(SHARED_MEMORY.glob(f"{segments}*"))
        assert len(family) > 1
        stack.kill("triton")
        assert list(SHARED_MEMORY.glob(f"{segments}*")) == []
        psutil.wait_procs([psutil.Process(pid) for pid in family if psutil.pid_exists(pid)], timeout=5)
        assert not any(psutil.pid_exists(pid) for pid in family)
        stack.restart("triton")
        with triton_client.InferenceServerClient(stack.triton.grpc_address) as client:
            client.load_model("release")
            assert infer(client, "release", dict(small_model.request(1, 4))).shape == (1, 4)


def test_a_part_that_was_left_out_is_not_found(tools: Tools, tmp_path: Path) -> None:
    with Stack(tmp_path, parts=["redis"], tools=tools) as stack, pytest.raises(NotFound, match="kafka"):
        _ = stack.kafka


OWNER = """
import pathlib, sys
from services.demo.stack import Stack
import tests.demo.test_stack as stories, tritonclient.grpc as triton_client
with Stack(pathlib.Path(sys.argv[1])) as stack:
    stories.publish(stack.triton.repository, "release")
    with triton_client.InferenceServerClient(stack.triton.grpc_address) as client:
        client.load_model("release")
    pids = [pid for name in stack.supervisor.names() for pid in stack.supervisor.pids(name)]
    ports = [stack.kafka.port, stack.redis.port, stack.triton.grpc_port]
    print(stack.triton.shared_memory, len(pids), *pids, *ports, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda end: end.name)
def test_nothing_is_left_however_the_owner_ends(tools: Tools, tmp_path: Path, end: signal.Signals) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        prefix, count, *numbers = owner.stdout.readline().decode().split()
        pids, ports = [int(n) for n in numbers[: int(count)]], [int(n) for n in numbers[int(count) :]]
        assert len(pids) >= 4
        assert list(SHARED_MEMORY.glob(f"{prefix}*"))
        owner.send_signal(end)
        owner.communicate()
    deadline = time.monotonic() + 15
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))
    while (left := list(SHARED_MEMORY.glob(f"{prefix}*"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    listening = {c.laddr.port for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert not listening & set(ports)
