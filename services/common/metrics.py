"""Metrics every service has, and buckets that fit freshness."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FRESHNESS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 1800)
"""Seconds: from one Kafka hop to half an hour."""

LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1)
"""Seconds: from one memory read to a call past every deadline."""

_SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Set before the client library is imported, its metrics are files of a folder, one for each process."""


class Metrics:
    """Factory of a service's metrics: each name starts with `freshrank_<service>_`.

    No label ever holds a user or an item.
    """

    def __init__(self, service: str, registry: CollectorRegistry | None = None) -> None:
        self.service = service
        self.registry = registry or CollectorRegistry()

    def counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        """A count that only grows; `name` ends in `_total` by convention of the client library."""
        return Counter(f"freshrank_{self.service}_{name}", text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        """A value that goes up and down; of several processes, the largest of those that live."""
        name = f"freshrank_{self.service}_{name}"
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode="livemax")

    def histogram(
        self, name: str, text: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = FRESHNESS_BUCKETS
    ) -> Histogram:
        """A distribution in seconds."""
        return Histogram(f"freshrank_{self.service}_{name}", text, labels, buckets=buckets, registry=self.registry)


def whole(registry: CollectorRegistry) -> CollectorRegistry:
    """What `/metrics` shows: the registry, or the sum over the processes that count into one folder with this one."""
    if _SHARED not in os.environ:
        return registry
    found = CollectorRegistry()
    MultiProcessCollector(found)  # type: ignore[no-untyped-call]
    return found


def gone(pid: int) -> None:
    """What a process that has ended counted stays; what it last measured does not."""
    if _SHARED in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
