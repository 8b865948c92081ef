"""The chart: what it renders is committed, closed, restricted, and says nothing the services do not know."""

import shutil
from pathlib import Path

import pytest
import yaml

from docs.generate import SERVICES, settings_of, shared_fields
from services.online.registry import with_defaults
from tests.deploy.manifests import CHART, base, containers, named, parse, pods, render, variables

FEAST = set(with_defaults({}))
"""Variables of feature_store.yaml."""


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


def test_the_publisher_finds_triton_s_pods_in_its_own_namespace() -> None:
    objects = parse(render("--namespace", "shop", release="winter"))
    container = dict(pods(objects))["publisher"]["containers"][0]
    names = [entry["name"] for entry in container["env"]]
    address = variables(objects, container)["FRESHRANK_PUBLISHER_TRITON"]
    assert address == "kubernetes:$(FRESHRANK_PUBLISHER_NAMESPACE)/winter-triton:8001"
    assert names.index("FRESHRANK_PUBLISHER_NAMESPACE") < names.index("FRESHRANK_PUBLISHER_TRITON")
    assert named(objects, "Service", "winter-triton")["spec"]["clusterIP"] == "None"


def test_names_carry_the_release() -> None:
    names = [o["metadata"]["name"] for o in parse(render(release="winter"))]
    assert [name for name in names if not name.startswith("winter")] == []


def test_two_releases_select_only_their_own_pods() -> None:
    selector = named(parse(render(release="winter")), "StatefulSet", "winter-ingest")["spec"]["selector"]["matchLabels"]
    assert selector["app.kubernetes.io/instance"] == "winter"


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


def test_large_numbers_reach_the_services_as_they_were_written(tmp_path: Path) -> None:
    given = {"services": {"ingest": {"settings": {"duplicate_ids": 2_000_000, "tick_slack_ms": 0, "ticks": "log"}}}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(given | {"jobs": {"ttlSecondsAfterFinished": 2_000_000}}))
    objects = parse(render("-f", str(tmp_path / "values.yaml")))
    found = variables(objects, dict(pods(objects))["ingest"]["containers"][0])
    assert found["FRESHRANK_INGEST_DUPLICATE_IDS"] == "2000000"
    assert found["FRESHRANK_INGEST_TICK_SLACK_MS"] == "0"
    assert found["FRESHRANK_INGEST_TICKS"] == "log"
    assert {o["spec"]["ttlSecondsAfterFinished"] for o in objects if o["kind"] == "Job"} == {2_000_000}


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
