"""A namespace that enforces the restricted standard takes a pod of every template, and none of its weakened copies."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
from kubernetes.client import ApiException

from tests.cluster.cluster import Cluster
from tests.cluster.examples import EXAMPLES, objects
from tests.cluster.test_server_side import built
from tests.deploy.manifests import Object

pytestmark = pytest.mark.cluster

ENFORCED = {"pod-security.kubernetes.io/enforce": "restricted"}


def templates(things: list[Object]) -> Iterator[tuple[str, Object]]:
    """Name and pod template of all that starts pods, of whatever kind and however deep; bare pods too."""
    for thing in things:
        for template in within(thing):
            yield f"{thing['kind']}/{thing['metadata']['name']}", template


def within(node: Any) -> Iterator[Object]:
    if isinstance(node, dict):
        if isinstance(spec := node.get("spec"), dict) and isinstance(spec.get("containers"), list):
            yield node
        for child in node.values():
            yield from within(child)
    elif isinstance(node, list):
        for child in node:
            yield from within(child)


def pod(template: Object) -> Object:
    """A bare pod of a template, under an account and at a priority that every cluster has."""
    spec = {k: v for k, v in template["spec"].items() if k not in ("serviceAccountName", "priorityClassName")}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "bare-"}, "spec": deepcopy(spec)}


def rejection(cluster: Cluster, namespace: str, thing: Object) -> str:
    """What the server has against it; empty when it is taken."""
    try:
        cluster.api.try_out(thing, namespace)
    except ApiException as error:
        return str(error.body)
    return ""


@pytest.fixture(scope="module")
def restricted(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace(ENFORCED) as namespace:
        yield namespace


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_pod_of_every_template_is_taken(cluster: Cluster, restricted: str, example: str) -> None:
    found = dict(templates(objects(example)))
    said = {name: rejection(cluster, restricted, pod(template)) for name, template in found.items()}
    assert len(found) >= 8
    assert {name: words for name, words in said.items() if words} == {}


def test_the_parts_of_a_trial_are_taken(cluster: Cluster, restricted: str) -> None:
    found = dict(templates(built("trial")))
    assert set(found) == {"StatefulSet/kafka", "StatefulSet/redis"}
    said = {name: rejection(cluster, restricted, without_claims(pod(template))) for name, template in found.items()}
    assert {name: words for name, words in said.items() if words} == {}


def without_claims(thing: Object) -> Object:
    """A bare pod has no claims of its own; the folder is there all the same."""
    thing["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}]
    return thing


def of_pod(**fields: object) -> Callable[[Object], None]:
    return lambda spec: spec.update(fields)


def of_container(**fields: object) -> Callable[[Object], None]:
    return lambda spec: spec["containers"][0]["securityContext"].update(fields)


def of_both(**fields: object) -> Callable[[Object], None]:
    """In the pod's context and in no container's."""

    def change(spec: Object) -> None:
        spec["securityContext"] = {**spec["securityContext"], **fields}
        for name in [name for name, value in fields.items() if value is None]:
            del spec["securityContext"][name]

    return change


def host_port(spec: Object) -> None:
    spec["containers"][0]["ports"] = [{"containerPort": 8080, "hostPort": 8080}]


def host_path(spec: Object) -> None:
    spec["volumes"] = [*spec.get("volumes", []), {"name": "host", "hostPath": {"path": "/"}}]


WEAKENED = {
    "runs as root": (of_container(runAsUser=0), "runAsUser=0"),
    "may run as root": (of_both(runAsNonRoot=None), "runAsNonRoot != true"),
    "escalates privileges": (of_container(allowPrivilegeEscalation=True), "allowPrivilegeEscalation != false"),
    "is privileged": (of_container(privileged=True, allowPrivilegeEscalation=True), "privileged"),
    "adds a capability": (
        of_container(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}),
        "unrestricted capabilities",
    ),
    "drops no capability": (of_container(capabilities={}), "unrestricted capabilities"),
    "has no seccomp profile": (of_both(seccompProfile=None), "seccompProfile"),
    "has an unconfined seccomp profile": (of_container(seccompProfile={"type": "Unconfined"}), "seccompProfile"),
    "has an unconfined AppArmor profile": (of_container(appArmorProfile={"type": "Unconfined"}), "AppArmor"),
    "mounts the host's files": (host_path, "hostPath"),
    "is on the host's network": (of_pod(hostNetwork=True), "host namespaces"),
    "sees the host's processes": (of_pod(hostPID=True), "host namespaces"),
    "shares the host's memory": (of_pod(hostIPC=True), "host namespaces"),
    "takes a port of the host": (host_port, "hostPort"),
    "sets a kernel parameter": (of_both(sysctls=[{"name": "kernel.msgmax", "value": "1"}]), "forbidden sysctls"),
}


@pytest.mark.parametrize("what", WEAKENED)
def test_no_pod_of_any_template_is_taken_when_it(cluster: Cluster, restricted: str, what: str) -> None:
    weaken, said = WEAKENED[what]
    for name, template in templates(objects("defaults")):
        weakened = pod(template)
        weaken(weakened["spec"])
        assert said in rejection(cluster, restricted, weakened), name
