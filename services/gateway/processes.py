"""The gateway's child processes: the item table's writer and further workers, which never outlive their parent."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from tempfile import TemporaryDirectory

from services.common.errors import TemporaryError
from services.gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


def start(settings: GatewaySettings, arguments: Sequence[str]) -> None:
    """Be the process that the arguments name: none = the service; else a role and the pid of the parent.

    Each imports only what it needs.
    """
    role = arguments[0] if arguments else "serve"
    if len(arguments) > 1:
        die_with(int(arguments[1]))
    if role == "table":
        from services.gateway import beside

        beside.run(settings)
    else:
        with _one_page() if role == "serve" and settings.workers > 1 else nullcontext():
            from services.gateway import app

            app.run(settings, role)


@contextmanager
def _one_page() -> Iterator[None]:
    """Have the processes from here on count into one folder, so that `/metrics` shows what all of them did.

    The client library of Prometheus looks for the variable when it is imported: nothing may have done that before.
    """
    with TemporaryDirectory(prefix="freshrank-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


class Child:
    """`python -m services.gateway <role>`, started again when it ends."""

    def __init__(self, role: Sequence[str]) -> None:
        self.role = tuple(role)
        self._process = self._start()
        self._leaving = False

    def ended(self) -> bool:
        """True when it ended by itself; then it has been started again."""
        code = self._process.poll()
        if code is None or self._leaving:
            return False
        logger.error("a child process ended", extra={"role": " ".join(self.role), "code": code})
        from services.common.metrics import gone

        gone(self._process.pid)
        self._process = self._start()
        return True

    @property
    def answers(self) -> bool:
        """Whether it is a worker with calls of its own."""
        return self.role == ("worker",)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def leave(self) -> None:
        """SIGTERM: it ends by itself when its calls are answered, and is not started again."""
        self._leaving = True
        self._process.terminate()

    def stop(self, seconds: float) -> None:
        """SIGTERM, then SIGKILL."""
        if not self._leaving:
            self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "services.gateway", *self.role, str(os.getpid())]
        return subprocess.Popen(command)


def die_with(parent: int) -> None:
    """Have the kernel end this process with its parent. Raises TemporaryError when the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise TemporaryError("the parent process has ended")
