"""How long it takes from what a shopper does to what answers are made from."""

from docs.dashboards import Dashboard, Panel, counted, level, per_second, quantile


def _both(metric: str) -> tuple[tuple[str, str], ...]:
    return ("p50", quantile(0.5, metric)), ("p99", quantile(0.99, metric))


def _stages(metric: str, function: str = "sum") -> tuple[tuple[str, str], ...]:
    streams = ("ingest", "features", "joiner")
    return tuple((f"{s} {{{{topic}}}}", level(function, f"freshrank_{s}_{metric}", "topic")) for s in streams)


_NOW = (
    Panel(
        "Action to feature, p99",
        (("", quantile(0.99, "freshrank_features_freshness_seconds")),),
        "s",
        "Good: below 1 s. Else look at the lag below: runbook, FreshrankFeaturesStale.",
        1,
        kind="stat",
    ),
    Panel(
        "Example to row, p99",
        (("", quantile(0.99, "freshrank_publisher_row_freshness_seconds")),),
        "s",
        "Good: below 5 s. Else the trainer is behind or Redis is slow: runbook, FreshrankRowsStale.",
        5,
        kind="stat",
    ),
    Panel(
        "Age of the release, median",
        (("", quantile(0.5, "freshrank_gateway_age_seconds", match='what="release"')),),
        "s",
        "Good: below 10 minutes. Else releases are refused or stuck: dashboard Learning and gates.",
        600,
        kind="stat",
    ),
    Panel(
        "Messages behind",
        (("", " + ".join(f"sum(freshrank_{s}_lag_messages{{$s}})" for s in ("ingest", "features", "joiner"))),),
        "short",
        "Good: tens. Growing: a stage is too slow or stopped, see below which one.",
        500,
        kind="stat",
    ),
    Panel(
        "Row pushes stopped",
        (("", level("max", "freshrank_publisher_state", match='state="rows_stopped"')),),
        "none",
        "Good: 0. At 1 the row gate has refused a delta: runbook, FreshrankRowsStopped.",
        1,
        kind="stat",
    ),
    Panel(
        "Rows lost",
        (("", level("max", "freshrank_publisher_state", match='state="rows_lost"')),),
        "none",
        "Good: 0. At 1 the online store has lost its data and is being filled: runbook, FreshrankStoreLost.",
        1,
        kind="stat",
    ),
)

_STEPS = (
    Panel(
        "Ingest: arrival to interactions",
        _both("freshrank_ingest_freshness_seconds"),
        "s",
        "Good: p99 below 1 s. Else ingest has too little processor or Kafka acknowledges slowly.",
        1,
    ),
    Panel(
        "Features: arrival to stored, p99 by view",
        (("{{view}}", quantile(0.99, "freshrank_features_freshness_seconds", "view")),),
        "s",
        "Good: below 1 s in each view. One view alone: its keys are many; all views: processor or Redis.",
        1,
    ),
    Panel(
        "Joiner: arrival to example",
        _both("freshrank_joiner_freshness_seconds"),
        "s",
        "Good: p99 below 5 s. Else the joiner has too little processor or reads spilled rows from a slow disk.",
        5,
    ),
    Panel(
        "Trainer: arrival to row delta",
        _both("freshrank_trainer_freshness_seconds"),
        "s",
        "Good: p99 below 5 s. Else it learns slower than examples come: more processor, a GPU, or a smaller model.",
        5,
    ),
    Panel(
        "Publisher: newest example to rows in the store",
        _both("freshrank_publisher_row_freshness_seconds"),
        "s",
        "Good: p99 below 5 s. Else Redis or Kafka takes writes slowly.",
        5,
    ),
    Panel(
        "Publisher: export to routed",
        tuple(
            (f"p{round(100 * q)}", quantile(q, "freshrank_publisher_release_seconds", match='decision="promoted"'))
            for q in (0.5, 0.95)
        ),
        "s",
        "Good: below 15 s. Else the gate waits for a processor, or Triton loads slowly.",
        15,
    ),
)

_READER = (
    Panel(
        "Age of what answers are made from, median",
        (("{{what}}", quantile(0.5, "freshrank_gateway_age_seconds", "what")),),
        "s",
        "Good: rows seconds, release minutes. Features age with the shopper's own silence, so they have no bound.",
    ),
    Panel(
        "Age of what answers are made from, p95",
        (("{{what}}", quantile(0.95, "freshrank_gateway_age_seconds", "what")),),
        "s",
        "As left, for the oldest one in twenty.",
    ),
    Panel(
        "Rows pushed per second",
        (("{{kind}}", per_second("freshrank_publisher_rows_pushed_total", "kind")),),
        "cps",
        "Good: above 0 whenever shoppers click. At 0 with clicks: runbook, FreshrankRowsNotPushed.",
    ),
)

_LAG = (
    Panel(
        "Messages behind, by stage",
        (*_stages("lag_messages"), ("trainer examples", level("sum", "freshrank_trainer_lag_messages"))),
        "short",
        "Good: tens, and falling after a peak. A line that only grows is a stage that stands still.",
        500,
    ),
    Panel(
        "Processor per pod, by stage",
        tuple(
            (f"{s} {{{{pod}}}}", per_second(f"freshrank_{s}_work_seconds_total", "pod"))
            for s in ("ingest", "features", "joiner", "trainer")
        ),
        "percentunit",
        "Good: below 70 %. Near 100 % a pod is full: add a replica (at most one per partition), see docs/sizing.md.",
        0.9,
    ),
    Panel(
        "Work that a restart does again",
        _stages("unsaved_seconds", "max"),
        "s",
        "Good: below a minute. Else snapshots are not written: runbook, FreshrankSnapshotsOld.",
        60,
    ),
    Panel(
        "Partitions taken over, per hour",
        tuple((s, counted(f"freshrank_{s}_rebalances_total", "1h")) for s in ("ingest", "features", "joiner")),
        "short",
        "Good: only at deployments. Else pods are killed or miss their heartbeats: memory limits, processor.",
    ),
)

DASHBOARD = Dashboard(
    "freshness",
    "freshness",
    "From what a shopper does to what answers are made from, stage by stage. Red is beyond what is promised.",
    (("Now", _NOW), ("Stage by stage", _STEPS), ("At the reader", _READER), ("Capacity", _LAG)),
)
