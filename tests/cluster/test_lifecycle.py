"""A release on a real API server: installed, upgraded, rolled back and taken away, for every example of the chart."""

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest

from tests.cluster.api import Object, eventually
from tests.cluster.cluster import Cluster
from tests.cluster.examples import EXAMPLES, brought, objects, options
from tests.deploy.manifests import CHART

pytestmark = pytest.mark.cluster

WAIT = ["--wait", "--wait-for-jobs", "--timeout", "120s"]
OF_EVERY_NAMESPACE = {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}
NOTES = {"Event", "Endpoints", "Lease"}
"""The cluster's own, beside an installation."""
AT_ONCE = 3
"""Releases that live side by side, each in a namespace of its own."""
KEEP = ("helm.sh/resource-policy", "keep")

Identity = tuple[str, str]


def left(cluster: Cluster, namespace: str) -> set[Identity]:
    """Kind and name of all objects in the namespace, of every kind that the server has; what another object owns goes
    with that."""
    listed = [
        r for r in cluster.api.resources() if r.namespaced and {"list", "delete"} <= r.verbs and r.kind not in NOTES
    ]
    found = [(r.kind, thing["metadata"]) for r in listed for thing in cluster.api.items(r.path(namespace))]
    return {(kind, meta["name"]) for kind, meta in found if "ownerReferences" not in meta} - OF_EVERY_NAMESPACE


def kept(example: str) -> set[Identity]:
    """What the chart says stays."""
    things = objects(example, release="shop")
    return {
        (thing["kind"], thing["metadata"]["name"])
        for thing in things
        if KEEP in thing["metadata"].get("annotations", {}).items()
    }


def settled(found: Callable[[], set[Identity]], seconds: float = 20.0) -> set[Identity]:
    """What is still there when that much time has passed, or nothing as soon as it is so."""
    with contextlib.suppress(AssertionError):
        eventually(lambda: not found(), seconds, 0.5)
    return found()


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


@pytest.fixture(scope="module")
def lives(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """The life of every example that is asked for, some at a time: most of each is waiting."""
    asking = [
        item for item in request.session.items if isinstance(item, pytest.Function) and "lives" in item.fixturenames
    ]
    chosen = [item.callspec.params["example"] for item in asking if hasattr(item, "callspec")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {example: pool.submit(life, cluster, example) for example in chosen}


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_release_comes_changes_goes_back_and_leaves(lives: dict[str, Future[None]], example: str) -> None:
    lives[example].result()


def test_nothing_of_any_release_is_left_outside_its_namespace(cluster: Cluster, lives: dict[str, Future[None]]) -> None:
    wait(lives.values())
    assert unowned(cluster) == set()


def life(cluster: Cluster, example: str) -> None:
    """From its installation to its end, looked at each time."""
    with cluster.namespace() as namespace:
        cluster.give(namespace, brought(example))
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
        staying = kept(example)
        assert settled(lambda: left(cluster, namespace) - before - staying) == set()
        assert staying <= left(cluster, namespace)
        assert {name for _, name in unowned(cluster) if namespace in name} == set()


def test_the_store_outlives_the_release_and_is_taken_up_by_the_next(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        cluster.give(namespace, brought("defaults"))
        claim = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/shop-store"
        cluster.helm("install", "shop", str(CHART), "-n", namespace, *WAIT)
        first = cluster.api.get(claim)["metadata"]["uid"]
        cluster.helm("uninstall", "shop", "-n", namespace, "--wait")
        cluster.helm("install", "shop", str(CHART), "-n", namespace, *WAIT)
        assert cluster.api.get(claim)["metadata"]["uid"] == first


def test_pods_wait_for_the_secrets_that_the_notes_ask_for(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        cluster.helm("install", "shop", str(CHART), "-n", namespace)
        lacking = eventually(lambda: lacks(cluster, "publisher"))
        assert lacking == ["secrets freshrank-redis"]
        cluster.give(namespace, brought("defaults"))
        cluster.helm("upgrade", "shop", str(CHART), "-n", namespace, *WAIT)


def lacks(cluster: Cluster, component: str) -> list[str]:
    """What the component's pod waits for, but the volume, which comes by itself."""
    found = [lack for name, lack in dict(cluster.node.waiting).items() if name.startswith(f"shop-{component}")]
    return [what for lack in found for what in lack if not what.startswith("persistentvolumeclaims")]


def test_an_upgrade_to_what_is_there_starts_no_pod_anew(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        cluster.give(namespace, brought("defaults"))
        cluster.helm("install", "shop", str(CHART), "-n", namespace, *WAIT)
        before = servers(cluster, namespace)
        cluster.helm("upgrade", "shop", str(CHART), "-n", namespace, *WAIT)
        assert servers(cluster, namespace) == before


def servers(cluster: Cluster, namespace: str) -> set[str]:
    """Names of the pods that are no jobs."""
    pods = cluster.api.items(f"/api/v1/namespaces/{namespace}/pods")
    return {pod["metadata"]["name"] for pod in pods if pod["spec"]["restartPolicy"] == "Always"}
