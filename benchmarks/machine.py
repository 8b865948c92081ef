"""What a run is described by: commit, processor, versions and load, without which no figure means anything."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "confluent-kafka",
    "faust-streaming",
    "feast",
    "grpcio",
    "hiredis",
    "numpy",
    "onnxruntime",
    "protobuf",
    "pyarrow",
    "redis",
    "torch",
    "tritonclient",
)


def machine() -> dict[str, Any]:
    """Processor, cores and memory."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "memory_gib": round(pages / 2**30, 1)}


def versions(*more: str) -> dict[str, str]:
    """Of Python and of the packages that the figures depend on, and of those that are named."""
    return {"python": platform.python_version()} | {name: version(name) for name in (*PACKAGES, *more)}


def load() -> list[float]:
    """Load average of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def commit() -> str:
    """The commit that is checked out, with a plus when tracked files differ from it."""
    described = _git("rev-parse", "--short=12", "HEAD")
    return described + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and their distance, least and most, rounded to four digits; n >= 1."""
    q1, _, q3 = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    numbers = {"median": statistics.median(values), "q1": q1, "q3": q3, "iqr": q3 - q1}
    return rounded(numbers | {"low": min(values), "high": max(values), "n": len(values)})


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, worst and number of values, rounded to four digits; n >= 1."""
    ordered = sorted(values)
    found = {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 95, 99)}
    return rounded(found | {"worst": ordered[-1], "n": len(ordered)})


def rounded(numbers: dict[str, float]) -> dict[str, float]:
    """Four significant digits each."""
    return {name: float(f"{number:.4g}") for name, number in numbers.items()}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented, with a newline at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(*words: str) -> str:
    ended = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.stdout.strip() if ended.returncode == 0 else "unknown"
