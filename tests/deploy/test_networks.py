"""Who reaches whom, worked out from the rendered policies, is what edges.yaml lists."""

from itertools import product
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import CHART, Object, parse, pods, render, values
from tests.deploy.test_options import chart, of_kind

EDGES = [(e["from"], e["to"], e.get("port")) for e in yaml.safe_load((CHART / "edges.yaml").read_text())["edges"]]
EXAMPLES = {"arms": {"arms": {"towers": {"slots": "cd"}}}, "train": {"distributed": {"enabled": True}}, "plain": {}}


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Does a label selector choose a pod with these labels?"""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))


def labels_of(objects: list[Object]) -> dict[str, dict[str, str]]:
    """Of the pods of each component, running or not."""
    names = {name for name, _ in pods(objects)}
    known = {"app.kubernetes.io/name": "freshrank", "app.kubernetes.io/instance": "freshrank"}
    return {name: {**known, "app.kubernetes.io/component": name} for name in names}


def rules(policies: list[Object], labels: dict[str, str], way: str) -> list[Object]:
    chosen = [p["spec"] for p in policies if selects(p["spec"]["podSelector"], labels)]
    return [rule for spec in chosen for rule in spec.get(way, [])]


def allowed(rule: Object, side: str, labels: dict[str, str], port: int) -> bool:
    peers = rule.get(side, [{}])
    numbers = {entry["port"] for entry in rule.get("ports", [])} or {port}
    inside = [
        peer for peer in peers if not peer or selects(peer.get("podSelector", {"matchLabels": {"no": "pod"}}), labels)
    ]
    return bool(inside) and port in numbers


def reachable(objects: list[Object]) -> set[tuple[str, str, int]]:
    policies, labels = list(of_kind(objects, "NetworkPolicy").values()), labels_of(objects)
    found = set()
    for (a, ours), (b, theirs), port in product(labels.items(), labels.items(), ports(objects)):
        out = any(allowed(rule, "to", theirs, port) for rule in rules(policies, ours, "egress") if "to" in rule)
        into = any(allowed(rule, "from", ours, port) for rule in rules(policies, theirs, "ingress"))
        found |= {(a, b, port)} if out and into else set()
    return found


def ports(objects: list[Object]) -> set[int]:
    return {p["containerPort"] for _, s in pods(objects) for c in s["containers"] for p in c.get("ports", [])} | {29500}


@pytest.mark.parametrize("example", EXAMPLES)
def test_inside_only_listed_edges_are_open(tmp_path: Path, example: str) -> None:
    objects = chart(tmp_path, **EXAMPLES[example])
    everyone = labels_of(objects)
    numbers = {"grpc": {"gateway": 50051, "triton": 8001}, "admin": {"gateway": 50052}}
    listed = set()
    for source, target, port in EDGES:
        for a, b in product(of_component(source, everyone), of_component(target, everyone)):
            listed |= {(a, b, numbers[port][target])} if port else {(a, b, n) for n in ports(objects)}
    assert reachable(objects) == listed


def of_component(name: str, everyone: dict[str, dict[str, str]]) -> set[str]:
    """The component, and those of further arms that are called after it."""
    return {
        other for other in everyone if other == name or (other.startswith(f"{name}-") and other.endswith("-towers"))
    }


def test_outside_only_listed_ports_are_open() -> None:
    objects = parse(render())
    policies, to = list(of_kind(objects, "NetworkPolicy").values()), values()["networkPolicy"]["to"]
    for name, labels in labels_of(objects).items():
        outside = [rule for rule in rules(policies, labels, "egress") if "to" not in rule]
        opened = {entry["port"] for rule in outside for entry in rule["ports"]}
        wanted = {
            number for source, target, _ in EDGES if source == name and target in to for number in to[target]["ports"]
        }
        names = {53} if any(source == name for source, _, _ in EDGES) else set()
        assert opened == wanted | names, name


def test_every_pod_is_denied_first() -> None:
    objects = parse(render())
    deny = of_kind(objects, "NetworkPolicy")["freshrank-default-deny"]["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    assert [name for name, labels in labels_of(objects).items() if not selects(deny["podSelector"], labels)] == []


def test_who_is_given_a_secret_may_reach_what_it_is_for() -> None:
    given = {(name, secret) for name, own in values()["services"].items() for secret in (own or {}).get("secrets", [])}
    wanted = {(name, secret) for name, secret in given if secret in ("redis", "registry")}
    listed = {(source, target) for source, target, _ in EDGES if target in ("redis", "registry")}
    assert {(source, target) for source, target in listed if source in values()["services"]} == wanted


def test_peers_outside_can_be_narrowed(tmp_path: Path) -> None:
    peers = [{"ipBlock": {"cidr": "10.20.0.0/16"}}]
    policies = of_kind(chart(tmp_path, networkPolicy={"to": {"kafka": {"peers": peers}}}), "NetworkPolicy")
    assert [r["to"] for r in policies["freshrank-ingest"]["spec"]["egress"] if "to" in r] == [peers]


def test_nobody_comes_in_where_no_peer_is_listed() -> None:
    policies = of_kind(parse(render()), "NetworkPolicy")
    admin = [r for r in policies["freshrank-gateway"]["spec"]["ingress"] if r["ports"][0]["port"] == 50052]
    assert [
        [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in r["from"]] for r in admin
    ] == [["import"]]


def test_without_the_value_there_are_no_policies(tmp_path: Path) -> None:
    assert of_kind(chart(tmp_path, networkPolicy={"enabled": False}), "NetworkPolicy") == {}
