"""The parent of every process of a local stack: what its owner started never outlives the owner.

`processes.Supervisor` runs this file as a script (standard library only, so it is small and quick). Killing a
process cannot be noticed by that process, so a second one has to hold the children. It

- makes itself the subreaper of everything below it, so that no descendant escapes by losing its parent;
- starts each child in a process group of its own, bound by PR_SET_PDEATHSIG to this process. The signal follows the
  *thread* that forked, which is why the owner, who may have threads, does not fork the children itself;
- kills every descendant and removes their shared memory when the owner closes the control socket or dies.

Messages are JSON, one per packet of a SOCK_SEQPACKET socket. Orders: `{"op": "spawn", ...}`, answered by `{"pid"}`
or `{"error"}`, and `{"op": "signal", "pid", "signal", "group"}`, answered by `{"sent"}`. `{"exit": pid, "status"}`
comes unasked.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MESSAGE_BYTES = 1 << 20
SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_PREFIX = "freshrank-"
"""Only segments of this prefix are ever removed."""

POLICIES = {"other": os.SCHED_OTHER, "batch": os.SCHED_BATCH, "idle": os.SCHED_IDLE}

_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36


def remove_shared_memory(prefix: str) -> None:
    """Unlink every segment whose name begins with `prefix`; other names than ours are left alone."""
    if not prefix.startswith(SHARED_MEMORY_PREFIX):
        return
    for segment in SHARED_MEMORY.glob(f"{prefix}*"):
        segment.unlink(missing_ok=True)


def descendants(root: int) -> list[int]:
    """Process ids below `root`, read from /proc; dead ones that nobody has reaped are among them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, ahead = [], [root]
    while ahead:
        below = children.get(ahead.pop(), [])
        found += below
        ahead += below
    return found


class Watcher:
    """Starts, signals and reaps the children, and tells the owner when one ends."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._shared: dict[int, str] = {}
        self._prefixes: set[str] = set()

    def run(self, owner: int) -> None:
        """Serve until the owner (a pidfd) is gone or has closed its end, then leave nothing behind."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)
        ready = select.poll()
        for descriptor in (self._control.fileno(), owner, woken):
            ready.register(descriptor, select.POLLIN)
        try:
            while self._step(dict(ready.poll()), owner, woken):
                pass
        finally:
            self._clear()

    def _step(self, events: dict[int, int], owner: int, woken: int) -> bool:
        if woken in events:
            os.read(woken, 4096)
        if owner in events:
            return False
        try:
            for ended in self._reap():
                self._send(ended)
            return self._control.fileno() not in events or self._obey()
        except OSError:
            return False

    def _obey(self) -> bool:
        packet = self._control.recv(MESSAGE_BYTES)
        if not packet:
            return False
        order = json.loads(packet)
        self._send(self._spawn(order) if order["op"] == "spawn" else self._signal(order))
        return True

    def _send(self, message: dict[str, Any]) -> None:
        self._control.send(json.dumps(message).encode())

    def _spawn(self, order: dict[str, Any]) -> dict[str, Any]:
        try:
            with open(order["log"], "ab") as log:
                child = subprocess.Popen(
                    order["argv"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=order["cwd"],
                    env=order["env"],
                    process_group=0,  # a session each would be weighed against the others first, its policy after
                    preexec_fn=self._bind(POLICIES[order["policy"]], order["niceness"]),
                )
        except (OSError, subprocess.SubprocessError) as error:
            return {"error": str(error)}
        self._children[child.pid] = child
        self._shared[child.pid] = order["shared_memory"]
        self._prefixes.add(order["shared_memory"])
        return {"pid": child.pid}

    def _bind(self, policy: int, niceness: int) -> Callable[[], None]:
        watcher = os.getpid()

        def bind() -> None:
            self._libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != watcher:
                os._exit(1)
            with contextlib.suppress(OSError):  # where it may not be chosen all are alike
                os.sched_setscheduler(0, policy, os.sched_param(0))
                os.nice(niceness)

        return bind

    def _signal(self, order: dict[str, Any]) -> dict[str, Any]:
        if order["pid"] not in self._children:
            return {"sent": False}
        send = os.killpg if order["group"] else os.kill
        send(order["pid"], order["signal"])
        return {"sent": True}

    def _reap(self) -> Iterator[dict[str, Any]]:
        """Bury the dead. Until a leader is waited for its id stays taken, so its group can be killed safely."""
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            child = self._children.pop(dead.si_pid, None)
            if child is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(dead.si_pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(dead.si_pid, 0)[1])
            if child is not None:
                child.returncode = status
                remove_shared_memory(self._shared.pop(dead.si_pid))
                yield {"exit": dead.si_pid, "status": status}

    def _clear(self) -> None:
        """Kill what is left; orphans become ours as their parents die, so this ends when there are none."""
        while True:
            for pid in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            try:
                ended, status = os.waitpid(-1, 0)
            except ChildProcessError:
                break
            if ended in self._children:
                self._children.pop(ended).returncode = os.waitstatus_to_exitcode(status)
        for prefix in self._prefixes:
            remove_shared_memory(prefix)


def main() -> None:
    """Take the control socket's descriptor and the owner's process id from the command line and serve."""
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    try:
        owner = os.pidfd_open(int(sys.argv[2]))
    except ProcessLookupError:
        return
    Watcher(control).run(owner)


if __name__ == "__main__":
    main()
