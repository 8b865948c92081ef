"""What comes in: how much of it is usable, and what becomes of it."""

from docs.dashboards import Dashboard, Panel, counted, level, per_second, share, shares, some

_RECORDS, _DEAD = "freshrank_ingest_records_total", "freshrank_ingest_dead_letters_total"
_ROWS, _ACTIONS = "freshrank_features_rows_total", "freshrank_joiner_actions_total"
_EVENTS = "freshrank_gateway_events_total"


_NOW = (
    Panel(
        "Events per second",
        (("", per_second(_RECORDS, match='outcome="event"')),),
        "cps",
        "Good: as usual at this hour. At 0 while answers go out: runbook, FreshrankEventsStopped.",
        kind="stat",
    ),
    Panel(
        "Dead letters",
        (("", share(some(per_second(_DEAD)), per_second(_RECORDS))),),
        "percentunit",
        "Good: below 0.1 %. Else see the reasons below: runbook, FreshrankDeadLetters.",
        0.01,
        kind="stat",
    ),
    Panel(
        "Events refused at the gateway",
        (("", share(some(per_second(_EVENTS, match='outcome="refused"')), per_second(_EVENTS))),),
        "percentunit",
        "Good: below 1 %. Callers got a reason per event: runbook, FreshrankEventsRefused.",
        0.05,
        kind="stat",
    ),
    Panel(
        "Late events",
        (("", share(some(per_second(_ROWS, match='outcome="late"')), per_second(_ROWS))),),
        "percentunit",
        "Good: below 1 %. Beyond an hour late nothing counts them: runbook, FreshrankEventsLate.",
        0.05,
        kind="stat",
    ),
    Panel(
        "Actions with a bad token",
        (("", share(some(per_second(_ACTIONS, match='outcome="bad_token"')), per_second(_ACTIONS))),),
        "percentunit",
        "Good: 0. Else gateway and joiner have different keys, or somebody makes up clicks: FreshrankBadTokens.",
        0.01,
        kind="stat",
    ),
    Panel(
        "Definitions refused, last hour",
        (("", counted("freshrank_features_plans_refused_total", "1h")),),
        "short",
        "Good: 0. Else the registry holds what cannot be computed: runbook, FreshrankPlanRefused.",
        1,
        kind="stat",
    ),
)

_IN = (
    Panel(
        "Records by what became of them",
        (("{{outcome}}", per_second(_RECORDS, "outcome")),),
        "cps",
        "Good: event and impression; duplicate is a producer that tries again; dead should be nothing.",
    ),
    Panel(
        "Dead letters by reason",
        (("{{reason}}", per_second(_DEAD, "reason")),),
        "cps",
        "malformed, missing_field, out_of_range, unknown_kind: the producer's code; too_large: its batches.",
    ),
    Panel(
        "Rows that a cleaning step changed or dropped",
        (("{{step}}", per_second("freshrank_ingest_cleaned_total", "step")),),
        "cps",
        "Good: steady shares. A step up in one is a producer that has changed.",
    ),
    Panel(
        "Rows without a value, by column",
        (
            (
                "{{column}}",
                shares(per_second("freshrank_ingest_missing_total", "column"), per_second(_RECORDS)),
            ),
        ),
        "percentunit",
        "Good: steady. category or price rising: items are missing in the catalogue; session: the app has changed.",
    ),
    Panel(
        "Items known: ingest and gateways",
        (
            ("ingest", level("min", "freshrank_ingest_catalogue_items")),
            ("gateways", level("min", "freshrank_gateway_table_items")),
        ),
        "short",
        "Good: both the size of the catalogue. Apart for long: a reader of item_updates is behind.",
    ),
    Panel(
        "Version of the bounds for outliers",
        (("partition {{partition}}", level("max", "freshrank_ingest_clip_version", "partition")),),
        "short",
        "Grows with traffic. Standing still under traffic: no values come that could be bounded.",
    ),
)

_FEATURES = (
    Panel(
        "Rows of the log by what became of them",
        (("{{topic}} {{outcome}}", per_second(_ROWS, "topic", "outcome")),),
        "cps",
        "Good: aggregated. duplicate after a restart is usual; late and bot are left out of the values.",
    ),
    Panel(
        "Values written, by view",
        (("{{view}}", per_second("freshrank_features_written_total", "view")),),
        "cps",
        "Good: follows the events. One view at 0: its definition or its key is not filled any more.",
    ),
    Panel(
        "Rows older than what is stored",
        (("{{view}}", per_second("freshrank_features_dropped_total", "view")),),
        "cps",
        "Good: 0 but for minutes after a restart. Steady: two installations write the same Feast project.",
    ),
    Panel(
        "Keys held, by view",
        (("{{view}}", level("sum", "freshrank_features_keys", "view")),),
        "short",
        "Memory follows it: see docs/sizing.md. A jump is a flood of new ids.",
    ),
    Panel(
        "Views written whole again, back-fills, per hour",
        (
            ("republished {{view}}", counted("freshrank_features_republished_total", "1h", "view")),
            ("back-fill {{outcome}}", counted("freshrank_features_fills_total", "1h", "outcome")),
        ),
        "short",
        "Good: only after a change of definitions. Else the online store has lost its data.",
    ),
)

_LABELS = (
    Panel(
        "Actions by what became of them",
        (("{{outcome}}", per_second(_ACTIONS, "outcome")),),
        "cps",
        "Good: flipped. no_token: the app does not send tokens back; unknown: the impression never came.",
    ),
    Panel(
        "Flips per impression",
        (
            (
                "flips",
                share(
                    some(per_second("freshrank_joiner_examples_total", match='kind="flip"')),
                    per_second("freshrank_joiner_examples_total", match='kind="initial"'),
                ),
            ),
        ),
        "none",
        "Good: steady, the shop's own rate of clicks. A fall is lost clicks, a jump is bots.",
    ),
    Panel(
        "Other events of the joiner",
        (("{{event}}", per_second("freshrank_joiner_events_total", "event")),),
        "cps",
        "evicted, closed early: its memory is full, labels are lost; refused: dead letters of the joiner.",
    ),
    Panel(
        "State of the joiner",
        (
            ("open impressions", level("sum", "freshrank_joiner_open_impressions")),
            ("clicked rows on disk", level("sum", "freshrank_joiner_spilled_rows")),
            ("actions that wait", level("sum", "freshrank_joiner_held_actions")),
        ),
        "short",
        "Good: follows traffic. Actions that wait and grow: impressions are lost or late.",
    ),
    Panel(
        "Spill files",
        (("partition {{partition}}", level("max", "freshrank_joiner_spill_bytes", "partition")),),
        "bytes",
        "Follows clicks of the longest label window. Compare with the volume's size.",
    ),
    Panel(
        "Bytes written to the log per second",
        (
            ("interactions", per_second("freshrank_ingest_emitted_bytes_total")),
            ("examples", per_second("freshrank_joiner_emitted_bytes_total")),
        ),
        "Bps",
        "Times 30 days is what Kafka holds of each: see docs/sizing.md.",
    ),
)

DASHBOARD = Dashboard(
    "quality",
    "data quality",
    "What comes in, how much of it is usable, and what becomes of it on the way to examples.",
    (("Now", _NOW), ("Arriving", _IN), ("Features", _FEATURES), ("Labels", _LABELS)),
)
