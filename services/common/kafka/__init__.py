"""Kafka without a stream: sending, reading whole topics, looking at logs."""

from services.common.kafka.outbox import Ack, Outbox
from services.common.kafka.readers import ANSWER_S, Probe, Record, Tail

__all__ = ["ANSWER_S", "Ack", "Outbox", "Probe", "Record", "Tail"]
