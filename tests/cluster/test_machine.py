"""A chart whose parts do not fit together is noticed before anything starts."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.cluster.machine import ChartFault, Command, Machine
from tests.deploy.manifests import ROOT, Object, base, named

SECRETS = {"freshrank-redis": {"url": "redis://127.0.0.1:7000"}, "freshrank-tokens": {"keys": "1:00"}}


def machine(objects: list[Object], folder: Path, secrets: Mapping[str, Mapping[str, str]] = SECRETS) -> Machine:
    image = {"/srv/freshrank/feature_repo": ROOT / "feature_repo"}
    return Machine(objects, folder, secrets, image, outside={"kafka:9092": "127.0.0.1:7001"})


def started(made: Machine, component: str) -> Command:
    pod = next(pod for pod in made.pods if pod.component == component)
    return made.command(pod, pod.main)


def test_the_names_of_a_cluster_become_those_of_this_machine(tmp_path: Path) -> None:
    made = machine(base(), tmp_path)
    triton = next(pod for pod in made.pods if pod.component == "triton")
    gateway = started(made, "gateway").environment
    assert gateway["FRESHRANK_GATEWAY_TRITON"] == f"dns:///{triton.address}:8001"
    assert gateway["FRESHRANK_GATEWAY_TABLE_DIR"] == str(
        tmp_path / "pods" / "freshrank-gateway-0" / "scratch" / "table"
    )
    assert gateway["FRESHRANK_STORE"] == str(tmp_path / "claims" / "freshrank-store")
    assert gateway["FRESHRANK_HTTP_HOST"].startswith("127.")
    assert gateway["FRESHRANK_BOOTSTRAP"] == "127.0.0.1:7001"
    assert gateway["FRESHRANK_REDIS_URL"] == "redis://127.0.0.1:7000"
    assert f"--model-repository={tmp_path}/claims/freshrank-store/triton" in started(made, "triton").argv


def test_two_pods_of_a_workload_have_addresses_and_scratch_of_their_own(tmp_path: Path) -> None:
    made = machine(base(), tmp_path)
    first, second = (made.command(pod, pod.main).environment for pod in made.pods if pod.component == "gateway")
    for name in ("FRESHRANK_HTTP_HOST", "FRESHRANK_GATEWAY_TABLE_DIR"):
        assert first[name] != second[name]
    assert first["FRESHRANK_STORE"] == second["FRESHRANK_STORE"]


def test_several_pods_behind_a_name_are_all_asked(tmp_path: Path) -> None:
    objects = base()
    named(objects, "StatefulSet", "freshrank-triton")["spec"]["replicas"] = 2
    made = machine(objects, tmp_path)
    places = [f"{pod.address}:8001" for pod in made.pods if pod.component == "triton"]
    assert started(made, "gateway").environment["FRESHRANK_GATEWAY_TRITON"] == f"ipv4:{','.join(places)}"


def test_a_secret_that_changes_is_seen_in_its_volume_at_once(tmp_path: Path) -> None:
    objects, given = base(), {**SECRETS, "shop-tls": {"ca.crt": "one", "tls.crt": "mine"}}
    for thing in objects:
        if thing["kind"] == "StatefulSet" and thing["metadata"]["name"] == "freshrank-ingest":
            spec = thing["spec"]["template"]["spec"]
            spec["volumes"].append({"name": "tls", "secret": {"secretName": "shop-tls"}})
            spec["containers"][0]["volumeMounts"].append({"name": "tls", "mountPath": "/srv/freshrank/tls"})
    made = machine(objects, tmp_path, given)
    (pod,) = [pod for pod in made.pods if pod.component == "ingest"]
    folder = made.mounts(pod, pod.main)["/srv/freshrank/tls"]
    version = (folder / "..data").resolve()
    assert made.mounts(pod, pod.main)["/srv/freshrank/tls"] == folder
    assert (folder / "..data").resolve() == version
    made.change("shop-tls", {"ca.crt": "two", "tls.crt": "mine"})
    assert (folder / "..data").resolve() != version
    assert [(folder / name).read_text() for name in ("ca.crt", "tls.crt")] == ["two", "mine"]


def test_a_path_that_nothing_is_mounted_at_cannot_be_written_to(tmp_path: Path) -> None:
    objects = base()
    named(objects, "StatefulSet", "freshrank-ingest")["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = []
    store = started(machine(objects, tmp_path), "ingest").environment["FRESHRANK_STORE"]
    with pytest.raises(NotADirectoryError):
        Path(store).mkdir(parents=True)


def test_pods_named_one_by_one_are_found_and_an_api_server_is_asked_for_them(tmp_path: Path) -> None:
    objects = base()
    for thing in objects:
        if thing["metadata"]["name"] == "freshrank-gateway" and "template" in thing["spec"]:
            env = thing["spec"]["template"]["spec"]["containers"][0]["env"]
            env.append({"name": "ONE", "value": "freshrank-triton-0.freshrank-triton:8001"})
            env.append({"name": "ASKED", "value": "kubernetes:shop/freshrank-triton:8001"})
    made = machine(objects, tmp_path)
    triton = next(pod for pod in made.pods if pod.component == "triton")
    found = started(made, "gateway").environment
    assert found["ONE"] == f"{triton.address}:8001"
    assert found["ASKED"] == "kubernetes:shop/freshrank-triton:8001"


def other_port(objects: list[Object]) -> None:
    named(objects, "Service", "freshrank-triton")["spec"]["ports"][1]["port"] = 9001


def other_name_of_a_port(objects: list[Object]) -> None:
    named(objects, "Service", "freshrank-triton")["spec"]["ports"][1]["targetPort"] = "inference"


def other_label(objects: list[Object]) -> None:
    named(objects, "Service", "freshrank-triton")["spec"]["selector"]["app.kubernetes.io/component"] = "server"


def other_claim(objects: list[Object]) -> None:
    named(objects, "PersistentVolumeClaim", "freshrank-store")["metadata"]["name"] = "store"


def other_settings(objects: list[Object]) -> None:
    named(objects, "ConfigMap", "freshrank-settings")["metadata"]["name"] = "settings"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (other_port, "the Service freshrank-triton has no port 8001"),
        (other_name_of_a_port, "triton has no port inference"),
        (other_label, "the Service freshrank-triton selects no pod"),
        (other_claim, "there is no claim freshrank-store"),
        (other_settings, "there is no configMap freshrank-settings"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, spoil: Callable[[list[Object]], None], said: str) -> None:
    objects = base()
    spoil(objects)
    with pytest.raises(ChartFault, match=said):
        started(machine(objects, tmp_path), "gateway")


def test_a_secret_without_the_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChartFault, match="freshrank-redis has no key url"):
        started(machine(base(), tmp_path, {**SECRETS, "freshrank-redis": {"address": "x"}}), "gateway")
