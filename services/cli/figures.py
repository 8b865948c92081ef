"""Figures out of Prometheus text: quantiles of the distributions that say how fresh things are."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

QUANTILES = (0.5, 0.95, 0.99)
_FRESH = ("freshness_seconds", "_age_seconds")


@dataclass(frozen=True)
class Freshness:
    """One distribution since its process began; seconds."""

    service: str
    what: str
    quantiles: tuple[float, ...]
    count: int


def freshness(service: str, pages: Iterable[str]) -> list[Freshness]:
    """Every distribution of ages in the /metrics of a service's processes, added up."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for page in pages:
        for family in text_string_to_metric_families(page):
            if family.type == "histogram" and family.name.endswith(_FRESH):
                for sample in family.samples:
                    if sample.name.endswith("_bucket"):
                        found[_what(service, family.name, sample.labels)][float(sample.labels["le"])] += sample.value
    return [_freshness(service, what, sorted(buckets.items())) for what, buckets in found.items()]


def _what(service: str, name: str, labels: Mapping[str, str]) -> str:
    metric = name.removeprefix(f"freshrank_{service}_").removesuffix("_seconds")
    return " ".join([metric, *(value for label, value in sorted(labels.items()) if label != "le")])


def _freshness(service: str, what: str, buckets: Sequence[tuple[float, float]]) -> Freshness:
    return Freshness(service, what, tuple(quantile(buckets, q) for q in QUANTILES), int(buckets[-1][1]))


def quantile(buckets: Sequence[tuple[float, float]], q: float) -> float:
    """Of cumulative buckets (upper bound, count), straight lines between bounds, as Prometheus does it.

    What lies beyond the last finite bound is answered with that bound; NaN when nothing was counted.

    >>> quantile([(1.0, 10.0), (2.0, 20.0), (float("inf"), 20.0)], 0.75)
    1.5
    """
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        return float("nan")
    rank, low, below = q * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and count > below:
            return low if bound == float("inf") else low + (bound - low) * (rank - below) / (count - below)
        low, below = bound if bound != float("inf") else low, count
    return low


def gauge(page: str, name: str) -> float:
    """Sum of a gauge over its labels; 0 when it is not on the page."""
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(page)
    return sum(sample.value for family in families if family.name == name for sample in family.samples)


def as_data(found: Freshness) -> dict[str, Any]:
    """For machines."""
    named = {f"p{round(q * 100)}_s": value for q, value in zip(QUANTILES, found.quantiles, strict=True)}
    return {"service": found.service, "what": found.what, **named, "count": found.count}
