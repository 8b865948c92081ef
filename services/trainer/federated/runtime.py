"""Flower's own processes: a SuperLink in the middle, a SuperNode at each shop, and the run that is handed to them.

Nothing is fetched and nothing is told to anybody else: no dependencies are installed for a run, and Flower's telemetry
and its look for updates are off. Without TLS they speak on loopback alone.
"""

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.errors import InvalidInput, TemporaryError
from services.trainer.federated import serving

START_S = 60.0
"""For a SuperLink to listen."""
LOOK_S = 60.0
"""How often a run that says nothing is looked after."""
_CONNECTION = "federation"
_DONE = "finished"


@dataclass(frozen=True)
class Tls:
    """PEM files. A shop needs the authority alone."""

    authority: Path
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Link:
    """Where a SuperLink is, and how it is spoken to."""

    host: str
    port: int
    tls: Tls | None = None

    def __post_init__(self) -> None:
        """Raises InvalidInput: without TLS no other machine may be spoken to; a file that is named has to be there."""
        if self.tls is None and not _loopback(self.host):
            raise InvalidInput("tls", "missing", f"{self.host} is another machine; that needs --tls-ca")
        for path in () if self.tls is None else (self.tls.authority, self.tls.certificate, self.tls.key):
            if path is not None and not path.is_file():
                raise InvalidInput("tls", "missing", f"{path} is no file")

    @property
    def address(self) -> str:
        """host:port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def environment(home: Path) -> dict[str, str]:
    """Variables for Flower's programs: their folder, where each finds the others, and nothing that calls home."""
    programs = str(Path(sys.executable).parent)
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    found = {
        "FLWR_HOME": str(home.absolute()),
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),  # what is imported here
    }
    return {**os.environ, **quiet, **found}


def node_command(link: Link, config: Mapping[str, str]) -> list[str]:
    """The SuperNode of a shop. Raises InvalidInput for a value that its configuration cannot hold."""
    for name, value in config.items():
        if '"' in value or "\\" in value or "\n" in value:
            raise InvalidInput(name, "unreadable", "quotes, backslashes and line ends have no place in it")
    said = " ".join(f'{name}="{value}"' for name, value in config.items())
    secured = ["--insecure"] if link.tls is None else ["--root-certificates", str(link.tls.authority)]
    own = ["--host", "127.0.0.1", "--port", str(free_port())]
    return ["flower-supernode", *secured, "--superlink", link.address, *own, "--node-config", said]


@contextmanager
def superlink(link: Link, home: Path, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A SuperLink that listens; it ends with the block. Raises TemporaryError when it does not start."""
    home.mkdir(parents=True, exist_ok=True)
    command = ["flower-superlink", "--disable-runtime-dependency-installation", "--host", link.host]
    command += ["--port", str(link.port), *_server_tls(link.tls)]
    with (home / "superlink.log").open("ab") as log:
        process = subprocess.Popen(command, env={**environment(home), **variables}, stdout=log, stderr=log)
    try:
        _wait_for(link, process, home)
        yield process
    finally:
        _end(process)


def keep(command: Sequence[str], variables: Mapping[str, str], pause_s: float = 5.0) -> None:
    """Run a SuperNode until this process is told to end.

    One that meets a SuperLink which does not know it, as after a restart, ends; a new one is let in.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    while True:
        process = subprocess.Popen(command, env=dict(variables))
        try:
            process.wait()
        finally:
            _end(process)
        time.sleep(pause_s)


def submit(link: Link, home: Path, config: Mapping[str, str | int | float | bool]) -> tuple[str, str]:
    """Hand a run to a SuperLink; (its number, the word it ends its log with). Raises TemporaryError."""
    word, app = uuid.uuid4().hex, home / "app"
    app.mkdir(parents=True, exist_ok=True)
    (app / "pyproject.toml").write_text(_bundle({**config, "run": word}))
    secured = "insecure = true" if link.tls is None else f"root-certificates = {json.dumps(str(link.tls.authority))}"
    connection = f"[superlink.{_CONNECTION}]\naddress = {json.dumps(link.address)}\n{secured}\n"
    (home / "config.toml").write_text(connection)
    answer = _flwr(home, "run", str(app), _CONNECTION)
    return str(answer["run-id"]), word


def follow(
    path: Path,
    word: str,
    alive: Callable[[], bool],
    ended: Callable[[dict[str, Any]], None],
    start: int = 0,
) -> dict[str, Any]:
    """Tell of rounds as the log has them, from byte `start` on, until the run ends; its last line.

    Raises TemporaryError when it ended with an error, or is not `alive` and has not said a last word.
    """
    looked_s, at = time.monotonic(), start
    while True:
        lines, at = serving.read(path, at)
        for line in lines:
            if line.get("ended") == word:
                if "error" in line:
                    raise TemporaryError(f"the run ended: {line['error']}")
                return line
            if "ended" not in line:
                ended(line)
        if not lines and time.monotonic() - looked_s >= LOOK_S:
            looked_s = time.monotonic()
            if not alive():
                raise TemporaryError("the run is over and left no word; superlink.log says more")
        time.sleep(0.5)


def running(home: Path, run: str) -> bool:
    """Whether a SuperLink still works on a run."""
    found = _flwr(home, "list", _CONNECTION)["runs"]
    return any(each["run-id"] == run and not str(each["status"]).startswith(_DONE) for each in found)


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _bundle(config: Mapping[str, str | int | float | bool]) -> str:
    """What Flower takes for an app: names of ours, which every machine has installed, and the run's configuration."""
    values = "\n".join(f"{name} = {json.dumps(value)}" for name, value in config.items())
    return f"""[project]
name = "freshrank"
version = "1.0.0"
description = "Federated rounds"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "freshrank"

[tool.flwr.app.components]
serverapp = "services.trainer.federated.apps:server"
clientapp = "services.trainer.federated.apps:client"

[tool.flwr.app.config]
{values}
"""


def _flwr(home: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        ["flwr", *words, "--format", "json"], env=environment(home), capture_output=True, text=True, check=False
    )
    start = done.stdout.find("{")
    try:
        answer: dict[str, Any] = json.loads(done.stdout[start:])
    except ValueError:
        answer = {}
    if done.returncode or not answer.get("success"):
        said = (answer.get("error-message") or done.stderr or done.stdout).strip().splitlines()
        raise TemporaryError(f"flwr {words[0]}: {said[-1] if said else 'no answer'}")
    return answer


def _wait_for(link: Link, process: "subprocess.Popen[bytes]", home: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with socket.socket(socket.AF_INET6 if ":" in link.host else socket.AF_INET) as probe:
            if probe.connect_ex((link.host, link.port)) == 0:
                return
        time.sleep(0.2)
    raise TemporaryError(f"the SuperLink does not listen on {link.address}; {home / 'superlink.log'} says why")


def _server_tls(tls: Tls | None) -> list[str]:
    if tls is None:
        return ["--insecure"]
    if tls.certificate is None or tls.key is None:
        raise InvalidInput("tls", "missing", "a SuperLink needs --tls-cert and --tls-key too")
    files = ("--ssl-ca-certfile", tls.authority), ("--ssl-certfile", tls.certificate), ("--ssl-keyfile", tls.key)
    return [word for option, path in files for word in (option, str(path))]


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
