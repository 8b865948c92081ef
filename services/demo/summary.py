"""The figures of a demo in words."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from services.common.errors import NotFound
from services.demo import loaders, show
from services.demo.evaluate import compare
from services.demo.record import auc_of
from services.demo.story import Story

if TYPE_CHECKING:
    from services.demo.run import Demo


def facts(demo: "Demo", story: Story) -> dict[str, str]:
    """What the report and the last table say."""
    record, answers = demo.record, demo.record.answers
    latency = sorted(a.latency_ms for a in answers) or [float("nan")]
    peak = max((m.memory_mib for m in demo.moments), default=float("nan"))
    found = {
        "events acknowledged": f"{record.events:,}",
        "answers": f"{len(answers):,}",
        "answer p50 / p99": f"{latency[len(latency) // 2]:.1f} / {latency[int(len(latency) * 0.99)]:.1f} ms",
        "calls failed": show.counts(record.failed),
        "events refused": show.counts(record.refused),
        "releases served": str(len({a.release for a in answers if a.release})),
        "AUC over all answers": show.figure(_auc(demo)),
        "memory of everything, peak": f"{peak / 1024:.2f} GiB",
        "seconds in all": f"{time.monotonic() - demo.began:.0f}",
    }
    if demo.searches:
        found["searches among the answers"] = f"{demo.searches:,}"
        found["searches found by meaning, too"] = _meaning(demo.follower.positions("publisher"))
    if story.clicked:
        found["click to changed features"] = show.duration(story.feature_s * 1000)
        found["click to changed rows"] = show.duration(story.row_s * 1000)
        found["click to changed dense model"] = show.duration(story.release_s * 1000)
    return found


def ranked(demo: "Demo") -> dict[str, str]:
    """Figures against the rule, where the log has lists that were shown."""
    options = demo.options
    assert options.data is not None
    try:
        found = compare(loaders.steps(options.data, options.limit), [vars(a) for a in demo.record.answers])
    except NotFound:
        return {}
    return {
        "requests of the second half": f"{found.requests:,}",
        "AUC of the second half": f"{found.auc:.4f}",
        "MRR; rule; as shown": f"{found.mrr:.4f}; {found.mrr_rule:.4f}; {found.mrr_shown:.4f}",
        "MRR minus the rule's, 95 %": f"{found.difference:+.4f} [{found.lower:+.4f}, {found.upper:+.4f}]",
    }


def _meaning(positions: Mapping[str, Any]) -> str:
    """The text encoder that serves, and how much of the catalogue it knows.

    >>> _meaning({"text": {"serving": {"encoder": "t1", "items": 1500, "waiting": 2}}})
    'by encoder t1, 1,498 of 1,500 items have their vector'
    >>> _meaning({"text": {"serving": None, "filling": {"encoder": "t1", "items": 1500, "waiting": 900}}})
    'not yet: 600 of 1,500 items have their vector'
    """
    text = positions.get("text") or {}
    for lane, start in (("serving", "by encoder {encoder}, "), ("filling", "not yet: ")):
        if about := text.get(lane):
            count, known = about.get("items", 0), about.get("items", 0) - about.get("waiting", 0)
            return f"{start.format(**about)}{known:,} of {count:,} items have their vector"
    return "no: there is no text encoder"


def _auc(demo: "Demo") -> float:
    return auc_of(demo.record.answers)
