"""The page of techniques, and a page for each family of them: what it is for, what it gave, when to use it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from docs.families import ADVICE
from docs.techniques import FAMILIES, MISSING, ROOT, Technique
from services.trainer.presets import PRESETS

RESULTS = ROOT / "benchmarks" / "results" / "learning"

HEAD = """# Techniques of incremental learning

Written by `make docs` from `docs/techniques.py`. A setting is `FRESHRANK_TRAINER_<NAME>`; several parts of `strategy`
are written in one line, apart by commas. Results are of `docs/learning.md`; a technique without one is tested but not
measured on a real log. Many of them do not pay there, and the table says so.
"""


_COLUMNS = ("technique", "after", "chosen by", "module", "test", "measured")
_COSTS = (
    "technique",
    "MRR on trivago",
    "AUC",
    "s per 1,000",
    "peak MiB",
    "next item: Recall@20 / MRR@20",
    "s an update",
)


def page() -> str:
    """The whole page."""
    studies, parts = _studies(), [HEAD]
    for family, techniques in FAMILIES.items():
        link = f"[When to use them](families/{ADVICE[family].page}.md)"
        parts.append(f"## {family}\n\n{link}\n\n{_table(_COLUMNS, [_row(each, studies) for each in techniques])}\n")
    parts.append(_presets())
    parts.append("## Not there\n\n" + "\n".join(f"- {name}" for name in MISSING) + "\n")
    return "\n".join(parts)


def family_pages() -> Iterator[tuple[Path, str]]:
    """A page for each family."""
    studies = _studies()
    for family, techniques in FAMILIES.items():
        advice = ADVICE[family]
        yield ROOT / "docs" / "families" / f"{advice.page}.md", _family(family, techniques, studies)


def _family(family: str, techniques: Sequence[Technique], studies: Mapping[str, Any]) -> str:
    advice = ADVICE[family]
    how = _table(_COLUMNS[:5], [_row(each, studies)[:5] for each in techniques])
    costs = [row for each in techniques if (row := _costs(each, studies))]
    measured = f"\n## What was measured\n\n{_table(_COSTS, costs)}\n\n{_MEASURED}\n" if costs else ""
    return (
        f"# {family}\n\nWritten by `make docs` from `docs/families.py` and `docs/techniques.py`.\n\n"
        f"{fill(advice.purpose, 120)}\n\n{fill(f'**When it pays.** {advice.use}', 120)}\n\n"
        f"{fill(f'**When it does not.** {advice.leave}', 120)}\n\n"
        f"## How it is chosen\n\n{how}\n{measured}"
    )


_MEASURED = """MRR is the difference from the plain online step with its bootstrap interval of 95 %, seconds are of
1,000 lists judged and learned. [learning.md](../learning.md) has commands, machines and what else was seen."""


def _costs(one: Technique, studies: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The cells of a technique that was measured on real data; None for any other."""
    study, _, way = one.result.partition("/")
    if study == "diginetica":
        row = studies.get(study, {}).get("rows", {}).get(f"{way}-1")
        measured = _next_item(row)
        if row is None or measured == "-":
            return None
        trained = [period["train_s"]["cpu"] for period in row["periods"] if period["steps"]] or [0.0]
        figures = measured.removeprefix("diginetica: Recall@20 ").replace(", MRR@20 ", " / ")
        return (one.name, "", "", "", "", figures, f"{sum(trained) / len(trained):.0f}")
    found = studies.get(study, {}).get("results", {}).get(way)
    if not found:
        return None
    seconds, memory = f"{found['seconds_per_1000']:.1f}", f"{found['peak_mib']:.0f}"
    return (one.name, _change(found["mrr_difference"]), f"{found['auc']['value']:.4f}", seconds, memory, "", "")


def _change(change: Mapping[str, float]) -> str:
    return f"{change['value']:+.4f} [{change['lower']:+.4f}, {change['upper']:+.4f}]"


def _studies() -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _presets() -> str:
    head = "## Presets\n\nSettings of usual worked examples (`FRESHRANK_TRAINER_PRESET`, `freshrank presets`).\n\n"
    rows = [f"| `{k}` | {p.to} | {p.example} | `{p.text}` | {p.remark} |" for k, p in PRESETS.items()]
    columns = "| preset | for | example | settings | remark |\n|---|---|---|---|---|\n"
    return head + columns + "\n".join(rows) + "\n"


def _row(one: Technique, studies: Mapping[str, Any]) -> tuple[str, ...]:
    chosen = one.how or ", ".join(f"`{name}={value}`" for name, value in one.settings.items())
    file, _, _ = one.test.partition("::")
    return (
        one.name,
        one.paper or "-",
        chosen,
        f"`{one.module}`",
        f"`{Path(file).name}`",
        _measured(one.result, studies),
    )


def _measured(result: str, studies: Mapping[str, Any]) -> str:
    study, _, way = result.partition("/")
    if study == "diginetica":
        return _next_item(studies.get(study, {}).get("rows", {}).get(f"{way}-1"))
    if study == "stars":
        return _stars(studies.get(study, {}).get("results", {}).get(f"{result}/1"))
    if study == "compression":
        return _compressed(way, studies.get(study, {}).get("ways", ()))
    found = studies.get(study, {}).get("results", {}).get(way)
    if not found:
        return "-"
    return f"{study}: MRR {_change(found['mrr_difference'])}, AUC {found['auc']['value']:.4f}"


def _stars(found: Mapping[str, Any] | None) -> str:
    return f"ml-100k: RMSE {found['errors']['whole']['rmse']:.4f}" if found else "-"


def _compressed(way: str, found: Sequence[Mapping[str, Any]]) -> str:
    by_name = {one["way"]: one for one in found}
    if way not in by_name:
        return "-"
    one, share = by_name[way], by_name[way]["bytes"] / by_name["as exported"]["bytes"]
    return f"simulator: {share:.2f} of the bytes, AUC {one['auc_change']:+.5f}, log-loss {one['log_loss_rise']:+.2%}"


def _next_item(found: Mapping[str, Any] | None) -> str:
    """Means over all periods; a way that was not measured to the end has none."""
    if not found or len(found["periods"]) < 16:
        return "-"
    recall, mrr = (sum(p[name] for p in found["periods"]) / 16 for name in ("recall", "mrr"))
    return f"diginetica: Recall@20 {recall:.1f}, MRR@20 {mrr:.1f}"
