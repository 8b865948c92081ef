"""What a worker promises when nothing goes wrong, and what it must never be."""

from collections.abc import Callable

import pytest

from tests.common.workers import Pipeline, until

pytestmark = pytest.mark.pipeline


def test_every_message_is_applied_once_and_in_order(pipeline: Callable[..., Pipeline]) -> None:
    chain = pipeline(2)
    chain.write(0, 500)
    with chain.worker() as worker:
        until(lambda: worker.applied(0) == 500, "the first messages")
        chain.write(0, 300)
        chain.write(1, 200)
        chain.check(worker)
        assert worker.stop() == 0
