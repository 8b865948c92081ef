"""What is watched: metrics that panels and rules name exist, alerts fire when they should and have their sections."""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from docs.dashboards import COLUMNS
from docs.generate import SERVICES, metrics_of
from docs.panels import DASHBOARDS
from services.cli.app import build
from services.demo.cache import default_folder
from services.demo.tools import Tools
from tests.deploy.manifests import CHART, ROOT, Object, base, named, parse, render
from tests.pipeline.loop import Loop

RULES = sorted((CHART / "rules").glob("*.yaml"))
CASES: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("alerts.yaml").read_text())
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
ON = ("--set", ",".join(f"metrics.{part}.enabled=true" for part in ("serviceMonitor", "dashboards", "rules")))

METRIC = re.compile(r"\b(?:freshrank|nv)_[a-z_]+\b|\bup\b(?=\{)")
SELECTOR = re.compile(r"\b((?:freshrank|nv)_[a-z_]+)\{([^}]*)\}")
LABEL = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
OF_TARGETS = {"namespace", "release", "pod", "component", "part_of", "le"}
"""Labels that Prometheus and the ServiceMonitors add, or that buckets have."""
OF_TEXTS = "freshrank_trainer_text_"
"""Metrics of a process of its own, which `tests/trainer/text/test_text_service.py` scrapes."""
UNITS = {"s", "short", "percentunit", "reqps", "cps", "bytes", "Bps", "none"}


def alerts() -> list[Object]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL of panels and rules, by where it stands."""
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            for query in panel.promql:
                yield f"{dashboard.name}: {panel.title}", query
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield f"{path.name}: {rule.get('alert', rule.get('record'))}", rule["expr"]


@cache
def declared() -> dict[str, set[str]]:
    """Labels of every metric of ours by its name in an expression."""
    found: dict[str, set[str]] = {}
    for service in SERVICES:
        for name, kind, labels, _ in metrics_of(service):
            suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            for suffix in suffixes:
                found[f"freshrank_{service}_{name}{suffix}"] = set(labels.split(", ")) - {""}
    return found


def test_every_metric_of_ours_is_one_that_a_service_declares() -> None:
    known = declared()
    wrong = [f"{at}: {n}" for at, e in expressions() for n in METRIC.findall(e) if n[:3] != "nv_" and n != "up"
             and n not in known]  # fmt: skip
    assert wrong == []


def test_every_label_is_one_that_its_metric_has() -> None:
    known = declared()
    wrong = [
        f"{at}: {name} has no {label}"
        for at, expression in expressions()
        for name, matchers in SELECTOR.findall(expression)
        for label in LABEL.findall(matchers)
        if name in known and label not in known[name] | OF_TARGETS
    ]
    assert wrong == []


def test_each_dashboard_says_what_is_good_and_fits_its_grid() -> None:
    for dashboard in DASHBOARDS:
        page = json.loads((CHART / "dashboards" / f"{dashboard.name}.json").read_text())
        taken: set[tuple[int, int]] = set()
        assert len({panel["id"] for panel in page["panels"]}) == len(page["panels"])
        for panel in page["panels"]:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in
                     range(place["y"], place["y"] + place["h"])}  # fmt: skip
            assert place["x"] + place["w"] <= COLUMNS, panel["title"]
            assert not cells & taken, panel["title"]
            taken |= cells
            if panel["type"] != "row":
                assert len(panel["description"]) > 20, panel["title"]
                assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]


def test_the_alerts_that_panels_name_exist() -> None:
    text = " ".join(panel.good for dashboard in DASHBOARDS for panel in dashboard.panels)
    assert set(re.findall(r"Freshrank[A-Z]\w+", text)) <= {rule["alert"] for rule in alerts()}


def test_nothing_is_watched_until_it_is_asked_for() -> None:
    assert {o["kind"] for o in base()} & {"ServiceMonitor", "PrometheusRule"} == set()


def test_every_service_and_triton_are_scraped_at_the_port_of_their_metrics() -> None:
    objects = parse(render(*ON, release="winter"))
    monitors = [o["spec"] for o in objects if o["kind"] == "ServiceMonitor"]
    services = [o for o in objects if o["kind"] == "Service"]
    scraped = {}
    for spec in monitors:
        (wanted,) = spec["selector"]["matchExpressions"]
        for service in services:
            labels = service["metadata"]["labels"]
            meant = (labels[wanted["key"]] in wanted["values"]) == (wanted["operator"] == "In")
            (endpoint,) = spec["endpoints"]
            ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
            if meant and spec["selector"]["matchLabels"].items() <= labels.items() and endpoint["port"] in ports:
                scraped[labels["app.kubernetes.io/component"]] = ports[endpoint["port"]]
    assert scraped == dict.fromkeys(SERVICES, 8080) | {"triton": 8002}


def test_dashboards_and_rules_are_rendered_as_they_are_written() -> None:
    objects = parse(render(*ON, "--set", "metrics.rules.labels.team=shop", release="winter"))
    for dashboard in DASHBOARDS:
        made = named(objects, "ConfigMap", f"winter-dashboard-{dashboard.name}")
        written = CHART / "dashboards" / f"{dashboard.name}.json"
        assert json.loads(made["data"][written.name]) == json.loads(written.read_text())
        assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    for path in RULES:
        made = named(objects, "PrometheusRule", f"winter-{path.stem}")
        assert made["spec"] == yaml.safe_load(path.read_text())
        assert made["metadata"]["labels"]["team"] == "shop"


def sections() -> dict[str, str]:
    """Text of the runbook by heading."""
    _, *parts = re.split(r"^### ", RUNBOOK, flags=re.MULTILINE)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(rule: Object) -> None:
    name, notes = rule["alert"], rule["annotations"]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert notes["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    for part in ("**Shoppers**", "**Look**", "**Causes**", "**Mend**", "**Over**"):
        assert part in sections()[name], part
    shown = set(re.findall(r"\$labels\.(\w+)", notes["summary"]))
    assert shown <= set(re.findall(r"\w+", rule["expr"])) | {"stage", "topic", "component", "pod"}


def test_the_runbook_has_no_section_without_an_alert() -> None:
    assert [name for name in sections() if name.startswith("Freshrank") and name not in CASES] == []


def test_the_commands_of_the_runbook_exist() -> None:
    import typer.main

    tree = typer.main.get_command(build())
    lines = [line for block in re.findall(r"```\n(.*?)```", RUNBOOK, re.DOTALL) for line in block.splitlines()]
    lines += re.findall(r"`((?:freshrank|kubectl|helm) [^`]+)`", RUNBOOK)
    assert len(lines) > 20
    for line in lines:
        words = shlex.split(line, comments=True)
        if words and words[0] == "freshrank":
            command, rest = tree, words[1:]
            while rest and getattr(command, "commands", None):
                assert rest[0] in command.commands, line
                command, rest = command.commands[rest[0]], rest[1:]
            options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            assert {w for w in rest if w.startswith("--")} <= options, line
        elif words:
            assert words[0] in ("kubectl", "helm", "redis-cli"), line


def promtool(*arguments: str) -> None:
    built = default_folder(os.environ) / "go" / "bin" / "promtool"
    program = str(built) if built.exists() else shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool here; `make cluster-tools` builds it where there is Go")
    ended = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.cluster
def test_rules_and_queries_are_what_prometheus_reads(tmp_path: Path) -> None:
    queries = [
        {"record": "a:panel", "expr": query.replace("$__rate_interval", "5m"), "labels": {"at": at}}
        for at, query in expressions()
    ]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": queries}]}))
    promtool("check", "rules", "--lint=none", str(tmp_path / "panels.yaml"), *map(str, RULES))


def test_every_alert_is_tried() -> None:
    assert set(CASES) == {rule["alert"] for rule in alerts()}


@pytest.mark.cluster
@pytest.mark.parametrize("way", ["fires", "silent"])
def test_alerts_fire_when_they_should_and_only_then(way: str, tmp_path: Path) -> None:
    tests = [tried(name, case[way], case.get("at", 40), way == "fires") for name, case in CASES.items()]
    test = {"rule_files": list(map(str, RULES)), "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", str(tmp_path / "alerts.yaml"))


def tried(name: str, series: Mapping[str, str], minute: int, fires: bool) -> Object:
    """A promtool test: exactly this alert fires at that minute, or none does."""
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1}] if fires else []
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minute}m",
                "exp_samples": expected,
            }
        ],
    }


@pytest.mark.cluster
def test_an_alert_names_the_installation_that_it_is_about(tmp_path: Path) -> None:
    case = CASES["FreshrankNoLeader"]
    ways = {"fires": "ill", "silent": "well"}
    series = {placed(one, ways[way]): values for way in ways for one, values in case[way].items()}
    test = tried("FreshrankNoLeader", series, 40, True)
    (looked,) = test["promql_expr_test"]
    looked["expr"] = looked["expr"].replace("(alertname)", "(alertname, namespace)")
    looked["exp_samples"][0]["labels"] = '{alertname="FreshrankNoLeader", namespace="ill"}'
    written = {"rule_files": list(map(str, RULES)), "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(written))
    promtool("test", "rules", str(tmp_path / "alerts.yaml"))


LEADS = 'freshrank_publisher_state{state="leader",pod="%s",component="%s"}'
ARMS = {
    "freshrank_gateway_table_items": "400x40",
    'up{part_of="freshrank",component="trainer-towers",pod="t"}': "1x40",
    'up{part_of="freshrank",component="trainer",pod="m"}': "1x40",
}


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("leads", "missed"),
    [
        pytest.param({"publisher": "1x40", "publisher-towers": "1x40"}, None, id="both lead"),
        pytest.param({"publisher": "1x40", "publisher-towers": "0x40"}, "publisher-towers", id="the arm's does not"),
        pytest.param({"publisher": "1x40"}, "publisher-towers", id="the arm's is away"),
        pytest.param({"publisher": "0x40", "publisher-towers": "1x40"}, "", id="that of main does not"),
    ],
)
def test_an_arm_without_a_leader_is_named(tmp_path: Path, leads: Mapping[str, str], missed: str | None) -> None:
    series = ARMS | {LEADS % (component, component): values for component, values in leads.items()}
    test = tried("FreshrankNoLeader", series, 40, missed is not None)
    (looked,) = test["promql_expr_test"]
    looked["expr"] = looked["expr"].replace("(alertname)", "(alertname, component)")
    if missed:
        looked["exp_samples"][0]["labels"] = f'{{alertname="FreshrankNoLeader", component="{missed}"}}'
    written = {"rule_files": list(map(str, RULES)), "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(written))
    promtool("test", "rules", str(tmp_path / "alerts.yaml"))


def placed(series: str, namespace: str) -> str:
    """The series with a namespace."""
    name, _, labels = series.removesuffix("}").partition("{")
    return f'{name}{{namespace="{namespace}"{"," if labels else ""}{labels}}}'


@pytest.mark.pipeline
async def test_every_metric_that_is_watched_is_in_a_live_scrape(tools: Tools, tmp_path: Path) -> None:
    loop = Loop(tmp_path, tools, partitions=1)
    await asyncio.to_thread(loop.start)
    try:
        await loop.serving()
        urls = [*loop.plan.urls.values(), f"http://{loop.stack.triton.metrics_address}"]
        found = [await asyncio.to_thread(scraped, f"{url}/metrics") for url in urls]
    finally:
        await asyncio.to_thread(loop.stop)
    names = {name for page in found for name in page}
    watched = {name for _, expression in expressions() for name in METRIC.findall(expression)} - {"up"}
    assert len(watched) > 60
    assert sorted(name for name in watched - names if not name.startswith(OF_TEXTS)) == []


def scraped(url: str) -> set[str]:
    """Names of all series that a page has, or would have once something is counted."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    names = {sample.name for family in families for sample in family.samples}
    kinds = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total", ""), "gauge": ("",)}
    return names | {family.name + suffix for family in families for suffix in kinds.get(family.type, ("",))}
