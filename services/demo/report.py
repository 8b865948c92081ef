"""The HTML report of a demo or a replay: plots inside one file, the figures as JSON beside it."""

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)

from services.demo.record import Record  # noqa: E402
from services.demo.show import Moment, by_release, figure  # noqa: E402
from services.demo.studies import Cost, Study  # noqa: E402

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:66rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}"
    "img{max-width:100%}h1{margin-bottom:0}.bad{color:#b00020}.good{color:#1b7a3d}"
)


def write_report(
    folder: Path,
    title: str,
    facts: Mapping[str, str],
    record: Record,
    moments: Sequence[Moment],
    audit: Sequence[Mapping[str, Any]],
    ledger: Mapping[str, Any],
    study: Study | None = None,
) -> Path:
    """Write report.html and figures.json into the folder; returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    releases = by_release(record.answers)
    (folder / "figures.json").write_text(
        json.dumps(
            _without_nan(
                {
                    "facts": facts,
                    "releases": releases,
                    "moments": [vars(m) for m in moments],
                    "ledger": ledger,
                    "study": study.figures() if study else {},
                }
            ),
            indent=1,
            allow_nan=False,
        )
    )
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        _table(["what", "value"], [[name, value] for name, value in facts.items()]),
        "<h2>Ledger</h2>" + _ledger(ledger),
        "<h2>Quality over time</h2>" + _picture(_quality(moments)),
        "<h2>Quality per release</h2>" + _picture(_per_release(releases)),
        "<h2>Freshness at the reader</h2>" + _picture(_freshness(record)),
        "<h2>Throughput and lag</h2>" + _picture(_throughput(moments)),
        *(_study(study) if study and study.lags() else ()),
        "<h2>Gate verdicts</h2>" + _audit(audit),
    ]
    path = folder / "report.html"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _quality(moments: Sequence[Moment]) -> Any:
    shape, axes = plt.subplots(1, 2, figsize=(11, 3.2))
    at = [m.at_s for m in moments]
    axes[0].plot(at, [m.auc for m in moments])
    axes[0].set(title="progressive AUC (last 600 answers)", xlabel="seconds")
    axes[1].plot(at, _smooth([m.click_rate for m in moments]))
    axes[1].set(title="click-through", xlabel="seconds")
    for place in _changes(moments):
        for axis in axes:
            axis.axvline(place, color="#bbb", linewidth=0.8, zorder=0)
    return shape


def _per_release(releases: Sequence[Mapping[str, Any]]) -> Any:
    shape, axes = plt.subplots(1, 2, figsize=(11, 3.2))
    places = range(len(releases))
    axes[0].bar(places, [r["auc"] for r in releases])
    axes[0].set(title="AUC while it served", ylim=(0.4, 1.0), xlabel="release, in order of serving")
    axes[1].plot(places, [r["ctr"] for r in releases], marker="o", label="measured")
    axes[1].plot(places, [r["expected_ctr"] for r in releases], marker=".", label="without luck")
    axes[1].set(title="click-through", xlabel="release, in order of serving")
    axes[1].legend(frameon=False)
    return shape


def _study(study: Study) -> list[str]:
    return [
        "<h2>What freshness is worth</h2><p>The same requests, ranked with everything as it stood so many seconds "
        "of log time earlier: mean reciprocal rank minus that of the answers in time, with 95 % bounds.</p>"
        + _picture(_costs(study.lags(), "MRR lost by lag")),
        "<h2>What single inputs are worth</h2><p>The same candidates in the order of their scores without one input "
        "(occlusion, by Explain).</p>" + _picture(_costs(study.features(), "MRR without one input")),
    ]


def _costs(costs: Sequence[Cost], title: str) -> Any:
    shape, axis = plt.subplots(figsize=(9, 1 + 0.24 * len(costs)))
    at = np.arange(len(costs))
    middle = np.array([cost.difference for cost in costs])
    bounds = np.abs(np.array([[cost.lower, cost.upper] for cost in costs]).T - middle)
    axis.errorbar(middle, at, xerr=bounds, fmt="o", markersize=4, capsize=2)
    axis.axvline(0, color="#bbb", linewidth=0.8, zorder=0)
    axis.set_yticks(at, [cost.what for cost in costs], fontsize=8)
    axis.invert_yaxis()
    axis.set(title=title, xlabel="difference in MRR")
    return shape


def _freshness(record: Record) -> Any:
    shape, axes = plt.subplots(1, 4, figsize=(11, 2.8))
    for place, name in enumerate(("shopper's features", "item features", "rows", "dense release")):
        ages = np.array([a.ages_ms[place] for a in record.answers if a.ages_ms[place] >= 0]) / 1000
        if len(ages):
            axes[place].hist(np.clip(ages, 0, np.percentile(ages, 99)), bins=40)
        axes[place].set(title=name, xlabel="age in seconds")
    return shape


def _throughput(moments: Sequence[Moment]) -> Any:
    shape, axes = plt.subplots(1, 3, figsize=(11, 2.8))
    at = [m.at_s for m in moments]
    axes[0].plot(at, [m.events_per_s for m in moments])
    axes[0].set(title="events per second", xlabel="seconds")
    axes[1].plot(at, [m.lag for m in moments])
    axes[1].set(title="records not yet applied", xlabel="seconds")
    axes[2].plot(at, [m.memory_mib / 1024 for m in moments])
    axes[2].set(title="memory of everything, GiB", xlabel="seconds", ylim=(0, None))
    return shape


def _changes(moments: Sequence[Moment]) -> list[float]:
    pairs = zip(moments, moments[1:], strict=False)
    return [after.at_s for before, after in pairs if after.release and after.release != before.release]


def _smooth(values: Sequence[float], width: int = 10) -> list[float]:
    out = []
    for end in range(1, len(values) + 1):
        part = [v for v in values[max(0, end - width) : end] if v == v]
        out.append(float(np.mean(part)) if part else float("nan"))
    return out


def _picture(shape: Any) -> str:
    shape.tight_layout()
    data = io.BytesIO()
    shape.savefig(data, format="png", dpi=110)
    plt.close(shape)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def _without_nan(value: Any) -> Any:
    """The same for JSON, which knows no NaN: null in its place."""
    if isinstance(value, Mapping):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ledger(ledger: Mapping[str, Any]) -> str:
    rows = [
        [html.escape(str(check["name"])), f'<span class="{"good" if check["held"] else "bad"}">'
         f'{"holds" if check["held"] else "broken"}</span>', html.escape(str(check["detail"]))]
        for check in ledger.get("checks", [])
    ]  # fmt: skip
    return _table(["promise", "verdict", "figures"], rows, escaped=True)


def _audit(audit: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for entry in audit:
        metrics = entry.get("metrics") or {}
        found = [metrics.get(name) for name in ("auc", "log_loss", "ndcg_at_10", "ctr")]
        numbers = [figure(float("nan") if value is None else float(value)) for value in found]
        rows.append(
            [
                str(entry.get("release", "")),
                str(entry.get("decision", entry.get("state", ""))),
                *numbers,
                str(entry.get("reason", "")),
            ]
        )
    return _table(["release", "decision", "AUC", "log-loss", "NDCG@10", "CTR", "reason"], rows)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], escaped: bool = False) -> str:
    cell = (lambda text: text) if escaped else html.escape
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{cell(str(value))}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
