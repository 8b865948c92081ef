"""Releases through change, on a real API server and real Triton pods: nobody who asks notices any of it.

Pods join, leave, die, restart empty and lie; candidates that are wrong come between good ones; the leading publisher is
killed, and stands still while another one leads; the API server is away.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest

from services.demo.tools import Tools
from tests.cluster.control_plane import ControlPlane
from tests.cluster.rollout import LEASE_S, Shop, Traffic, calling, opened_shop, own_plane, until

pytestmark = pytest.mark.cluster


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    with own_plane(tmp_path) as it:
        yield it


@pytest.fixture
def shop(plane: ControlPlane, tools: Tools, tmp_path: Path) -> Iterator[Shop]:
    with opened_shop(tmp_path / "shop", tools, plane.api, plane.kubeconfig) as it:
        yield it


class Story:
    """What is done while releases come, one thing at a time; and what is measured."""

    def __init__(self, shop: Shop, plane: ControlPlane, traffic: Traffic, away_s: float) -> None:
        self.shop, self.plane, self.traffic, self.away_s = shop, plane, traffic, away_s
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        self.spread: list[float] = []
        self.memory: list[dict[str, int]] = []

    def release(self) -> str:
        """One candidate, from the trainer's folder to both gateways."""
        began = time.monotonic()
        release = self.shop.offer()
        seen: dict[str, float] = {}

        def both() -> bool:
            for name in {"gateway-0", "gateway-1"} - set(seen):
                if self.shop.positions(name).get("champion") == release:
                    seen[name] = time.monotonic()
            return len(seen) == 2

        until(both, f"both gateways serve {release}")
        self.seconds.append(max(seen.values()) - began)
        self.spread.append(max(seen.values()) - min(seen.values()))
        self.memory.append(self.shop.memory())
        return release

    def routed(self, number: int, wanted: bool = True) -> None:
        """Wait until a pod is among those that may be asked for the champion, or is not."""
        endpoint = self.shop.endpoint(number)
        until(lambda: (endpoint in self.shop.route().champion_at) == wanted, f"pod {number} routed: {wanted}")

    # One thing each.

    def leaves_and_joins(self) -> None:
        self.shop.leave(0)
        self.routed(0, False)
        self.release()
        self.shop.join(0)
        self.routed(0)

    def dies_and_restarts_empty(self) -> None:
        self.shop.stack.kill("triton-1")
        self.release()
        self.routed(1, False)
        self.shop.stack.restart("triton-1")
        self.routed(1)

    def lies(self) -> None:
        self.shop.liar.lies = True
        self.routed(2, False)
        self.release()
        assert self.shop.endpoint(2) not in self.shop.route().champion_at
        self.shop.liar.lies = False
        self.routed(2)

    def joins_lying(self) -> None:
        self.shop.leave(2)
        self.routed(2, False)
        self.shop.liar.lies = True
        self.shop.join(2)
        self.release()
        assert self.shop.endpoint(2) not in self.shop.route().champion_at
        self.shop.liar.lies = False
        self.routed(2)

    def model_process_dies(self) -> None:
        for child in psutil.Process(self.shop.stack.supervisor.pid("triton-0")).children(recursive=True):
            if child.name().startswith("triton_python"):
                child.kill()
        self.release()
        self.routed(0)

    def candidate_is_wrong(self) -> None:
        before = self.shop.route().champion
        self.wrong.append(self.shop.offer(wrong=True))
        until(lambda: not (self.shop.exports / self.wrong[-1]).exists(), "the wrong one refused")
        assert self.shop.route().champion == before
        self.release()

    def leader_is_killed_mid_rollout(self) -> None:
        leader = self.shop.leader()
        assert leader is not None
        term, release = self.shop.route().term, self.shop.offer()
        until(lambda: any(release in self.shop.loaded(number) for number in range(3)), "mid-rollout")
        self.shop.stack.kill(leader)
        self.shop.released(release)
        assert self.shop.route().term > term

    def leader_stands_still_while_another_leads(self) -> None:
        paused = self.shop.leader()
        assert paused is not None
        pid, term = self.shop.stack.supervisor.pid(paused), self.shop.route().term
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: self.shop.route().term > term, "another one leads")
            release = self.release()
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: not psutil.pid_exists(pid), "it ends")
        assert self.shop.route().champion == release
        assert all(release in self.shop.loaded(number) for number in range(3))

    def api_server_is_away(self) -> None:
        (server,) = [p for p in psutil.process_iter(["cmdline"]) if self._is_server(p)]
        before = self.traffic.answered
        server.send_signal(signal.SIGSTOP)
        try:
            time.sleep(self.away_s)
        finally:
            server.send_signal(signal.SIGCONT)
        assert self.traffic.answered > before
        self.release()

    def _is_server(self, process: psutil.Process) -> bool:
        words = process.info["cmdline"] or []
        return (
            bool(words) and words[0].endswith("kube-apiserver") and str(self.plane.kubeconfig.parent) in " ".join(words)
        )

    def grown(self, window: int) -> dict[str, tuple[float, float]]:
        """Resident bytes of each program, medians: of the first releases after a warm-up, and of the last ones."""
        early, late = self.memory[window : 2 * window] or self.memory[:window], self.memory[-window:]
        return {
            name: (median(m[name] for m in early if name in m), median(m[name] for m in late if name in m))
            for name in self.memory[-1]
        }

    def figures(self) -> dict[str, Any]:
        """What was measured."""
        return {
            "releases": len(self.shop.blessed()),
            "release_s": {"median": round(median(self.seconds), 2), "most": round(max(self.seconds), 2)},
            "gateways_apart_s": {"median": round(median(self.spread), 3), "most": round(max(self.spread), 3)},
            "answered": self.traffic.answered,
            "rungs": dict(self.traffic.rungs),
            "failed": len(self.traffic.failed),
            "terms": self.shop.route().term,
            "rss_mb": {name: [round(b / 2**20) for b in both] for name, both in self.grown(len(EVENTS)).items()},
        }


EVENTS: tuple[Callable[[Story], None], ...] = (
    Story.leaves_and_joins,
    Story.dies_and_restarts_empty,
    Story.lies,
    Story.joins_lying,
    Story.model_process_dies,
    Story.candidate_is_wrong,
    Story.leader_is_killed_mid_rollout,
    Story.leader_stands_still_while_another_leads,
)


@pytest.mark.parametrize(
    ("rounds", "away_s"),
    [
        pytest.param(1, 3.0 * LEASE_S, id="dozen"),
        pytest.param(12, 60.0, id="hundred", marks=pytest.mark.long),
    ],
)
def test_releases_through_change_fail_no_call(shop: Shop, plane: ControlPlane, rounds: int, away_s: float) -> None:
    shop.released(shop.offer())
    with calling(shop.target) as traffic:
        until(lambda: traffic.answered > 50, "traffic")
        story = Story(shop, plane, traffic, away_s)
        story.release()
        for _ in range(rounds):
            for event in EVENTS:
                event(story)
        story.api_server_is_away()
        last = story.release()
        for number in range(3):
            story.routed(number)
    print(json.dumps(story.figures()))
    assert traffic.failed == []
    if rounds > 2:
        assert all(late - early < 64 * 2**20 for early, late in story.grown(len(EVENTS)).values())
    assert set(traffic.releases) - {""} <= shop.blessed()
    assert not set(story.wrong) & shop.blessed()
    route = shop.route()
    assert route.champion == last
    until(lambda: all(shop.loaded(number) == {last, route.previous} for number in range(3)), "versions equal")
