"""Grafana dashboards made of short tables: `docs.panels` says what is shown, this module how.

A dashboard is a list of sections, a section a list of panels, and a panel a title, queries, a unit, what is good and
what to do when it is not. In a query `$s` stands for the labels that choose one installation, and `[$w]` for Grafana's
own window of rates.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS = 24
"""Of Grafana's grid."""
SIZES = {"stat": (4, 4), "timeseries": (8, 8)}
"""Width and height of each kind of panel."""
SELECTED = 'namespace=~"$namespace",release=~"$release"'
"""What `$s` stands for; both variables match everything while nothing is chosen."""
WINDOW = "$__rate_interval"
RUNBOOK = "docs/runbook.md"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    queries: tuple[tuple[str, str], ...]
    """Legend and PromQL of each line; the legend names labels as `{{label}}`."""
    unit: str
    """One of Grafana's: s, short, percentunit, reqps, ops, bytes, cps, none."""
    good: str
    """What is good, and what to do when it is not."""
    bound: float | None = None
    """Beyond it the panel turns red."""
    least: bool = False
    """The bound is the least that is good, not the most."""
    kind: str = "timeseries"

    @property
    def promql(self) -> tuple[str, ...]:
        """The queries as Grafana sends them."""
        return tuple(q.replace("$s", SELECTED).replace("$w", WINDOW) for _, q in self.queries)


@dataclass(frozen=True)
class Dashboard:
    """One page: sections of panels by their headings."""

    name: str
    title: str
    about: str
    sections: tuple[tuple[str, tuple[Panel, ...]], ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of them, from top to bottom."""
        return tuple(panel for _, panels in self.sections for panel in panels)


def page(dashboard: Dashboard) -> str:
    """The dashboard as Grafana imports it, a line for each panel."""
    head = {
        "uid": f"freshrank-{dashboard.name}",
        "title": f"Freshrank: {dashboard.title}",
        "description": dashboard.about,
        "tags": ["freshrank"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "links": [_others()],
        "templating": {"list": [_source(), _chosen("namespace"), _chosen("release")]},
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    panels = ",\n".join(f"  {json.dumps(panel)}" for panel in _placed(dashboard))
    return "{\n" + ",\n".join(lines) + ',\n"panels": [\n' + panels + "\n]\n}\n"


def _placed(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    number = y = 0
    for heading, panels in dashboard.sections:
        number += 1
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": heading, "collapsed": False, "panels": [], "gridPos": place}
        y += 1
        x = height = 0
        for panel in panels:
            width, own = SIZES[panel.kind]
            if x + width > COLUMNS:
                x, y = 0, y + height
            number, height = number + 1, own
            yield _panel(panel, number, {"x": x, "y": y, "w": width, "h": own})
            x += width
        y += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.good,
        "datasource": _SOURCE,
        "gridPos": place,
        "targets": list(_targets(panel)),
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
    }


def _targets(panel: Panel) -> Iterator[dict[str, Any]]:
    for index, ((legend, _), query) in enumerate(zip(panel.queries, panel.promql, strict=True)):
        yield {
            "refId": chr(ord("A") + index),
            "expr": query,
            "legendFormat": legend,
            "datasource": _SOURCE,
            "instant": panel.kind == "stat",
            "range": panel.kind != "stat",
        }


def _defaults(panel: Panel) -> dict[str, Any]:
    good, bad = ("red", "green") if panel.least else ("green", "red")
    steps: list[dict[str, Any]] = [{"color": good, "value": None}]
    steps += [] if panel.bound is None else [{"color": bad, "value": panel.bound}]
    found = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}, "noValue": "nothing yet"}
    if panel.kind == "stat":
        return found | {"color": {"mode": "thresholds" if panel.bound is not None else "fixed", "fixedColor": "text"}}
    style = {"thresholdsStyle": {"mode": "off" if panel.bound is None else "dashed"}}
    drawn = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 5, "showPoints": "never", "spanNulls": False}
    return found | {"color": {"mode": "palette-classic"}, "custom": drawn | style}


_OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
}


def _source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source", "refresh": 1}


def _chosen(label: str) -> dict[str, Any]:
    query = f"label_values(freshrank_gateway_table_items, {label})"
    return {
        "name": label,
        "type": "query",
        "label": label.capitalize(),
        "datasource": _SOURCE,
        "query": {"query": query, "refId": label},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": False,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }


def _others() -> dict[str, Any]:
    return {
        "type": "dashboards",
        "title": "Freshrank",
        "tags": ["freshrank"],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
    }


def quantile(q: float, metric: str, *by: str, match: str = "") -> str:
    """A quantile of a distribution over all pods.

    >>> quantile(0.5, "a_seconds", "what")
    'histogram_quantile(0.5, sum by (le, what) (rate(a_seconds_bucket{$s}[$w])))'
    """
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{_joined(match)}}}[$w])))"


def per_second(metric: str, *by: str, match: str = "") -> str:
    """A counter's speed, summed over all pods.

    >>> per_second("a_total", match='code="OK"')
    'sum(rate(a_total{$s,code="OK"}[$w]))'
    """
    return f"sum{_by(by)}(rate({metric}{{{_joined(match)}}}[$w]))"


def counted(metric: str, window: str, *by: str, match: str = "") -> str:
    """How often in a window, summed over all pods."""
    return f"sum{_by(by)}(increase({metric}{{{_joined(match)}}}[{window}]))"


def level(function: str, metric: str, *by: str, match: str = "") -> str:
    """A gauge over all pods: sum, max, min or avg."""
    return f"{function}{_by(by)}({metric}{{{_joined(match)}}})"


def share(part: str, whole: str) -> str:
    """One speed over another; nothing where nothing happened."""
    return f"{part} / ({whole} > 0)"


def shares(parts: str, whole: str) -> str:
    """The same for a speed that is split by labels."""
    return f"{parts} / on() group_left() ({whole} > 0)"


def some(part: str) -> str:
    """Zero until the first: a label value that never came has no line."""
    return f"({part} or vector(0))"


def _joined(match: str) -> str:
    return f"$s,{match}" if match else "$s"


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""
