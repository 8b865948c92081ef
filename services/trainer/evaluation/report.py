"""The page of a study: a table, and what people would rather look at than read."""

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:left}"
    "img{max-width:100%}"
)
_MOST = 8
"""Ways in one picture."""

Results = Mapping[str, Mapping[str, Any]]


def write(path: Path, title: str, results: Results) -> None:
    """Write one HTML file with everything inside it."""
    shown = dict(list(results.items())[:_MOST])
    pictures = [
        ("Learning curves: MRR of the lists as they come, each judged before it is learned", _curves(shown)),
        ("Quality against cost", _cost(results)),
        ("AUC by deploy lag", _lags(shown)),
        ("Forgetting: AUC on the lists of each period (column) after each period (row)", _forgetting(shown)),
        ("Calibration: click rate against prediction", _calibration(shown)),
        ("Scores of what was clicked and of what was not", _scores(shown)),
        (
            "One shopper's list before and after its clicks were learned: places; what was clicked is bold",
            _shopper(shown),
        ),
    ]
    parts = [f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>"]
    parts += [f"<h1>{html.escape(title)}</h1>", _table(results)]
    parts += [f"<h2>{html.escape(name)}</h2>{picture}" for name, picture in pictures if picture]
    parts += [_slices(results), _thresholds(results)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts))


def _table(results: Results) -> str:
    head = ("way", "AUC", "MRR", "difference", "95 %", "log-loss", "calibration", "s per 1,000", "settings")
    rows = [f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"]
    for name, found in results.items():
        change = found.get("mrr_difference") or {}
        cells = (
            name,
            _text(found["auc"]["value"]),
            _text(found["mrr"]["value"]),
            _text(change.get("value"), "+.4f"),
            f"{_text(change.get('lower'), '+.4f')} to {_text(change.get('upper'), '+.4f')}",
            _text(found["log_loss"]["value"]),
            _text(found.get("calibration"), ".2f"),
            _text(found["seconds_per_1000"], ".2f"),
            ", ".join(f"{k}={v}" for k, v in found["settings"].items()),
        )
        rows.append(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _thresholds(results: Results) -> str:
    """Of each way: from which score on to say yes, and what that does on lists that it was not chosen on."""
    head = ("way", "segment", "threshold", "precision", "recall", "F", "F by that of all", "positives before")
    rows = [f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"]
    for way, found in results.items():
        table = found.get("thresholds") or {}
        for segment, each in {"all": table.get("all", {}), **table.get("segments", {})}.items():
            if not each:
                continue
            figures = (_text(each[name]) for name in ("threshold", "precision", "recall", "f"))
            cells = (way, segment, *figures, _text(each.get("f_with_all")), each["positives"])
            rows.append(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in cells)}</tr>")
    return f"<h2>Thresholds by segment</h2><table>{''.join(rows)}</table>"


def _curves(results: Results) -> str:
    figure, axis = plt.subplots(figsize=(10, 4))
    for name, found in results.items():
        axis.plot([float("nan") if x is None else x for x in found["curve"]["mrr"]], label=name)
    axis.set(xlabel="time, in fortieths of the log", ylabel="MRR")
    axis.legend(fontsize=8)
    return _image(figure)


def _cost(results: Results) -> str:
    figure, axis = plt.subplots(figsize=(10, 5))
    for name, found in results.items():
        axis.plot(found["seconds_per_1000"], found["mrr"]["value"], "o")
        axis.annotate(name, (found["seconds_per_1000"], found["mrr"]["value"]), fontsize=7)
    axis.set(xlabel="seconds of a core per 1,000 impressions and clicks", ylabel="MRR")
    return _image(figure)


def _lags(results: Results) -> str:
    if not any(found["late"] for found in results.values()):
        return ""
    figure, axis = plt.subplots(figsize=(10, 4))
    for name, found in results.items():
        lags = sorted(found["late"], key=float)
        values = [found["late"][lag]["auc"]["value"] for lag in lags]
        axis.plot(range(len(lags)), [float("nan") if v is None else v for v in values], "o-", label=name)
        axis.set_xticks(range(len(lags)), [f"{float(lag):g} s" for lag in lags])
    axis.set(ylabel="AUC")
    axis.legend(fontsize=8)
    return _image(figure)


def _forgetting(results: Results) -> str:
    known = {name: found["forgetting"] for name, found in results.items() if len(found["forgetting"]) > 1}
    if not known:
        return ""
    figure, axes = plt.subplots(1, len(known), figsize=(2.4 * len(known), 2.6), squeeze=False)
    for axis, (name, matrix) in zip(axes[0], known.items(), strict=True):
        size = len(matrix)
        square = [
            [row[j] if j < len(row) and row[j] is not None else float("nan") for j in range(size)] for row in matrix
        ]
        axis.imshow(square, vmin=0.5, vmax=1.0)
        axis.set_title(name, fontsize=8)
    return _image(figure)


def _calibration(results: Results) -> str:
    figure, axis = plt.subplots(figsize=(6, 6))
    axis.plot([1e-4, 1], [1e-4, 1], color="#bbb")
    for name, found in results.items():
        bins = [entry for entry in found["calibration_bins"] if entry[1] > 0]
        axis.loglog([entry[0] for entry in bins], [entry[1] for entry in bins], "o-", label=name)
    axis.set(xlabel="predicted", ylabel="true")
    axis.legend(fontsize=8)
    return _image(figure)


def _scores(results: Results) -> str:
    name, found = next(iter(results.items()))
    figure, axis = plt.subplots(figsize=(8, 3))
    for kind, counts in found["scores"].items():
        total = max(1, sum(counts))
        axis.step(range(-8, 4), [count / total for count in counts], where="mid", label=kind)
    axis.set(xlabel="log-odds", ylabel="share", title=name)
    axis.legend(fontsize=8)
    return _image(figure)


def _shopper(results: Results) -> str:
    known = {name: found["shopper"] for name, found in results.items() if found.get("shopper")}
    if not known:
        return ""
    figure, axes = plt.subplots(1, len(known), figsize=(2.6 * len(known), 4), squeeze=False)
    for axis, (name, one) in zip(axes[0], known.items(), strict=True):
        before, after = _places(one["before"]), _places(one["after"])
        for k, clicked in enumerate(one["clicked"]):
            width, colour = (2.5, "#c33") if clicked else (0.8, "#999")
            axis.plot([0, 1], [before[k], after[k]], color=colour, linewidth=width)
        axis.invert_yaxis()
        axis.set_xticks([0, 1], ["before", "after"])
        axis.set_title(name, fontsize=8)
    return _image(figure)


def _places(scores: list[float]) -> list[int]:
    """Place of each item when they are ordered by score, ties as shown.

    >>> _places([0.1, 0.9])
    [2, 1]
    """
    order = sorted(range(len(scores)), key=lambda k: -scores[k])
    return [order.index(k) + 1 for k in range(len(scores))]


def _slices(results: Results) -> str:
    head = ("way", "slice", "lists", "MRR", "95 %", "AUC", "list AUC", "log-loss")
    rows = [f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"]
    for way, found in results.items():
        for name, each in found["slices"].items():
            if "auc" not in each:
                continue
            mrr = each["mrr"]
            values = (_text(each[figure]["value"]) for figure in ("auc", "group_auc", "log_loss"))
            interval = f"{_text(mrr['lower'])} to {_text(mrr['upper'])}"
            cells = (way, name, each["lists"], _text(mrr["value"]), interval, *values)
            rows.append(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in cells)}</tr>")
    return f"<h2>By slice</h2><table>{''.join(rows)}</table>"


def _image(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.tight_layout()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _text(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)
