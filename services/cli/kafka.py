"""The creation of Kafka's topics, from the one table of them."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from services.common.broker import Address, broker
from services.common.errors import Conflict, PermanentError, TemporaryError
from services.common.topics import Topic

_ADMIN_SECONDS = 20.0


@dataclass(frozen=True)
class TopicSpec:
    """A topic to create."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, topic: Topic, partitions: int) -> Self:
        """From the table of topics: one partition where the whole topic has one order.

        >>> from services.common.topics import ROUTES
        >>> TopicSpec.of(ROUTES, 4).partitions
        1
        """
        return cls(topic.name, 1 if topic.single else partitions, topic.config)


def create_topics(bootstrap: Address, specs: Iterable[TopicSpec], replication_factor: int = 1) -> None:
    """Create what is absent and wait until every partition has a leader; -1 copies = the brokers' own default.

    Raises Conflict when a topic exists with another number of partitions, PermanentError when the broker refuses the
    configuration, TemporaryError when it does not answer.
    """
    wanted = {spec.name: spec for spec in specs}
    if not wanted:
        return
    client = admin(bootstrap)
    new = [NewTopic(s.name, s.partitions, replication_factor, config=dict(s.config)) for s in wanted.values()]
    for name, created in client.create_topics(new, operation_timeout=_ADMIN_SECONDS).items():
        try:
            created.result(_ADMIN_SECONDS)
        except KafkaException as error:
            _judge(name, error.args[0])
        except TimeoutError as error:
            raise TemporaryError(f"Kafka at {bootstrap} did not answer in {_ADMIN_SECONDS:.0f} s") from error
    for name, found in _partitions(client, set(wanted)).items():
        if found != wanted[name].partitions:
            raise Conflict(f"topic {name} has {found} partitions, not {wanted[name].partitions}")


def _judge(name: str, error: KafkaError) -> None:
    if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
        return
    kind = TemporaryError if error.retriable() or error.code() < 0 else PermanentError
    raise kind(f"topic {name} could not be created: {error.str()}")


def _partitions(client: Any, names: set[str]) -> dict[str, int]:
    """Partitions of each topic, once the broker that is asked knows them all and their leaders."""
    until = time.monotonic() + _ADMIN_SECONDS
    while True:
        topics = _topics(client)
        parts = {name: topics[name].partitions for name in names & set(topics)}
        led = {name for name, found in parts.items() if found and all(p.leader >= 0 for p in found.values())}
        if led == names:
            return {name: len(found) for name, found in parts.items()}
        if time.monotonic() > until:
            raise TemporaryError(f"topics without a leader: {', '.join(sorted(names - led))}")
        time.sleep(0.05)


def _topics(client: Any) -> Mapping[str, Any]:
    try:
        topics: Mapping[str, Any] = client.list_topics(timeout=_ADMIN_SECONDS).topics
    except KafkaException as error:
        raise TemporaryError(f"Kafka did not answer: {error}") from error
    return topics


def admin(bootstrap: Address) -> Any:
    """A client of the broker's administration; a broker that is not up yet is not worth a line of log."""
    settings = {**broker(bootstrap).config(), "reconnect.backoff.max.ms": 200, "error_cb": _ignore}
    return AdminClient(settings, logger=logging.getLogger(__name__))


def _ignore(error: KafkaError) -> None:
    """A broker that is not up yet is what the caller is waiting for."""
