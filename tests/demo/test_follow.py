"""Waiting for the stages: who waits for how long, and for what."""

from collections.abc import Mapping
from typing import Any

import pytest

from services.common.errors import TemporaryError
from services.demo.follow import Follower


class Stages(Follower):
    """Services that catch up by so many records per look, beside a log that stands still."""

    def __init__(self, lags: list[int], impressions: int = 0) -> None:
        self.left, self.impressions, self.looks = lags, impressions, 0

    def ends(self, topic: str) -> dict[str, int]:
        """Everything ends at 100."""
        return {f"{topic}-0": 100}

    def positions(self, service: str, ends: Mapping[str, int] | None = None) -> dict[str, Any]:
        """The gateway sends an impression per look; everybody has applied all but what is left."""
        if service == "gateway" and ends is None and self.impressions:
            self.impressions -= 1
            return {"impressions_waiting": self.impressions + 1}
        assert not self.impressions, "asked for a stage before the impressions were on the log"
        return {
            "impressions_waiting": 0,
            "applied": {name: 100 for name in ends or {}},
            "pushed_seq": 5,
            "delta_seq": 5,
        }


class Slow(Stages):
    """Never there within one timeout, but nearer after each."""

    def lags(self) -> dict[str, int]:
        """What is left, a step less each time."""
        return {"trainer": self.left.pop(0)}

    async def caught_up(self, timeout_s: float = 60.0, poll_s: float = 0.004, rows: bool = True) -> None:
        """There when nothing is left."""
        self.looks += 1
        if self.left:
            raise TemporaryError("trainer on examples: not applied in time")


async def test_stages_are_asked_once_the_gateway_has_sent_its_impressions() -> None:
    stages = Stages([], impressions=3)
    await stages.caught_up(timeout_s=10)
    assert stages.impressions == 0


async def test_impressions_that_are_never_sent_end_in_an_error_that_says_so() -> None:
    with pytest.raises(TemporaryError, match="impressions"):
        await Stages([], impressions=10**9).caught_up(timeout_s=0.05)


async def test_a_gateway_that_does_not_answer_has_not_sent_its_impressions() -> None:
    class Silent(Stages):
        def positions(self, service: str, ends: Mapping[str, int] | None = None) -> dict[str, Any]:
            """Nothing."""
            return {}

    with pytest.raises(TemporaryError, match="impressions"):
        await Silent([]).impressions_sent(timeout_s=0.05)


async def test_draining_takes_as_long_as_it_comes_nearer() -> None:
    stages = Slow([30, 20, 10])
    await stages.drained()
    assert stages.looks == 3


async def test_draining_ends_when_nothing_comes_nearer() -> None:
    stages = Slow([30, 20, 20, 10])
    with pytest.raises(TemporaryError):
        await stages.drained()
    assert stages.looks == 2
