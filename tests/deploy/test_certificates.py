"""TLS: who is given which file, from which Secret."""

from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import Object, pods, variables
from tests.deploy.test_options import chart, first, of_kind

PARTS = ("gateway", "kafka", "redis", "triton")
ON: dict[str, Any] = {part: {"enabled": True, "existingSecret": f"{part}-pair"} for part in PARTS}
SPEAKS = {
    "gateway": {"gateway", "kafka", "redis", "triton"},
    "ingest": {"kafka"},
    "features": {"kafka", "redis"},
    "joiner": {"kafka"},
    "trainer": {"kafka"},
    "publisher": {"kafka", "redis", "triton"},
    "triton": {"triton"},
    "create-topics": {"kafka"},
    "apply-features": {"redis"},
    "test": {"gateway"},
    "test-store": set(),
}


def mounted(spec: Object) -> dict[str, set[str]]:
    """Files of each part that a pod is given, by its folder."""
    volumes = {
        v["name"]: v["projected"]["sources"][0]["secret"] for v in spec["volumes"] if v["name"].startswith("tls-")
    }
    folders = {m["name"]: m["mountPath"] for m in spec["containers"][0]["volumeMounts"]}
    assert all(folders[name] == f"/srv/freshrank/tls/{name.removeprefix('tls-')}" for name in volumes)
    return {name.removeprefix("tls-"): {item["path"] for item in secret["items"]} for name, secret in volumes.items()}


def test_each_pod_is_given_the_authorities_of_what_it_talks_to(tmp_path: Path) -> None:
    objects = chart(tmp_path, tls=ON)
    assert {name: set(mounted(spec)) for name, spec in pods(objects)} == SPEAKS


@pytest.mark.parametrize("mutual", [False, True], ids=["one side", "both sides"])
def test_a_client_has_a_key_only_where_both_sides_show_a_certificate(tmp_path: Path, mutual: bool) -> None:
    objects = chart(tmp_path, tls={part: own | {"mutual": mutual} for part, own in ON.items()})
    for name, spec in pods(objects):
        for part, files in mounted(spec).items():
            own = mutual or name == part
            assert files == ({"ca.crt", "tls.crt", "tls.key"} if own else {"ca.crt"}), (name, part)


def test_every_variable_names_a_file_that_is_mounted(tmp_path: Path) -> None:
    objects = chart(tmp_path, tls={part: own | {"mutual": True} for part, own in ON.items()})
    for name, spec in pods(objects):
        given = variables(objects, spec["containers"][0])
        files = {value for value in given.values() if value and value.startswith("/srv/freshrank/tls/")}
        there = {f"/srv/freshrank/tls/{part}/{file}" for part, found in mounted(spec).items() for file in found}
        assert files <= there, name
        assert files == there or name == "triton", name


def test_triton_serves_with_its_certificate(tmp_path: Path) -> None:
    command = first(chart(tmp_path, tls=ON), "triton")["command"]
    assert "--grpc-server-cert=/srv/freshrank/tls/triton/tls.crt" in command
    assert "--grpc-use-ssl-mutual=true" not in command


def test_a_gateway_with_tls_is_asked_by_http_because_the_kubelet_speaks_no_tls_over_grpc(tmp_path: Path) -> None:
    probe = first(chart(tmp_path, tls={"gateway": ON["gateway"]}), "gateway")["readinessProbe"]
    assert probe["httpGet"]["path"] == "/readyz"


def test_cert_manager_makes_what_no_secret_holds(tmp_path: Path) -> None:
    issuer = {"enabled": True, "issuerRef": {"name": "internal"}}
    objects = chart(
        tmp_path,
        tls={part: {"enabled": True} for part in PARTS[1:]} | {"gateway": ON["gateway"], "certManager": issuer},
    )
    made = {o["spec"]["secretName"]: o["spec"] for o in of_kind(objects, "Certificate").values()}
    assert set(made) == {"freshrank-kafka-tls", "freshrank-redis-tls", "freshrank-triton-tls"}
    assert "freshrank-triton" in made["freshrank-triton-tls"]["dnsNames"]
    assert made["freshrank-redis-tls"]["usages"] == ["client auth"]


def test_a_password_is_a_file_from_its_secret(tmp_path: Path) -> None:
    objects = chart(tmp_path, kafka={"sasl": {"username": "shop", "existingSecret": "password"}})
    for name in ("ingest", "create-topics"):
        given = variables(objects, first(objects, name))
        assert given["FRESHRANK_KAFKA_PASSWORD_FILE"] == "/srv/freshrank/kafka/password"
        mounts = [m["mountPath"] for m in first(objects, name)["volumeMounts"]]
        assert "/srv/freshrank/kafka" in mounts
