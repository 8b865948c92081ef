"""Every rendered object of every example is one that a real API server takes, unknown fields refused."""

import subprocess

import pytest
from kubernetes.client import ApiException

from tests.cluster.cluster import Cluster
from tests.cluster.examples import EXAMPLES, objects
from tests.deploy.manifests import ROOT, Object, base, parse, tool

pytestmark = pytest.mark.cluster

OVERLAYS = sorted(f"overlays/{path.parent.name}" for path in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml"))


def refused(cluster: Cluster, things: list[Object]) -> dict[str, str]:
    """What the server says of the objects that it does not take."""
    found = {}
    with cluster.namespace() as namespace:
        for thing in things:
            try:
                cluster.api.try_out(thing, namespace)
            except (ApiException, LookupError) as error:
                found[f"{thing['kind']}/{thing['metadata']['name']}"] = getattr(error, "body", None) or str(error)
    return found


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_object_of_an_example_is_taken(cluster: Cluster, example: str) -> None:
    things = [thing for thing in objects(example) if thing["kind"] != "Pod"]
    assert len(things) > 10
    assert refused(cluster, things) == {}


def test_every_object_of_the_base_is_taken(cluster: Cluster) -> None:
    assert refused(cluster, base()) == {}


@pytest.mark.parametrize("folder", [*OVERLAYS, "trial"])
def test_every_object_of_an_overlay_is_taken(cluster: Cluster, folder: str) -> None:
    assert refused(cluster, built(folder)) == {}


def built(folder: str) -> list[Object]:
    """What kustomize makes of a folder of k8s."""
    command = [tool("kustomize"), "build", str(ROOT / "k8s" / folder)]
    return parse(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        pytest.param(
            "Deployment", ("spec", "template", "spec", "restartPolicies"), "Always", "unknown field", id="no field"
        ),
        pytest.param("Deployment", ("spec", "strategy", "type"), "Sudden", "Unsupported value", id="no such value"),
        pytest.param("Service", ("spec", "ports", 0, "port"), 70000, "must be between", id="no port"),
        pytest.param(
            "ConfigMap", ("data", "FRESHRANK_PARTITIONS"), 4, "cannot unmarshal number", id="a number as text"
        ),
        pytest.param("StatefulSet", ("metadata", "name"), "Shop_1", "Invalid value", id="no name"),
    ],
)
def test_a_wrong_object_is_refused(
    cluster: Cluster, kind: str, path: tuple[str | int, ...], value: object, said: str
) -> None:
    thing = next(thing for thing in base() if thing["kind"] == kind)
    *parents, last = path
    place = thing
    for step in parents:
        place = place[step]  # type: ignore[index]
    place[last] = value  # type: ignore[index]
    (answer,) = refused(cluster, [thing]).values()
    assert said in answer


def test_a_kind_that_no_operator_brought_is_refused(cluster: Cluster) -> None:
    thing = {"apiVersion": "kafka.strimzi.io/v1", "kind": "KafkaMirror", "metadata": {"name": "shop"}}
    assert refused(cluster, [thing]) == {"KafkaMirror/shop": "no kind KafkaMirror in kafka.strimzi.io/v1"}
