"""Trackers get what TensorBoard gets, and whatever becomes of them learning goes on."""

import importlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from services.common.errors import InvalidInput, Overloaded
from services.trainer import tracking
from services.trainer.observe import All, Nobody
from services.trainer.tensorboard import TensorBoard
from services.trainer.tracking import About, Background, Run, Tracked, Values
from tests.trainer.arm import Recorder, arm, digest, run, settings
from tests.trainer.world import FileSource, Shop

LOCAL = ("127.0.0.1", "::1", "localhost")
REACHED: list[object] = []
"""Addresses that this process has connected to, those on the machine left out."""


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in LOCAL:
        REACHED.append(arguments[1])


sys.addaudithook(_listen)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What anybody, in another process too, asks of the network goes here: nothing may."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(100))

        threading.Thread(target=accept, daemon=True).start()
        yield asked
        server.shutdown(socket.SHUT_RDWR)


def learn(folder: Path, observer: Nobody) -> str:
    """An arm that learns a small log and makes releases; what it has learned."""
    source = FileSource({0: Shop(seed=2, items=20).messages(60)})
    loop, clock = arm(folder, source, observer=observer)
    run(loop, clock, source)
    return digest(loop.arm.learner)


def of(line: str, folder: Path, failed: list[Exception], about: About | None = None) -> Background:
    (tracker,) = tracking.parse(line)
    return Background(tracker, "main", about or {}, folder, failed.append)


@pytest.mark.parametrize("store", ["sqlite:///{}/runs.db", "{}/runs"])
def test_mlflow_has_what_tensorboard_has(store: str, tmp_path: Path, proxy: list[bytes]) -> None:
    uri, failed = store.format(tmp_path), list[Exception]()
    made = Tracked(of(f'mlflow("{uri}", "shop")', tmp_path, failed, {"model": "din"}))
    board = TensorBoard(tmp_path / "board")
    learn(tmp_path, All([made, board]))  # type: ignore[arg-type]
    made._run.close(120)
    board.close()
    assert not failed
    client = importlib.import_module("mlflow").MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
    assert (found.info.run_name, found.info.status, found.data.params) == ("main", "FINISHED", {"model": "din"})
    drawn = EventAccumulator(str(tmp_path / "board")).Reload()
    assert {"training/loss", "progressive/auc", "progressive/log_loss"} <= found.data.metrics.keys()
    for name in ("training/loss", "progressive/ctr"):
        ours = {m.step: m.value for m in client.get_metric_history(found.info.run_id, name)}
        assert ours == pytest.approx({e.step: e.value for e in drawn.Scalars(name)})
        assert len(ours) > 2
    assert proxy == []
    assert REACHED == []


def test_wandb_writes_its_files_and_asks_nobody(tmp_path: Path, proxy: list[bytes]) -> None:
    failed: list[Exception] = []
    made = Tracked(of('wandb("shop", offline)', tmp_path, failed, {"model": "din"}))
    learn(tmp_path, made)
    made._run.close(120)
    assert not failed
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    body = file.read_bytes()
    assert b"progressive/auc" in body
    assert b"din" in body
    assert proxy == []
    assert REACHED == []


class Broken:
    """A tracker that fails as it is told, or never comes back."""

    package = "json"

    def __init__(self, opens: bool = False, hangs: threading.Event | None = None) -> None:
        self._opens, self._hangs = opens, hangs

    def open(self, name: str, about: About, folder: Path) -> Run:
        if not self._opens:
            raise ConnectionError("nobody there")
        return self

    def log(self, values: Values, step: int) -> None:
        if self._hangs is not None:
            self._hangs.wait()
        raise ConnectionError("gone")

    def close(self) -> None:
        raise ConnectionError("gone for good")


@pytest.mark.parametrize("opens", [False, True])
def test_a_tracker_that_fails_is_counted_and_changes_no_bit(opens: bool, tmp_path: Path) -> None:
    watched = Recorder()
    failures: list[Exception] = []
    run_ = Background(Broken(opens), "main", {}, tmp_path, failures.append)
    learned = learn(tmp_path / "with", All([Tracked(run_), watched]))  # type: ignore[arg-type]
    run_.close()
    assert learned == learn(tmp_path / "without", Nobody())
    assert len(failures) == len(watched.releases) + opens
    assert all(isinstance(error, ConnectionError) for error in failures)


def test_a_tracker_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    failures: list[Exception] = []
    free = threading.Event()
    slow = Background(Broken(True, free), "main", {}, tmp_path, failures.append)
    for step in range(1_500):
        slow.log({"x": 1.0}, step)
    assert len(failures) >= 499
    assert all(isinstance(error, Overloaded) for error in failures)
    slow.close(0.01)
    free.set()


def test_a_server_that_is_not_there_is_a_failure_like_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    failed: list[Exception] = []
    made = of('mlflow("http://127.0.0.1:9", "shop")', tmp_path, failed)
    made.log({"x": 1.0}, 1)
    made.close(60)
    assert "Max retries exceeded" in str(failed[0])


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    uri, failed = f"sqlite:///{tmp_path}/runs.db", list[Exception]()
    made = of(f'mlflow("{uri}")', tmp_path, failed)
    made.log({"x": float("nan"), "y": 2.0}, 1)
    made.close(60)
    client = importlib.import_module("mlflow").MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("freshrank").experiment_id])
    assert found.data.metrics == {"y": 2.0}


def test_a_missing_package_names_the_extra(tmp_path: Path) -> None:
    absent = Broken()
    absent.package = "not_installed_anywhere"  # type: ignore[misc]
    with pytest.raises(InvalidInput, match=r"not_installed_anywhere is not installed; .*freshrank\[tracking\]"):
        Background(absent, "main", {}, tmp_path, list[Exception]().append)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mlflow()", "mlflow takes 1 to 2 values"),
        ("mlflow(5)", "needs text in quotes as uri, not 5"),
        ("wandb('shop', never)", "one of online, offline"),
        ("neptune('x')", "neptune is none of mlflow, wandb"),
        ("wandb('a'), wandb('b')", "named twice"),
    ],
)
def test_what_is_no_tracker_is_refused_with_a_sentence(line: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(trackers=line)


def test_a_run_tells_the_settings_that_are_not_the_defaults_and_no_address() -> None:
    made = settings(strategy="replay(9)", redis_url="redis://:secret@host", trackers='mlflow("http://user:pass@host")')
    assert made.about["strategy"] == "replay(9)"
    assert made.about["row_dim"] == "4"
    assert not {"redis_url", "trackers", "store", "optimiser"} & made.about.keys()


def test_the_runtime_of_exported_models_is_told_to_keep_quiet() -> None:
    """It reads this when it is imported; `proxy` above sees what it sends otherwise."""
    said = subprocess.run(
        [sys.executable, "-c", "import os, services; print(os.environ['ORT_DISABLE_TELEMETRY'])"],
        env={k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "1"
