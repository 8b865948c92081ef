"""Releases on a real Triton: loaded under traffic without a failed call, and healed when a model's process dies."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from services.common.encode import NoRows
from services.common.errors import NotFound, PermanentError
from services.demo.probes import http_ok
from services.demo.stack import Stack
from services.demo.tools import Tools
from services.publisher import marker, shelf
from services.publisher.audit import Audit
from services.publisher.book import Keeper
from services.publisher.compression.attempt import Attempt, Compression, attempt
from services.publisher.compression.judge import CompressionBounds
from services.publisher.compression.plan import parse
from services.publisher.fleet import Fleet
from services.publisher.manifest import Manifest
from services.publisher.onnx_file import FileBounds
from services.publisher.outside import ReleasePolicy
from services.publisher.release import Releases
from services.publisher.replay import Replay
from services.publisher.shelf import Shelf
from services.publisher.store import ReleaseStore
from services.publisher.triton import TritonServer
from tests.publisher.exports import SPEC, Net, export, golden_inputs, noisy, predict, window
from tests.publisher.fakes import World

pytestmark = pytest.mark.pipeline

SECOND = 1_000_000


@dataclass
class Live:
    """A release machine on a Triton of its own."""

    stack: Stack
    releases: Releases
    store: ReleaseStore
    world: World
    keeper: Keeper
    address: str
    now_us: int = 0

    def promote(self, seq: int, net: Net) -> str:
        """Offer a candidate and let it be routed."""
        self.keeper.change(lambda book: replace(book, pushed_seq=seq))
        parent = self.keeper.book.champion
        name = export(self.store.exports, net, {}, seq=seq, second=seq, parent=parent).name
        self.now_us += 60 * SECOND
        self.releases.step(self.now_us)
        assert self.world.routes[-1].champion == name, self.keeper.book.entry(name).reason
        return name


@pytest.fixture
def live(tools: Tools, tmp_path: Path) -> Iterator[Live]:
    store = ReleaseStore(tmp_path / "store", "main", "python")
    with Stack(tmp_path / "stack", parts=["triton"], tools=tools, model_repository=store.models) as stack:
        address = stack.triton.grpc_address
        fleet = Fleet(lambda: [address], TritonServer)
        keeper, world = Keeper(tmp_path / "book.json", "main"), World()
        audit = Audit(tmp_path / "audit.jsonl")
        releases = Releases(keeper, store, Shelf(store.releases), fleet, audit, world, ReleasePolicy(drain_s=0.5))
        releases.start(0)
        yield Live(stack, releases, store, world, keeper, address)


@dataclass
class Traffic:
    """Asks the champion of the last route again and again, as a gateway does."""

    live: Live
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    stopped: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        client, inputs = TritonServer(self.live.address), golden_inputs(batch=1)
        while not self.stopped.is_set():
            began = time.monotonic()
            try:
                client.infer(self.live.world.routes[-1].champion, inputs)
                self.answered += 1
            except (PermanentError, NotFound) as error:
                self.failed.append(str(error))
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            time.sleep(0.01)
        client.close()


def test_forty_releases_under_traffic_fail_no_call(live: Live) -> None:
    live.promote(1, Net())
    server = psutil.Process(live.stack.supervisor.pid("triton"))
    traffic = Traffic(live)
    thread = threading.Thread(target=traffic)
    thread.start()
    memory = []
    try:
        for seq in range(2, 42):
            live.promote(seq, noisy(Net(), 0.05, seq))
            memory.append(server.memory_info().rss)
    finally:
        traffic.stopped.set()
        thread.join()
    assert traffic.failed == []
    assert traffic.answered > 100
    assert len(live.store.kept()) == 5
    assert memory[-1] - memory[10] < 30 * 2**20


def test_a_dead_model_process_is_noticed_by_the_golden_request_and_loaded_anew(live: Live) -> None:
    champion = live.promote(1, Net())
    client, inputs = TritonServer(live.address), golden_inputs(batch=1)
    assert live.releases.tend(mark=False) == []
    for child in psutil.Process(live.stack.supervisor.pid("triton")).children(recursive=True):
        if child.name().startswith("triton_python"):
            child.kill()
    with pytest.raises(PermanentError):
        client.infer(champion, inputs)
    assert client.loaded() == {champion}
    began = time.monotonic()
    assert live.releases.tend(mark=False) == [champion]
    assert time.monotonic() - began < 10
    assert abs(client.infer(champion, inputs) - predict(Net(), inputs)).max() < 1e-5
    assert live.releases.tend(mark=False) == []


@pytest.mark.parametrize("plan", ["drop_units(0.25), int8_dynamic", "int8_static", "low_rank(0.9), fp16"])
def test_a_compressed_release_answers_as_its_own_golden_scores_say(live: Live, plan: str) -> None:
    seen = Replay(400)
    for closed in window(400, 2):
        seen.add(closed)
    lax = CompressionBounds(size=2, latency=1e9, auc=1, log_loss=99, error=1)

    def compress(manifest: Manifest) -> Attempt:
        folder, asked = live.store.exports / manifest.release, Compression(parse(plan), lax)
        return attempt(folder, manifest, asked, seen.snapshot(), NoRows(SPEC.row_dim), FileBounds())

    live.world.attempt = compress
    champion = live.promote(1, Net(work=32))
    staged = shelf.opened(live.store.folder(champion))
    assert json.loads(staged.manifest.raw)["compression"]["plan"] == plan
    client = TritonServer(live.address)
    assert staged.golden.gap(client.infer(champion, staged.golden.inputs)) <= staged.manifest.golden_tolerance
    assert live.releases.tend(mark=False) == []
    client.close()


def test_a_server_that_comes_back_empty_gets_its_models(live: Live) -> None:
    names = [live.promote(seq, noisy(Net(), 0.05, seq)) for seq in (1, 2)]
    live.stack.kill("triton")
    live.stack.restart("triton")
    client = TritonServer(live.address)
    assert client.loaded() == set()
    live.releases.tend(mark=False)
    assert client.loaded() == set(names)
    counted = client.stats(names[1])
    client.infer(names[1], golden_inputs(batch=1))
    until = time.monotonic() + 5  # the server counts after it has answered
    while client.stats(names[1]).answered == counted.answered:
        assert time.monotonic() < until


def test_the_readiness_probe_says_whether_everything_is_loaded_and_right(live: Live) -> None:
    def ready() -> bool:
        return http_ok(live.stack.triton.http_port, f"/v2/models/{marker.NAME}/ready")

    assert not ready()
    live.releases.tend(mark=True)
    assert ready()  # before the first release there is nothing to have
    champion = live.promote(1, Net())
    live.releases.tend(mark=True)
    assert ready()
    live.stack.kill("triton")
    live.stack.restart("triton")
    assert not ready()
    live.releases.tend(mark=True)
    assert ready()
    assert TritonServer(live.address).loaded() == {champion}
    live.releases.step(live.now_us + 60 * SECOND)
    assert ready()


def test_a_model_that_triton_cannot_run_is_refused_and_leaves_no_trace(live: Live) -> None:
    good = live.promote(1, Net())
    live.keeper.change(lambda book: replace(book, pushed_seq=2))
    bad = export(live.store.exports, Net(ir_version=99), {}, trained=Net(), seq=2, second=2, parent=good).name
    live.releases.step(10 * 60 * SECOND)
    assert live.world.routes[-1].champion == good
    assert live.keeper.book.entry(bad).reason
    assert TritonServer(live.address).loaded() == {good}
    assert live.store.kept() == [good]
