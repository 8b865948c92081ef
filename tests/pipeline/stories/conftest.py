"""One loop for all stories: starting it takes half a minute, and the stories leave it as they found it."""

from collections.abc import Iterator

import pytest

from services.demo.tools import Tools
from tests.pipeline.loop import Loop


@pytest.fixture(scope="package")
def loop(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    running = Loop(tmp_path_factory.mktemp("loop"), tools)
    running.start()
    yield running
    running.stop()
