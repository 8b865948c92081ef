"""What shoppers get, and what Triton does for it."""

from docs.dashboards import Dashboard, Panel, level, per_second, quantile, share, some

ANSWERS = 'method=~"Rank|Recommend|Search|Similar"'
FAILED = 'code=~"INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|UNKNOWN"'
OURS = 'model=~"r[0-9]+t[0-9]+-.*"'
"""Names of releases, so that other models of the same Triton stay out."""
_CALLS, _SECONDS = "freshrank_gateway_requests_total", "freshrank_gateway_request_seconds"
_RUNGS, _CANDIDATES = "freshrank_gateway_degradations_total", "freshrank_gateway_candidates_total"
_ANSWERED = "nv_inference_request_success"


def _each(metric: str) -> str:
    """Microseconds per answered inference, as seconds."""
    return share(per_second(metric, match=OURS), per_second(_ANSWERED, match=OURS)) + " / 1e6"


_NOW = (
    Panel(
        "Answers per second",
        (("", per_second(_CALLS, match=ANSWERS)),),
        "reqps",
        "What is usual at this hour is good. See docs/sizing.md for what a pod takes.",
        kind="stat",
    ),
    Panel(
        "Failed calls",
        (("", share(some(per_second(_CALLS, match=FAILED)), per_second(_CALLS))),),
        "percentunit",
        "Good: below 0.1 %. Else runbook, FreshrankCallsFailing.",
        0.01,
        kind="stat",
    ),
    Panel(
        "Answering time, p99",
        (("", quantile(0.99, _SECONDS, match=ANSWERS)),),
        "s",
        "Good: below the deadline of 150 ms. Else see the stages below: runbook, FreshrankAnswersSlow.",
        0.15,
        kind="stat",
    ),
    Panel(
        "Degraded answers",
        (("", share(some(per_second(_RUNGS, match='rung!="none"')), per_second(_RUNGS))),),
        "percentunit",
        "Good: below 1 %. Else a part does not answer: runbook, FreshrankAnswersDegraded.",
        0.05,
        kind="stat",
    ),
    Panel(
        "Items in the table, least of all pods",
        (("", level("min", "freshrank_gateway_table_items")),),
        "short",
        "Good: the size of the catalogue, on every pod.",
        1,
        True,
        kind="stat",
    ),
    Panel(
        "Impressions lost per second",
        (("", some(per_second("freshrank_gateway_impressions_total", match='outcome="lost"'))),),
        "cps",
        "Good: 0. Else Kafka does not take them, and nothing is learned from those answers.",
        0.01,
        kind="stat",
    ),
)

_ANSWERING = (
    Panel(
        "Calls by method",
        (("{{method}}", per_second(_CALLS, "method")),),
        "reqps",
        "Good: as usual at this hour. Track at 0 means that clicks no longer come.",
    ),
    Panel(
        "Calls that were not OK",
        (("{{method}} {{code}}", per_second(_CALLS, "method", "code", match='code!="OK"')),),
        "reqps",
        "INVALID_ARGUMENT is the caller's; RESOURCE_EXHAUSTED asks for pods; UNAVAILABLE and INTERNAL are ours.",
    ),
    Panel(
        "Answering time",
        tuple(
            (f"{{{{method}}}} p{round(100 * q)}", quantile(q, _SECONDS, "method", match=ANSWERS)) for q in (0.5, 0.99)
        ),
        "s",
        "Good: p99 below 150 ms. p50 up too: load; p99 alone: a busy node, or Triton queues.",
        0.15,
    ),
    Panel(
        "Time by stage, p99",
        (("{{stage}}", quantile(0.99, "freshrank_gateway_stage_seconds", "stage")),),
        "s",
        "features is Redis, score is Triton, items and inputs are the gateway's own processor.",
    ),
    Panel(
        "Answers by rung",
        (("{{rung}}", per_second(_RUNGS, "rung")),),
        "reqps",
        "Good: none alone. stale_features, no_user_features: Redis; last_release, popular: Triton.",
    ),
    Panel(
        "Failures of parts",
        (("{{part}} {{error}}", per_second("freshrank_gateway_part_failures_total", "part", "error")),),
        "cps",
        "Good: nothing. features is Redis, score is Triton, releases is the model store.",
    ),
)

_ITEMS = (
    Panel(
        "Candidates that the item table lacks",
        (("missing", share(per_second("freshrank_gateway_candidates_missing_total"), per_second(_CANDIDATES))),),
        "percentunit",
        "Good: below 1 %. Else the shop ranks items that it has not upserted, or the table is old.",
        0.05,
    ),
    Panel(
        "Candidates with an embedding row",
        (("with a row", share(per_second("freshrank_gateway_candidates_with_row_total"), per_second(_CANDIDATES))),),
        "percentunit",
        "Good: high and steady; new items have none yet. A fall to 0 after a rollback means an empty slot.",
    ),
    Panel(
        "Since the table's writer was alive",
        (("{{pod}}", level("max", "freshrank_gateway_table_age_seconds", "pod")),),
        "s",
        "Good: below a second. Beyond 30 s answers count as stale: runbook, FreshrankItemTableOld.",
        30,
    ),
)

_TRITON = (
    Panel(
        "Inferences by release",
        (("{{model}}", per_second(_ANSWERED, "model", match=OURS)),),
        "reqps",
        "Good: one release carries nearly all; the one before it has the watch's share and golden requests.",
    ),
    Panel(
        "Failed inferences by reason",
        (("{{model}} {{reason}}", per_second("nv_inference_request_failure", "model", "reason", match=OURS)),),
        "cps",
        "Good: 0. BACKEND is a broken model process: runbook, FreshrankTritonFailing. CANCELED: callers gave up.",
    ),
    Panel(
        "Time of an inference",
        (
            ("whole", _each("nv_inference_request_duration_us")),
            ("queue", _each("nv_inference_queue_duration_us")),
            ("compute", _each("nv_inference_compute_infer_duration_us")),
        ),
        "s",
        "Good: queue well below compute. A queue as long as the computing asks for another replica.",
    ),
    Panel(
        "Requests that wait",
        (("{{pod}}", level("sum", "nv_inference_pending_request_count", "pod", match=OURS)),),
        "short",
        "Good: below 10 per pod. Else runbook, FreshrankTritonQueues.",
        10,
    ),
    Panel(
        "Processor of Triton's nodes",
        (("{{pod}}", level("max", "nv_cpu_utilization", "pod")),),
        "percentunit",
        "Good: below 80 %. Triton counts the whole node, not its container.",
        0.9,
    ),
    Panel(
        "Models loaded anew after a failed golden request",
        (("healed", "sum(increase(freshrank_publisher_healed_total{$s}[1h]))"),),
        "short",
        "Good: 0. Else runbook, FreshrankModelsHealed.",
        1,
    ),
)

DASHBOARD = Dashboard(
    "serving",
    "serving",
    "What shoppers get: how many answers, how fast, how complete, and where the time goes.",
    (("Now", _NOW), ("Answering", _ANSWERING), ("Items", _ITEMS), ("Triton", _TRITON)),
)
