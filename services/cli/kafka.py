"""The creation of Kafka's topics, from the one table of them."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from services.common.broker import Address, broker
from services.common.errors import Conflict, FreshrankError, PermanentError, TemporaryError
from services.common.topics import Topic

_ADMIN_SECONDS = 20.0


@dataclass(frozen=True)
class TopicSpec:
    """A topic to create."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)
    fixed: bool = False
    """One that exists may have another number."""

    @classmethod
    def of(cls, topic: Topic, partitions: int) -> Self:
        """From the table of topics: one partition where the whole topic has one order.

        >>> from services.common.topics import ROUTES
        >>> TopicSpec.of(ROUTES, 4).partitions
        1
        """
        return cls(topic.name, 1 if topic.single else partitions, topic.config, topic.fixed)


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
        if found != wanted[name].partitions and not wanted[name].fixed:
            raise Conflict(f"topic {name} has {found} partitions, not {wanted[name].partitions}")


def add_partitions(bootstrap: Address, topics: Iterable[str], partitions: int) -> None:
    """Give topics that have fewer so many partitions, and wait until each has a leader; again changes nothing.

    Raises PermanentError when the broker refuses, TemporaryError when it does not answer.
    """
    client, names = admin(bootstrap), set(topics)
    new = [NewPartitions(name, partitions) for name, found in _partitions(client, names).items() if found < partitions]
    for name, added in client.create_partitions(new, operation_timeout=_ADMIN_SECONDS).items() if new else ():
        try:
            added.result(_ADMIN_SECONDS)
        except KafkaException as error:
            raise _refusal(error.args[0], f"topic {name} got no more partitions") from error
        except TimeoutError as error:
            raise TemporaryError(f"Kafka at {bootstrap} did not answer in {_ADMIN_SECONDS:.0f} s") from error
    until = time.monotonic() + _ADMIN_SECONDS
    while set(_partitions(client, names).values()) != {partitions}:
        if time.monotonic() > until:
            raise TemporaryError(f"Kafka does not show {partitions} partitions of {', '.join(sorted(names))} yet")
        time.sleep(0.05)


def members(bootstrap: Address, groups: Iterable[str]) -> dict[str, int]:
    """How many are in each consumer group. Raises TemporaryError when Kafka does not say."""
    client, found = admin(bootstrap), {}
    for group, asked in client.describe_consumer_groups(list(groups), request_timeout=_ADMIN_SECONDS).items():
        try:
            found[group] = len(asked.result(_ADMIN_SECONDS).members)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise _refusal(error.args[0], f"group {group} cannot be looked at") from error
            found[group] = 0
        except TimeoutError as error:
            raise TemporaryError(f"Kafka at {bootstrap} did not answer in {_ADMIN_SECONDS:.0f} s") from error
    return found


def _judge(name: str, error: KafkaError) -> None:
    if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
        return
    raise _refusal(error, f"topic {name} could not be created")


def _refusal(error: KafkaError, what: str) -> FreshrankError:
    kind = TemporaryError if error.retriable() or error.code() < 0 else PermanentError
    return kind(f"{what}: {error.str()}")


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
