"""The chart: what it renders is committed, closed, restricted, and says nothing the services do not know."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.generate import SERVICES, settings_of, shared_fields
from services.online.registry import with_defaults
from tests.deploy.manifests import BASE, CHART, base, containers, named, parse, pods, render, variables

FEAST = set(with_defaults({}))
"""Variables of feature_store.yaml."""


def test_the_committed_base_is_what_the_chart_renders() -> None:
    assert render() == BASE.read_text(), "run `make render`"


def test_every_service_is_started_by_its_module() -> None:
    commands = {name: spec["containers"][0]["command"] for name, spec in pods(base()) if name in SERVICES}
    assert commands == {name: ["python", "-m", f"services.{name}"] for name in SERVICES}


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_of_a_service_is_one_of_its_settings(service: str) -> None:
    objects = base()
    spec = dict(pods(objects))[service]
    own = {f"FRESHRANK_{service.upper()}_{name.upper()}" for name in settings_of(service).model_fields}
    shared = {f"FRESHRANK_{name.upper()}" for s in SERVICES for name in settings_of(s).model_fields}
    given = set(variables(objects, spec["containers"][0]))
    assert given - own - shared - FEAST == set()


@pytest.mark.parametrize("service", SERVICES)
def test_the_settings_of_the_chart_are_valid(service: str) -> None:
    objects = base()
    given = variables(objects, dict(pods(objects))[service]["containers"][0])
    fields = settings_of(service).model_fields
    prefixes = (f"FRESHRANK_{service.upper()}_", "FRESHRANK_")
    found = {
        name: given[f"{p}{name.upper()}"] for p in prefixes[::-1] for name in fields if given.get(f"{p}{name.upper()}")
    }
    settings = settings_of(service)(**found)
    assert str(settings.http_port) == given["FRESHRANK_HTTP_PORT"]


def test_jobs_are_given_only_what_all_services_share() -> None:
    objects = base()
    shared = {f"FRESHRANK_{name.upper()}" for name in shared_fields()}
    for name, spec in pods(objects):
        if name not in (*SERVICES, "triton"):
            assert set(variables(objects, spec["containers"][0])) - shared - FEAST == set()


def test_service_links_are_off_because_their_variables_would_be_read_as_settings() -> None:
    assert [name for name, spec in pods(base()) if spec["enableServiceLinks"] is not False] == []


def test_every_pod_meets_the_restricted_standard() -> None:
    for name, spec in pods(base()):
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"], name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_every_container_has_requests_and_a_memory_limit() -> None:
    for name, spec in pods(base()):
        for container in containers(spec):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name


def test_secrets_are_referred_to_and_never_made() -> None:
    objects = base()
    assert [o["kind"] for o in objects if o["kind"] == "Secret"] == []
    secret = ("PASSWORD", "KEYS", "TOKEN", "REDIS_URL", "REGISTRY")
    plain = [
        f"{name}: {variable}"
        for name, spec in pods(objects)
        for variable, value in variables(objects, spec["containers"][0]).items()
        if variable.endswith(secret) and value is not None
    ]
    assert plain == []


@pytest.mark.parametrize("service", SERVICES)
def test_probes_ask_what_the_service_answers(service: str) -> None:
    container = dict(pods(base()))[service]["containers"][0]
    assert container["startupProbe"]["httpGet"]["path"] == "/livez"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    if service == "gateway":
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert container["readinessProbe"]["grpc"] == {"port": ports["grpc"]}
    else:
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_the_publisher_knows_every_triton_pod_by_name() -> None:
    objects = parse(render("--set", "triton.replicas=3"))
    triton = named(objects, "StatefulSet", "freshrank-triton")
    address = variables(objects, dict(pods(objects))["publisher"]["containers"][0])["FRESHRANK_PUBLISHER_TRITON"]
    host = triton["spec"]["serviceName"]
    assert address == ",".join(f"freshrank-triton-{n}.{host}:8001" for n in range(3))


def test_names_carry_the_release() -> None:
    names = [o["metadata"]["name"] for o in parse(render(release="winter"))]
    assert [name for name in names if not name.startswith("winter")] == []


def test_two_releases_select_only_their_own_pods() -> None:
    selector = named(parse(render(release="winter")), "Deployment", "winter-ingest")["spec"]["selector"]["matchLabels"]
    assert selector["app.kubernetes.io/instance"] == "winter"


def test_one_value_gives_the_trainer_a_gpu() -> None:
    specs = dict(pods(parse(render("--set", "gpu.enabled=true"))))
    with_gpu = [n for n, s in specs.items() if "nvidia.com/gpu" in s["containers"][0]["resources"]["limits"]]
    assert with_gpu == ["trainer"]
    assert specs["trainer"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_an_existing_claim_is_used_instead_of_a_new_one() -> None:
    objects = parse(render("--set", "store.existingClaim=shared"))
    assert [o for o in objects if o["kind"] == "PersistentVolumeClaim"] == []
    claims = {
        v["persistentVolumeClaim"]["claimName"]
        for _, s in pods(objects)
        for v in s["volumes"]
        if "persistentVolumeClaim" in v
    }
    assert claims == {"shared"}


def test_a_feature_repository_can_come_from_a_config_map() -> None:
    specs = dict(pods(parse(render("--set", "featureRepo.configMap=definitions"))))
    mounts = {m["name"]: m["mountPath"] for m in specs["apply-features"]["containers"][0]["volumeMounts"]}
    assert mounts["feature-repo"] == "/srv/freshrank/feature_repo"


def test_large_numbers_reach_the_services_as_they_were_written(tmp_path: Path) -> None:
    given = {"services": {"ingest": {"settings": {"duplicate_ids": 2_000_000, "tick_slack_ms": 0, "ticks": "log"}}}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(given | {"jobs": {"ttlSecondsAfterFinished": 2_000_000}}))
    objects = parse(render("-f", str(tmp_path / "values.yaml")))
    found = variables(objects, dict(pods(objects))["ingest"]["containers"][0])
    assert found["FRESHRANK_INGEST_DUPLICATE_IDS"] == "2000000"
    assert found["FRESHRANK_INGEST_TICK_SLACK_MS"] == "0"
    assert found["FRESHRANK_INGEST_TICKS"] == "log"
    assert {o["spec"]["ttlSecondsAfterFinished"] for o in objects if o["kind"] == "Job"} == {2_000_000}


WRONG = {
    "a misspelt key": ("gatewy", {}),
    "a misspelt service": ("services.trainr", {}),
    "a misspelt key of a service": ("services.ingest.replicaCount", 2),
    "replicas as text": ("services.ingest.replicas", "two"),
    "a negative number of replicas": ("services.gateway.replicas", -1),
    "two trainers": ("services.trainer.replicas", 2),
    "a trainer beside its successor": ("services.trainer.strategy", "RollingUpdate"),
    "two publishers": ("services.publisher.replicas", 2),
    "no address of Kafka": ("kafka.bootstrap", ""),
    "an address without a port": ("kafka.bootstrap", "kafka"),
    "no partitions": ("kafka.partitions", 0),
    "no copies": ("kafka.replicationFactor", 0),
    "no secret with Redis's address": ("redis.existingSecret", ""),
    "a password in the values": ("redis.password", "x"),
    "no secret with token keys": ("tokens.existingSecret", ""),
    "an unknown access mode": ("store.accessModes", ["ReadOnlyMany"]),
    "a size without a number": ("store.size", "big"),
    "an unknown log level": ("logLevel", "LOUD"),
    "a collector with a scheme": ("otlpEndpoint", "http://collector:4317"),
    "an unknown secret": ("services.joiner.secrets", ["password"]),
    "a nested setting": ("services.ingest.settings", {"bots": {"per_minute": 1}}),
    "a setting in capitals": ("services.ingest.settings", {"TICK_MS": 1}),
    "a port out of range": ("services.gateway.ports", {"grpc": 70000, "admin": 1}),
    "a gateway without its port": ("services.gateway.ports", {"admin": None}),
    "an unknown port": ("services.gateway.ports", {"http": 8080}),
    "no Triton": ("triton.replicas", 0),
    "an unknown pull policy": ("image.pullPolicy", "Sometimes"),
    "resources of an unknown kind": ("defaults.resources", {"reserve": {}}),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_value_is_refused_with_its_path(what: str) -> None:
    path, value = WRONG[what]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render("--set-json", f"{path}={json.dumps(value)}")
    *parents, last = path.split(".")
    assert f"at '{''.join(f'/{parent}' for parent in parents)}" in caught.value.stderr
    assert last in caught.value.stderr


def test_the_schema_is_closed_everywhere() -> None:
    assert [path for path, part in parts(schema()) if "properties" in part and open_object(path, part)] == []


def open_object(path: str, part: dict[str, Any]) -> bool:
    narrowing = "allOf" in path  # closed by its neighbour, which is refined here
    return not narrowing and part.get("additionalProperties") is not False


def parts(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from parts(value, f"{path}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from parts(value, f"{path}/{index}")


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return loaded


def test_the_notes_name_the_commands_that_come_next(tmp_path: Path) -> None:
    # helm prints notes only beside a cluster, so they are rendered here as the content of a file.
    chart = shutil.copytree(CHART, tmp_path / "chart")
    shutil.copy(chart / "templates" / "NOTES.txt", chart)
    (chart / "templates" / "shown.yaml").write_text('notes: {{ tpl (.Files.Get "NOTES.txt") . | toJson }}')
    shown = render("-s", "templates/shown.yaml", release="winter", chart=chart)
    (notes,) = (document["notes"] for document in parse(shown))
    assert "create secret generic freshrank-redis" in notes
    assert "port-forward deploy/winter-gateway 50051" in notes
    assert "freshrank.v1.Ranking/Recommend" in notes
    assert "asks for no token" in notes
