"""A pipeline of its own for each test that asks."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.demo.kafka import Kafka

pytest.register_assert_rewrite("tests.common.workers")
from tests.common.workers import Pipeline  # noqa: E402


@pytest.fixture
def pipeline(kafka: Kafka, unique: Callable[[str], str], tmp_path: Path) -> Callable[[int], Pipeline]:
    """Make topics with so many partitions."""
    return lambda partitions=1: Pipeline(kafka, unique("chain"), tmp_path, partitions)
