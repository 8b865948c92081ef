"""What the probe servers of the services answer."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

ANSWER_S = 2.0


@dataclass(frozen=True)
class Process:
    """One process of a service as it says of itself."""

    url: str
    answers: bool = False
    ready: bool = False
    positions: Mapping[str, Any] = field(default_factory=dict)
    metrics: str = ""


def ask_all(urls: Mapping[str, Sequence[str]], metrics: bool = True) -> dict[str, list[Process]]:
    """Ask every process at once."""
    flat = [(service, url) for service, each in urls.items() for url in each]
    with ThreadPoolExecutor(max(1, len(flat))) as pool:
        found = list(pool.map(lambda named: ask(named[1], metrics), flat))
    out: dict[str, list[Process]] = {service: [] for service in urls}
    for (service, _), process in zip(flat, found, strict=True):
        out[service].append(process)
    return out


def ask(url: str, metrics: bool = True) -> Process:
    """Ask one process; one that says nonsense does not answer."""
    url = url.rstrip("/")
    try:
        positions = json.loads(_get(f"{url}/positions")[1])
        page = _get(f"{url}/metrics")[1] if metrics else ""
        if isinstance(positions, dict):
            return Process(url, True, _get(f"{url}/readyz")[0] == 200, positions, page)
    except (OSError, ValueError, http.client.HTTPException):
        pass
    return Process(url)


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")
