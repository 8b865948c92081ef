"""One Kafka node in KRaft mode (broker and controller in one process) on loopback."""

import base64
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException

from services.cli.kafka import TopicSpec, admin, create_topics
from services.common.broker import Broker
from services.demo.processes import BEHIND_ANSWERS, Program
from services.demo.secure import Secure
from services.demo.tools import Tools

__all__ = ["Kafka", "TopicSpec", "create_topics"]

_HEAP = "400m"
_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    # A name written wrong must be an error, not a new topic.
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    # 50 partitions each by default; creating them takes longer than everything else here.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.retention.hours": "720",
    "log.segment.bytes": str(256 << 20),
    "message.max.bytes": str(8 << 20),
    # The default buffer of the compaction thread is a third of our heap.
    "log.cleaner.dedupe.buffer.size": str(16 << 20),
    "num.network.threads": "2",
    "num.io.threads": "4",
    # After SIGKILL the node may register again only when its old session is over.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
}
_JAVA_OPTIONS = (
    f"-Xmx{_HEAP}",
    "-Xms64m",
    # For two cores: one collector thread, and no second compiler taking a core away from the services for a minute.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    # Else a file in the system's temporary folder outlives a SIGKILL.
    "-XX:-UsePerfData",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


@dataclass(frozen=True)
class Kafka:
    """A node whose data lies in `folder`; nothing is written before `prepare`."""

    folder: Path
    port: int
    controller_port: int
    partitions: int = 4
    """Of topics that are created without a number."""
    secure: Secure | None = None
    """Only clients with a certificate are let in; None = plain text."""

    @property
    def bootstrap(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def broker(self) -> Broker:
        """The same with what the broker asks for."""
        return Broker(self.bootstrap, self.secure.client if self.secure else None)

    def prepare(self, tools: Tools) -> None:
        """Format a new node; one that was formatted keeps its data.

        Each has its own cluster id, so a client or node of another run is turned away instead of joining.
        """
        data = self.folder / "data"
        if not (data / "meta.properties").exists():
            data.mkdir(parents=True, exist_ok=True)
            shutil.copy(tools.kafka / "bootstrap.checkpoint", data)
            identity = {"version": "1", "node.id": "1", "cluster.id": _identifier(), "directory.id": _identifier()}
            _write(data / "meta.properties", identity)
        _write(self.folder / "server.properties", self._properties(data))

    def program(self, tools: Tools) -> Program:
        """How to run it."""
        jars = ":".join(str(jar) for jar in sorted((tools.kafka / "libs").glob("*.jar")))
        settings = str(self.folder / "server.properties")
        argv = (str(tools.java), *_JAVA_OPTIONS, "-cp", jars, "kafka.Kafka", settings)
        return Program("kafka", argv, ready=self.answers, grace_seconds=15.0, niceness=BEHIND_ANSWERS)

    def answers(self) -> bool:
        """Whether the broker is registered and serves clients."""
        try:
            return bool(admin(self.broker).list_topics(timeout=0.5).brokers)
        except KafkaException:
            return False

    def _properties(self, data: Path) -> dict[str, str]:
        controller = f"127.0.0.1:{self.controller_port}"
        protocol = self.broker.protocol
        return _PROPERTIES | {
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{protocol}://{self.bootstrap},CONTROLLER://{controller}",
            "advertised.listeners": f"{protocol}://{self.bootstrap}",
            "inter.broker.listener.name": protocol,
            **(_tls(self.secure) if self.secure else {}),
            "log.dirs": str(data),
            "num.partitions": str(self.partitions),
        }


def _tls(secure: Secure) -> dict[str, str]:
    return {
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL",
        "ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(secure.keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(secure.server.ca),
    }


def _identifier() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _write(path: Path, values: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    os.replace(part, path)
