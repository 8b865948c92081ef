"""What an API server knows of a release whose pods are processes of this machine: accounts, their rights, endpoints."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from tests.cluster.api import Object
from tests.cluster.cluster import Cluster
from tests.cluster.machine import Machine, Pod

ACCOUNTS = ("ServiceAccount", "Role", "RoleBinding")


def publish(cluster: Cluster, namespace: str, objects: Sequence[Object], machine: Machine) -> None:
    """Make the rendered accounts with their rights, and the endpoints of each Service."""
    for thing in objects:
        if thing["kind"] in ACCOUNTS:
            cluster.api.create(thing, namespace)
    for service, pods in machine.endpoints():
        cluster.api.create(_slice(service, pods), namespace)


def _slice(service: Object, pods: Sequence[Pod]) -> Object:
    """Loopback may be nobody's address in Kubernetes, but a name it may be."""
    name = service["metadata"]["name"]
    ports = [{"name": port["name"], "port": pods[0].port(port["targetPort"])} for port in service["spec"]["ports"]]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "FQDN",
        "endpoints": [{"addresses": [pod.address], "conditions": {"ready": True}} for pod in pods],
        "ports": ports,
    }


def credentials(cluster: Cluster, namespace: str, pod: Pod, folder: Path) -> dict[str, str]:
    """The variable by which a pod reaches the server as its own account; none when it is given no token."""
    if not pod.spec.get("automountServiceAccountToken", True):
        return {}
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/{pod.spec['serviceAccountName']}"
    wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = cluster.api.call("POST", f"{account}/token", wanted)["status"]["token"]
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["users"] = [{"name": "admin", "user": {"token": token}}]
    path = folder / f"kubeconfig-{pod.name}"
    path.write_text(yaml.safe_dump(content))
    return {"KUBECONFIG": str(path)}
