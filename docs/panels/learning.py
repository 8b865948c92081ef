"""What is learned, what passes the gates, and who takes it back."""

from docs.dashboards import Dashboard, Panel, counted, level, per_second, quantile

_STATE, _DECIDED = "freshrank_publisher_state", "freshrank_publisher_releases_total"
_FIGURE, _WATCH = "freshrank_trainer_progressive", "freshrank_publisher_watch"


def _decided(decision: str, window: str) -> str:
    return counted(_DECIDED, window, match=f'decision="{decision}"')


def _pair(metric: str, names: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((legend, level("max", metric, match=f'figure="{name}"')) for legend, name in names)


_NOW = (
    Panel(
        "Releases routed, last hour",
        (("", _decided("promoted", "1h")),),
        "short",
        "Good: several. At 0 the gate refuses or nothing is exported: runbook, FreshrankGateRefusesAll.",
        1,
        True,
        kind="stat",
    ),
    Panel(
        "Refused, last hour",
        (("", _decided("refused", "1h")),),
        "short",
        "Some are usual: superseded and young candidates count too. Read it beside the number of routed ones.",
        kind="stat",
    ),
    Panel(
        "Rolled back, last day",
        (("", _decided("rolled_back", "24h")),),
        "short",
        "Good: 0. Else `freshrank releases list` says why: runbook, FreshrankRolledBack.",
        1,
        kind="stat",
    ),
    Panel(
        "A publisher leads",
        (("", level("max", _STATE, match='state="leader"')),),
        "none",
        "Good: 1. At 0 nothing is pushed or released: runbook, FreshrankNoLeader.",
        1,
        True,
        kind="stat",
    ),
    Panel(
        "Frozen by a person",
        (("", level("max", _STATE, match='state=~"frozen_.*"')),),
        "none",
        "Good: 0. At 1 rows, releases or learning stand still because somebody said so: `freshrank status`.",
        1,
        kind="stat",
    ),
    Panel(
        "Privacy budget used",
        (("", "max(freshrank_trainer_privacy_epsilon{$s} / (freshrank_trainer_privacy_budget{$s} > 0))"),),
        "percentunit",
        "Good: below 90 %; empty when learning is not private. At 100 % learning stops: FreshrankPrivacyBudgetLow.",
        0.9,
        kind="stat",
    ),
)

_LEARNING = (
    Panel(
        "Messages learned from per second",
        (("trainer", per_second("freshrank_trainer_messages_total")),),
        "cps",
        "Good: as many as the joiner writes. At 0 with traffic: runbook, FreshrankTrainerStopped.",
    ),
    Panel(
        "Loss of the last batch",
        (("loss", level("max", "freshrank_trainer_loss")),),
        "none",
        "Good: steady with noise. A step up: shoppers or features have changed; a spike: a bad batch.",
    ),
    Panel(
        "Steps given up, failures",
        (
            ("steps that were not finite", counted("freshrank_trainer_skipped_steps_total", "10m")),
            ("{{what}}", counted("freshrank_trainer_failures_total", "10m", "what")),
        ),
        "short",
        "Good: 0. export: a full disk; control, champion: damaged files; features: a bad definition.",
    ),
    Panel(
        "AUC before learning",
        _pair(_FIGURE, (("learner", "auc"), ("champion", "champion_auc"))),
        "none",
        "Good: the learner at or above the champion. Below it for long: the gate will refuse.",
    ),
    Panel(
        "Log-loss before learning",
        _pair(_FIGURE, (("learner", "log_loss"), ("champion", "champion_log_loss"))),
        "none",
        "Good: the learner at or below the champion, within 1 %.",
    ),
    Panel(
        "Predicted and true click rate",
        _pair(_FIGURE, (("predicted", "predicted_ctr"), ("true", "ctr"))),
        "percentunit",
        "Good: on top of each other. Apart: labels are lost, late, or of bots: runbook, FreshrankCalibrationOff.",
    ),
)

_GATES = (
    Panel(
        "Decisions, per 10 minutes",
        (("{{decision}}", counted(_DECIDED, "10m", "decision")),),
        "short",
        "Good: promoted above 0. refused alone: see the checks beside.",
    ),
    Panel(
        "Checks that did not hold, per 10 minutes",
        (("{{gate}} {{check}}", counted("freshrank_publisher_checks_failed_total", "10m", "gate", "check")),),
        "short",
        "Names the reason of refusals. impressions: too little traffic; file_*: the export; learner_*: quality.",
    ),
    Panel(
        "How near row deltas come to their bounds",
        (("{{check}}", level("max", "freshrank_publisher_row_checks", "check")),),
        "percentunit",
        "Good: below 80 %. At 100 % pushes stop. champion_loss rising: rows drift away from the champion's weights.",
        0.8,
    ),
    Panel(
        "Watch: log-loss of the champion over the previous release",
        _pair(_WATCH, (("rise", "log_loss_rise"), ("surely at least", "log_loss_rise_lower"))),
        "none",
        "Good: at or below 0. Surely above 0 rolls back.",
    ),
    Panel(
        "Watch: degraded and failed shares",
        _pair(_WATCH, (("degraded", "degraded"), ("degraded before", "degraded_previous"), ("failed", "failed"))),
        "percentunit",
        "Good: as the previous release's. 5 % beyond it rolls back.",
    ),
    Panel(
        "Trial: lift of a challenger",
        (("{{arm}} {{figure}}", level("max", "freshrank_publisher_trial", "arm", "figure", match='figure=~"lift.*"')),),
        "percentunit",
        "Empty without a trial. lift_low above 0: surely better, it will be promoted.",
    ),
)

_WORK = (
    Panel(
        "Time of the release gate",
        (
            ("p50", quantile(0.5, "freshrank_publisher_gate_seconds")),
            ("p95", quantile(0.95, "freshrank_publisher_gate_seconds")),
        ),
        "s",
        "Good: seconds. Longer than the trainer's interval: candidates overtake each other.",
    ),
    Panel(
        "Checkpoint and export",
        (("trainer", level("max", "freshrank_trainer_release_seconds")),),
        "s",
        "Good: seconds. Grows with the tables; a slow volume shows here first.",
        30,
    ),
    Panel(
        "Publisher steps that failed, per 10 minutes",
        (("{{loop}}", counted("freshrank_publisher_faults_total", "10m", "loop")),),
        "short",
        "Good: 0. golden: Triton; rows: Redis; examples: Kafka; releases: the model store.",
    ),
    Panel(
        "Impressions kept for the gate",
        (("kept", level("max", "freshrank_publisher_impressions")),),
        "short",
        "Good: thousands. Below 300 nothing can be judged.",
        300,
        True,
    ),
    Panel(
        "More than a step before a release, per hour",
        (("{{action}}", counted("freshrank_trainer_maintenance_total", "1h", "action")),),
        "short",
        "Fine-tuning, pruning and wishes for a retrain that the maintenance policy chose.",
    ),
    Panel(
        "Epsilon spent, and its budget",
        (
            ("spent", level("max", "freshrank_trainer_privacy_epsilon")),
            ("budget", level("max", "freshrank_trainer_privacy_budget")),
        ),
        "none",
        "Both 0: learning is not private. Spent never falls; where it meets the budget learning stops.",
    ),
)

_ENCODERS, _FOUND = "freshrank_publisher_encoders_total", "freshrank_publisher_text_watch"
_TEXTS = (
    Panel(
        "Decisions on encoders and rerankers, per hour",
        (
            ("encoder {{decision}}", counted(_ENCODERS, "1h", "decision")),
            ("reranker {{decision}}", counted("freshrank_publisher_rerankers_total", "1h", "decision")),
        ),
        "short",
        "Good: promoted now and then, rolled_back at 0. `freshrank encoders list` says why one was refused.",
    ),
    Panel(
        "Texts without a vector yet",
        (("waiting", level("max", "freshrank_publisher_text_vectors_due")),),
        "short",
        "Good: near 0; the whole catalogue while a new encoder is filled. An item in it is found by its words alone.",
    ),
    Panel(
        "Vectors of texts made per second",
        (("vectors", per_second("freshrank_publisher_text_vectors_total")),),
        "cps",
        "Above 0 while texts wait. At 0 with texts waiting: Triton does not answer, see the publisher's log.",
    ),
    Panel(
        "Watch: shoppers who click on what they searched for",
        _pair(_FOUND, (("by the encoder watched", "found"), ("by the one before", "found_before"))),
        "percentunit",
        "Good: as many as by the one before. Surely fewer takes the encoder back.",
    ),
    Panel(
        "Encoder learning: pairs per second",
        (("pairs", per_second("freshrank_trainer_text_pairs_total")),),
        "cps",
        "Empty without a worker for texts. At 0 with searches that end in clicks: it has stopped, see its log.",
    ),
    Panel(
        "Rows of items made from texts",
        (("{{kind}}", level("max", "freshrank_publisher_text_rows", "kind")),),
        "short",
        "text: new items; blended: little known ones; due falls to 0. All 0: the map does not help, and is not used.",
    ),
)

DASHBOARD = Dashboard(
    "learning",
    "learning and gates",
    "What is learned, what passes the gates, what is watched and taken back.",
    (("Now", _NOW), ("Learning", _LEARNING), ("Gates and watch", _GATES), ("Texts", _TEXTS), ("Work", _WORK)),
)
