"""A broker that asks for certificates, or for a password: streams and senders go on while certificates are replaced."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from services.common.broker import Broker
from services.common.errors import PermanentError, TemporaryError
from services.common.kafka import Outbox, Probe, Tail
from services.demo.kafka import Kafka, TopicSpec, create_topics
from services.demo.ports import Ports
from services.demo.processes import Supervisor
from services.demo.secure import Secure
from services.demo.stack import Stack
from services.demo.tools import Tools
from tests.certificates import Authority, Secret
from tests.common.workers import Pipeline, until

pytestmark = pytest.mark.pipeline

OLD, NEW = Authority("old"), Authority("new")


@dataclass
class Shop:
    """A broker that lets only clients with certificates in, and both sides' files."""

    stack: Stack
    server: Secret
    client: Secret

    @property
    def kafka(self) -> Kafka:
        return self.stack.kafka

    def restart(self, signer: Authority, *trusted: Authority) -> None:
        """The broker with other files: it reads them when it starts."""
        self.server.put(signer, *trusted)
        self.stack.restart("kafka")


@pytest.fixture
def shop(tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    server, client = (Secret(tmp_path / name).put(OLD, OLD, NEW) for name in ("server", "client"))
    for name, path in (("CA", client.ca), ("CERT", client.cert), ("KEY", client.key)):
        monkeypatch.setenv(f"FRESHRANK_KAFKA_{name}", str(path))
    secure = Secure(server.tls, server.both, client.tls)
    with Stack(tmp_path / "stack", parts=["kafka"], tools=tools, secure=secure) as stack:
        yield Shop(stack, server, client)


def test_a_stage_goes_over_to_another_authority_and_loses_nothing(shop: Shop, tmp_path: Path) -> None:
    chain = Pipeline(shop.kafka, "chain", tmp_path, 2)
    chain.write(0, 2_000)
    with chain.worker(step_ms=10) as worker:
        until(lambda: worker.applied(0) > 300, "some progress")
        shop.client.put(NEW, OLD, NEW)
        until(lambda: worker.said("certificates renewed"), "the sender renewed")
        chain.write(1, 500)
        until(lambda: worker.applied(0) > 900, "progress under the new certificate")
        shop.restart(NEW, NEW)
        shop.client.put(NEW)
        chain.connect()
        chain.write(1, 500)
        chain.check(worker)
        assert worker.process.poll() is None, worker.log
    stranger = Secret(tmp_path / "stranger").put(OLD, OLD, NEW)
    with pytest.raises(TemporaryError):
        Tail(Broker(shop.kafka.bootstrap, stranger.tls), "chain-in", answer_s=3.0)
    with pytest.raises(TemporaryError):
        Tail(Broker(shop.kafka.bootstrap, replace(shop.client.tls, cert=None, key=None)), "chain-in", answer_s=3.0)


@pytest.mark.parametrize("ordered", [True, False])
async def test_records_sent_while_the_certificate_is_replaced_all_arrive(shop: Shop, ordered: bool) -> None:
    create_topics(shop.kafka.broker, [TopicSpec("t", 1)])
    tail, probe = Tail(shop.kafka.broker, "t"), Probe(shop.kafka.broker)
    out, sent, read = Outbox(shop.kafka.broker, ordered=ordered), [], []
    clients = out._producer, tail._consumer, probe._consumer
    until_s = time.monotonic() + 30

    def renewed() -> bool:
        return not {id(out._producer), id(tail._consumer), id(probe._consumer)} & {id(c) for c in clients}

    while not (renewed() and out._old is None and len(sent) > 500):
        assert time.monotonic() < until_s, "not renewed in time"
        sent.append(out.send("t", b"%d" % len(sent), partition=0))
        read += [value for *_, value in await asyncio.to_thread(tail.poll, 100, 0.0)]
        await asyncio.to_thread(probe.bounds, "t", 0)
        if len(sent) == 200:
            shop.client.put(NEW, OLD, NEW)
    acks = await asyncio.gather(*sent)
    assert [offset for _, offset in acks] == list(range(len(sent))), "none failed, none twice"
    while len(read) < len(sent):
        read += [value for *_, value in tail.poll()]
    assert read == [b"%d" % n for n in range(len(sent))] if ordered else len(set(read)) == len(sent)
    out.close()
    tail.close()
    probe.close()


async def test_what_cannot_be_sent_under_the_old_certificate_ends_the_process(shop: Shop) -> None:
    create_topics(shop.kafka.broker, [TopicSpec("t", 1)])
    out = Outbox(shop.kafka.broker)
    await out.send("t", b"there", partition=0)
    shop.stack.kill("kafka")
    waiting = out.send("t", b"waits", partition=0)
    shop.client.put(NEW)
    while out._old is None:
        await asyncio.sleep(0.05)
    later = out.send("t", b"behind it", partition=0)
    out._parting_until = 0.0
    await asyncio.to_thread(shop.restart, NEW, NEW)
    out._parting_until = 0.0
    for record in (waiting, later):
        with pytest.raises(PermanentError, match="replaced certificates"):
            await record
    assert out.fault is not None
    out.close(timeout_s=0.0)


async def test_files_that_do_not_fit_leave_what_works(shop: Shop) -> None:
    create_topics(shop.kafka.broker, [TopicSpec("t", 1)])
    out = Outbox(shop.kafka.broker)
    producer = out._producer
    shop.client.key.unlink()
    shop.client.key.write_text("no key")
    out._watch._next = 0.0
    for n in range(30):
        await out.send("t", b"%d" % n, partition=0)
    await asyncio.sleep(0.3)  # several looks
    assert out._producer is producer
    out.close()


@dataclass(frozen=True)
class ScramKafka(Kafka):
    """A broker with a second listener, for clients with a password instead of a certificate."""

    scram_port: int = 0
    password_file: Path | None = None

    def for_password(self) -> Broker:
        assert self.secure is not None
        tls = replace(self.secure.client, cert=None, key=None)
        return Broker(f"127.0.0.1:{self.scram_port}", tls, "shop", self.password_file)

    def _properties(self, data: Path) -> dict[str, str]:
        found = super()._properties(data)
        for name in ("listeners", "advertised.listeners"):
            found[name] += f",SASL_SSL://127.0.0.1:{self.scram_port}"
        module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        return found | {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.ssl.client.auth": "none",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": module,
        }


@pytest.fixture
def scram(tools: Tools, tmp_path: Path) -> Iterator[ScramKafka]:
    server, client = (Secret(tmp_path / name).put(OLD) for name in ("server", "client"))
    secure, password = Secure(server.tls, server.both, client.tls), tmp_path / "password"
    password.write_text("hush\n")
    with contextlib.closing(Ports()) as ports, Supervisor(tmp_path / "stack") as supervisor:
        take = ports.take
        kafka = ScramKafka(tmp_path / "kafka", take(), take(), 1, secure, take(), password)
        kafka.prepare(tools)
        supervisor.start(kafka.program(tools))
        supervisor.wait_ready("kafka")
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        user = UserScramCredentialUpsertion("shop", info, b"hush")
        admin = AdminClient(kafka.broker.config())
        for done in admin.alter_user_scram_credentials([user]).values():
            done.result(20)
        yield kafka


class ByPassword:
    """What a Pipeline asks of a broker."""

    def __init__(self, kafka: ScramKafka) -> None:
        self.broker = kafka.for_password()
        self.bootstrap = self.broker.bootstrap


def test_a_stage_logs_in_with_a_password(scram: ScramKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = scram.for_password()
    assert broker.tls is not None
    monkeypatch.setenv("FRESHRANK_KAFKA_CA", str(broker.tls.ca))
    monkeypatch.setenv("FRESHRANK_KAFKA_USERNAME", "shop")
    monkeypatch.setenv("FRESHRANK_KAFKA_PASSWORD_FILE", str(broker.password_file))
    chain = Pipeline(ByPassword(scram), "chain", tmp_path, 1)  # type: ignore[arg-type]
    chain.write(0, 200)
    with chain.worker() as worker:
        chain.check(worker)
    (tmp_path / "password").write_text("another")
    with pytest.raises(TemporaryError):
        Tail(broker, "chain-in", answer_s=3.0)
