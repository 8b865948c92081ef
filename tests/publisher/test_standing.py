"""What lies on the topic of routes: a leader notices a record of an earlier term over its own, and a later leader."""

import time
from collections.abc import Callable
from contextlib import closing

import pytest
from confluent_kafka import Producer
from freshrank.v1.models_pb2 import Route

from services.common.errors import Conflict
from services.common.topics import ROUTES, TOPICS
from services.demo.kafka import Kafka, TopicSpec, create_topics
from services.publisher.kafka import Standing
from services.publisher.routes import key_of

pytestmark = pytest.mark.pipeline

ARM = "standing"


@pytest.fixture
def write(kafka: Kafka) -> Callable[[int, str], None]:
    """Puts a route of a term on the topic."""
    create_topics(kafka.bootstrap, [TopicSpec.of(topic, 1) for topic in TOPICS if topic.name == ROUTES.name])
    producer = Producer({"bootstrap.servers": kafka.bootstrap})

    def put(term: int, arm: str = ARM) -> None:
        producer.produce(ROUTES.name, Route(arm=arm, term=term).SerializeToString(), key=key_of(arm))
        producer.flush()

    return put


def test_a_leader_sees_what_lies_over_its_record(kafka: Kafka, write: Callable[[int, str], None]) -> None:
    write(2, ARM)
    write(3, ARM)
    write(9, "another")
    with closing(Standing(kafka.bootstrap, key_of(ARM), Route.FromString)) as standing:

        def overtaken(seconds: float = 20.0) -> bool:
            """Whether it says so within a time: a record takes a moment."""
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                if standing.overtaken(3):
                    return True
            return False

        assert standing.term == 3
        assert not overtaken(1.0)
        write(2, ARM)
        assert overtaken()
        write(3, ARM)
        while standing.overtaken(3):
            pass
        write(4, ARM)
        with pytest.raises(Conflict):
            overtaken()
