"""A release on a real API server: installed, upgraded, rolled back and taken away, for every example of the chart."""

import json

import pytest

from tests.cluster.api import Object, eventually
from tests.cluster.cluster import Cluster
from tests.cluster.examples import EXAMPLES, config_maps, options, secrets
from tests.deploy.manifests import CHART

pytestmark = pytest.mark.cluster

WAIT = ["--wait", "--wait-for-jobs", "--timeout", "120s"]
OF_EVERY_NAMESPACE = {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}
PASSING = {"Event", "Pod", "ReplicaSet", "ControllerRevision", "EndpointSlice", "Endpoints", "Lease"}
"""Made by controllers, and cleared by them a little later."""

Identity = tuple[str, str]


def left(cluster: Cluster, namespace: str, passing: bool = False) -> set[Identity]:
    """Kind and name of all objects in the namespace, of every kind that the server has."""
    found = set()
    for resource in cluster.api.resources():
        if resource.namespaced and {"list", "delete"} <= resource.verbs:
            for thing in cluster.api.items(resource.path(namespace)):
                found.add((resource.kind, thing["metadata"]["name"]))
    return {one for one in found - OF_EVERY_NAMESPACE if passing or one[0] not in PASSING}


def unowned(cluster: Cluster) -> set[Identity]:
    """Objects of this chart that are in no namespace."""
    listed = [r for r in cluster.api.resources() if not r.namespaced and {"list", "delete"} <= r.verbs]
    label = "app.kubernetes.io/part-of=freshrank"
    return {(r.kind, o["metadata"]["name"]) for r in listed for o in cluster.api.items(r.path(), labelSelector=label)}


def settings(cluster: Cluster, namespace: str) -> Object:
    found: Object = cluster.api.get(f"/api/v1/namespaces/{namespace}/configmaps/shop-settings")["data"]
    return found


def revision(cluster: Cluster, namespace: str) -> tuple[int, str]:
    """Number and state of the newest one."""
    (found,) = json.loads(cluster.helm("list", "-a", "-n", namespace, "-o", "json").stdout)
    return int(found["revision"]), found["status"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_release_comes_changes_goes_back_and_leaves(cluster: Cluster, example: str) -> None:
    with cluster.namespace() as namespace:
        brought = secrets(example)
        cluster.give(namespace, brought)
        cluster.give(namespace, config_maps(example), kind="ConfigMap")
        before = left(cluster, namespace)
        where = ["-n", namespace]

        cluster.helm("install", "shop", str(CHART), *where, *options(example), *WAIT)
        first = settings(cluster, namespace)
        cluster.helm("upgrade", "shop", str(CHART), *where, *options(example), "--set", "logLevel=DEBUG", *WAIT)
        assert settings(cluster, namespace) == first | {"FRESHRANK_LOG_LEVEL": "DEBUG"}
        cluster.helm("rollback", "shop", "1", *where, *WAIT)
        assert settings(cluster, namespace) == first
        assert revision(cluster, namespace) == (3, "deployed")

        cluster.helm("uninstall", "shop", *where, "--wait", "--cascade", "foreground")
        kept = {("PersistentVolumeClaim", "shop-store")} & left(cluster, namespace)
        assert left(cluster, namespace) - before == kept
        eventually(lambda: left(cluster, namespace, passing=True) - before - kept <= events(cluster, namespace))
        assert unowned(cluster) == set()


def events(cluster: Cluster, namespace: str) -> set[Identity]:
    """What the cluster noted down; it stays for an hour, as it should."""
    return {one for one in left(cluster, namespace, passing=True) if one[0] == "Event"}


def test_the_store_outlives_the_release_and_is_taken_up_by_the_next(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        cluster.give(namespace, secrets("defaults"))
        claim = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/shop-store"
        cluster.helm("install", "shop", str(CHART), "-n", namespace, *WAIT)
        first = cluster.api.get(claim)["metadata"]["uid"]
        cluster.helm("uninstall", "shop", "-n", namespace, "--wait")
        cluster.helm("install", "shop", str(CHART), "-n", namespace, *WAIT)
        assert cluster.api.get(claim)["metadata"]["uid"] == first


def test_pods_wait_for_the_secrets_that_the_notes_ask_for(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        cluster.helm("install", "shop", str(CHART), "-n", namespace)
        lacking = eventually(lambda: {name.split("-")[1]: lack for name, lack in cluster.node.waiting.items() if lack})
        assert lacking["publisher"] == ["secrets freshrank-redis"]
        cluster.give(namespace, secrets("defaults"))
        cluster.helm("upgrade", "shop", str(CHART), "-n", namespace, *WAIT)


def test_an_upgrade_to_what_is_there_starts_no_pod_anew(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        cluster.give(namespace, secrets("defaults"))
        cluster.helm("install", "shop", str(CHART), "-n", namespace, *WAIT)
        before = servers(cluster, namespace)
        cluster.helm("upgrade", "shop", str(CHART), "-n", namespace, *WAIT)
        assert servers(cluster, namespace) == before


def servers(cluster: Cluster, namespace: str) -> set[str]:
    """Names of the pods that are no jobs."""
    pods = cluster.api.items(f"/api/v1/namespaces/{namespace}/pods")
    return {pod["metadata"]["name"] for pod in pods if pod["spec"]["restartPolicy"] == "Always"}
