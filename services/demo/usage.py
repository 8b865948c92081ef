"""Memory and processor time of groups of processes."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """What one program (its first process and all below it) takes at the moment."""

    processes: int
    rss_bytes: int
    pss_bytes: int
    """Proportional share: pages that n processes share count 1/n each, so sums over programs are true."""
    cpu_seconds: float
    """Of the processes alive now, since they began."""
    cpu_share: float
    """Cores used since the last call; 0 at the first."""


class Meter:
    """Remembers the last reading of each program, which a share of time needs."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def read(self, name: str, pids: Iterable[int]) -> Usage:
        """The sum over `pids`; those that have ended meanwhile are left out."""
        parts = [part for pid in pids if (part := _read(pid)) is not None]
        now, cpu = time.monotonic(), sum(part[2] for part in parts)
        at, before = self._last.get(name, (now, cpu))
        self._last[name] = (now, cpu)
        share = max(0.0, cpu - before) / (now - at) if now > at else 0.0
        return Usage(len(parts), sum(part[0] for part in parts), sum(part[1] for part in parts), cpu, share)


def _read(pid: int) -> tuple[int, int, float] | None:
    try:
        process = psutil.Process(pid)
        memory, cpu = process.memory_full_info(), process.cpu_times()
    except psutil.Error:
        return None
    return int(memory.rss), int(memory.pss), float(cpu.user + cpu.system)
