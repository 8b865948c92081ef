"""The record of every decision: one line each, only ever added to, with figures before and after."""

import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from services.common.errors import NotFound

FIGURES = ("auc", "ndcg_at_10", "log_loss", "ctr")


class Audit:
    """releases/audit.jsonl."""

    def __init__(self, path: Path, fence: Callable[[], None] = lambda: None) -> None:
        """`fence` raises NotOwner when nothing may be decided any more."""
        self._path, self._fence = path, fence
        self._lock = threading.Lock()

    def add(self, now_us: int, decision: str, release: str = "", **more: Any) -> None:
        """Append one decision and bring it to disk before anything follows from it."""
        self._fence()
        line = {"at_us": now_us, "decision": decision, "release": release, **more}
        data = (json.dumps(_plain(line), allow_nan=False) + "\n").encode()
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # A line that a crash cut off must not swallow the next one.
            if self._cut_off():
                data = b"\n" + data
            with open(self._path, "ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    def entries(self, release: str = "") -> list[dict[str, Any]]:
        """All decisions, oldest first, or those on one release; a line cut off by a crash is left out."""
        if not self._path.exists():
            return []
        found = (_read(line) for line in self._path.read_bytes().splitlines())
        return [entry for entry in found if entry and (not release or entry.get("release") == release)]

    def _cut_off(self) -> bool:
        if not self._path.exists() or not self._path.stat().st_size:
            return False
        with open(self._path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


def before_and_after(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """All figures of a release; those of the champion it was compared with, and its own, on the same impressions.

    >>> before_and_after({"auc": 0.7, "champion_auc": 0.6})["after"]
    {'auc': 0.7}
    """
    return {
        "metrics": dict(metrics),
        "before": {name: metrics[f"champion_{name}"] for name in FIGURES if f"champion_{name}" in metrics},
        "after": {name: metrics[name] for name in FIGURES if name in metrics},
    }


def difference(audit: Audit, one: str, other: str) -> dict[str, dict[str, float | None]]:
    """Figures of two releases side by side, `other` minus `one`. Raises NotFound for one that was never judged."""
    figures = [_figures(audit, release) for release in (one, other)]
    out: dict[str, dict[str, float | None]] = {}
    for name in FIGURES:
        first, second = (f.get(name) for f in figures)
        gap = second - first if first is not None and second is not None else None
        out[name] = {one: first, other: second, "difference": gap}
    return out


def _figures(audit: Audit, release: str) -> dict[str, float]:
    for entry in audit.entries(release):
        if entry.get("after"):
            return dict(entry["after"])
    raise NotFound(f"no figures of release {release!r}")


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
