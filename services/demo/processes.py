"""Starts, probes, restarts, measures and stops the processes of one machine.

    with Supervisor(folder) as supervisor:
        supervisor.start(Program("redis", ("redis-server", "--port", "7000"), ready=probe))
        supervisor.wait_ready("redis")

The children belong to the watcher (see `watcher.py`), so a crash or SIGKILL of this process takes them along.
"""

import contextlib
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from services.common.errors import Conflict, DeadlineExceeded, NotFound, PermanentError
from services.demo import watcher
from services.demo.usage import Meter, Usage

_PROBE_SECONDS = 0.05
_LOG_LINES = 25
_KILL_SECONDS = 10.0
_WHOLE_GROUP = frozenset({signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT})
"""Signals that mean the pod and not its first process; the others are for the leader to pass on."""

FOR_ANSWERS, BEHIND_ANSWERS = 5, 10
"""Niceness of what the gateway asks and of what works beside it: a third and a tenth of the weight of the gateway on a
busy core (docs/decisions/0009)."""


def always_ready() -> bool:
    """The probe of a program that needs none."""
    return True


@dataclass(frozen=True)
class Program:
    """What to run under one name."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's own."""
    cwd: Path | None = None
    ready: Callable[[], bool] = always_ready
    """Asked every 50 ms; may raise nothing, must return within a second or so."""
    ready_seconds: float = 60.0
    grace_seconds: float = 10.0
    """From SIGTERM to SIGKILL."""
    policy: Literal["other", "batch", "idle"] = "other"
    """Who goes first when the cores are busy: what is `batch` interrupts nobody, `idle` gives way at once."""
    niceness: int = 0
    """From 0 to 19; each step is a tenth less of a busy core."""
    shared_memory: str = ""
    """Prefix of its /dev/shm segments; removed whenever it ends (see `Supervisor.shared_memory`)."""


@dataclass(frozen=True)
class Exit:
    """An end that nobody asked for."""

    name: str
    status: int
    """Exit code, or minus the signal's number."""


@dataclass
class _Child:
    program: Program
    pid: int
    status: int | None = None


class Supervisor:
    """A set of named programs under one watcher; safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._children: dict[str, _Child] = {}
        self._exits: list[Exit] = []
        self._expected: set[int] = set()
        self._meter = Meter()
        self._lock = threading.RLock()
        self._run = f"{watcher.SHARED_MEMORY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(self.logs / "watcher.log", "ab") as log:
            self._watcher = subprocess.Popen(
                [sys.executable, "-I", "-S", watcher.__file__, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                process_group=0,  # no signal of the terminal; the session is shared, see docs/decisions/0009
            )
        threading.Thread(target=self._mourn, name="watcher's end", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def shared_memory(self, name: str) -> str:
        """The prefix that segments of program `name` must carry to be removed with it."""
        return f"{self._run}-{name}-"

    def start(self, program: Program) -> int:
        """Start without waiting and return the process id.

        Raises Conflict when the name runs already, PermanentError when the program cannot be executed.
        """
        with self._lock:
            if self.running(program.name):
                raise Conflict(f"{program.name} runs already")
            reply = self._ask(
                op="spawn",
                argv=program.argv,
                env=dict(os.environ) | dict(program.environment),
                cwd=str(program.cwd) if program.cwd else None,
                log=str(self.log_path(program.name)),
                policy=program.policy,
                niceness=program.niceness,
                shared_memory=program.shared_memory,
            )
            if "error" in reply:
                raise PermanentError(f"{program.name} cannot be started: {reply['error']}")
            pid = int(reply["pid"])
            # Out and in again: the order of the dictionary is the order of starting, which stopping reverses.
            self._children.pop(program.name, None)
            self._children[program.name] = _Child(program, pid)
            return pid

    def wait_ready(self, name: str) -> float:
        """Wait for the program's probe and return the seconds that took.

        Raises PermanentError when it ends first and DeadlineExceeded when it takes too long; both show the end of
        its log.
        """
        program, began = self._child(name).program, time.monotonic()
        while True:
            if not self.running(name):
                status = self._child(name).status
                raise PermanentError(f"{name} ended with status {status} before it was ready{self._last_lines(name)}")
            if program.ready():
                return time.monotonic() - began
            if time.monotonic() - began > program.ready_seconds:
                raise DeadlineExceeded(f"{name} is not ready after {program.ready_seconds:g} s{self._last_lines(name)}")
            time.sleep(_PROBE_SECONDS)

    def restart(self, name: str) -> float:
        """Stop if it runs, start the same program again, wait for it; returns the seconds until ready."""
        began, program = time.monotonic(), self._child(name).program
        self.stop(name)
        self.start(program)
        self.wait_ready(name)
        return time.monotonic() - began

    def kill(self, name: str, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal: SIGKILL, SIGSTOP and SIGCONT to the whole group, others to the first process.

        After SIGKILL this returns when the process is gone. Raises Conflict when it does not run.
        """
        child = self._child(name)
        self._signal(child, signal_number)
        if signal_number == signal.SIGKILL:
            self._wait_gone(child, _KILL_SECONDS)

    def stop(self, *names: str) -> None:
        """SIGTERM to all at once, then SIGKILL to each after its grace; nothing to do for what has ended."""
        children = [self._child(name) for name in names]
        for child in children:
            with contextlib.suppress(Conflict):
                self._signal(child, signal.SIGTERM)
                # A process that is held by SIGSTOP hears nothing before it may go on.
                self._signal(child, signal.SIGCONT)
        for child in children:
            with contextlib.suppress(Conflict):
                if not self._wait_gone(child, child.program.grace_seconds):
                    self._signal(child, signal.SIGKILL)
                    self._wait_gone(child, _KILL_SECONDS)

    def running(self, name: str) -> bool:
        """Whether it was started and has not ended."""
        with self._lock:
            self._drain()
            return name in self._children and self._children[name].status is None

    def pid(self, name: str) -> int:
        """The first process of the program, dead or alive."""
        return self._child(name).pid

    def pids(self, name: str) -> list[int]:
        """The program's processes that are alive, the first one in front."""
        return [self.pid(name), *watcher.descendants(self.pid(name))] if self.running(name) else []

    def names(self) -> list[str]:
        """Every program started here, in the order of starting."""
        with self._lock:
            return list(self._children)

    def exits(self) -> list[Exit]:
        """Programs that ended without being told to since the last call."""
        with self._lock:
            self._drain()
            exits, self._exits = self._exits, []
            return exits

    def log_path(self, name: str) -> Path:
        """Where its standard output and error go, over all its restarts."""
        return self.logs / f"{name}.log"

    def usage(self) -> dict[str, Usage]:
        """Memory and processor time per program; `watcher` and `supervisor` (this process) are in it."""
        roots = {name: self.pids(name) for name in self.names() if self.running(name)}
        roots |= {"watcher": [self._watcher.pid], "supervisor": [os.getpid()]}
        return {name: self._meter.read(name, pids) for name, pids in roots.items()}

    def close(self) -> None:
        """Stop all, last started first, then the watcher; safe to call twice."""
        with self._lock:
            if self._control.fileno() < 0:
                return
            try:
                if self._watcher.poll() is None:
                    for name in reversed(self._children):
                        self.stop(name)
            finally:
                self._control.close()
                self._watcher.wait()

    def _child(self, name: str) -> _Child:
        with self._lock:
            if name not in self._children:
                raise NotFound(f"no program named {name} was started")
            return self._children[name]

    def _signal(self, child: _Child, signal_number: int) -> None:
        with self._lock:
            self._drain()
            if child.status is None:
                if signal_number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
                    self._expected.add(child.pid)
                group = signal_number in _WHOLE_GROUP
                if self._ask(op="signal", pid=child.pid, signal=int(signal_number), group=group)["sent"]:
                    return
            raise Conflict(f"{child.program.name} does not run")

    def _wait_gone(self, child: _Child, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and child.status is None:
            select.select([self._control], [], [], min(left, _PROBE_SECONDS))
            with self._lock:
                self._drain()
        return child.status is not None

    def _ask(self, **order: Any) -> dict[str, Any]:
        try:
            self._control.send(json.dumps(order).encode())
            while "exit" in (message := self._receive()):
                self._ended(message)
        except OSError as error:
            raise PermanentError(f"the watcher is gone{self._last_lines('watcher')}") from error
        return message

    def _receive(self) -> dict[str, Any]:
        packet = self._control.recv(watcher.MESSAGE_BYTES)
        if not packet:
            raise ConnectionResetError("the watcher closed its end")
        message: dict[str, Any] = json.loads(packet)
        return message

    def _drain(self) -> None:
        try:
            while self._control.fileno() >= 0 and select.select([self._control], [], [], 0)[0]:
                self._ended(self._receive())
        except OSError:
            self._orphaned()

    def _mourn(self) -> None:
        """Wait for the watcher's end, so that a kill of it is noticed while nobody calls us."""
        with contextlib.suppress(ProcessLookupError):
            watched = os.pidfd_open(self._watcher.pid)
            try:
                select.select([watched], [], [])
            finally:
                os.close(watched)
        with self._lock:
            self._drain()

    def _orphaned(self) -> None:
        """Finish the watcher's work: the kernel has killed its children with it, but not what they had started."""
        for child in self._children.values():
            if child.status is None:
                child.status = -signal.SIGKILL
                self._exits.append(Exit(child.program.name, child.status))
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                watcher.remove_shared_memory(child.program.shared_memory)

    def _ended(self, message: dict[str, Any]) -> None:
        for child in self._children.values():
            if child.pid == message["exit"] and child.status is None:
                child.status = message["status"]
                if child.pid not in self._expected:
                    self._exits.append(Exit(child.program.name, message["status"]))
                self._expected.discard(child.pid)

    def _last_lines(self, name: str) -> str:
        path = self.log_path(name)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "; the end of {}:\n{}".format(path, "\n".join(lines[-_LOG_LINES:]))
