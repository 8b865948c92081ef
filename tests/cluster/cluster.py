"""What a test of the cluster is given: an API server with a node, the kinds of the usual operators, and helm.

cluster.helm("install", "shop", chart, "--wait")
with cluster.namespace() as namespace: cluster.api.create(thing, namespace)
"""

import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.cluster.api import Api, Object, eventually
from tests.cluster.node import Node
from tests.deploy.manifests import tool

STRIMZI = ("Kafka", "KafkaNodePool", "KafkaTopic", "KafkaUser")


@dataclass
class Cluster:
    """One for all tests of a run; each takes a namespace of its own."""

    kubeconfig: Path
    api: Api
    node: Node

    def helm(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run helm against this cluster; nothing of the user's own helm is read."""
        home = self.kubeconfig.parent / "helm"
        places = {f"HELM_{name}_HOME": str(home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        environment = os.environ | places | {"KUBECONFIG": str(self.kubeconfig)}
        ended = subprocess.run([tool("helm"), *words], env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0 or not check, f"{ended.stderr}\nstill waiting: {self.node.waiting}"
        return ended

    @contextmanager
    def namespace(self, labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """A new one, emptied and gone after the block."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        named = {"name": name, "labels": dict(labels or {})}
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": named})
        # Pods are refused until the controller has made their account.
        eventually(lambda: self.api.items(f"/api/v1/namespaces/{name}/serviceaccounts"))
        try:
            yield name
        finally:
            self.api.delete(f"/api/v1/namespaces/{name}")

    def give(self, namespace: str, secrets: Mapping[str, Mapping[str, str]], kind: str = "Secret") -> None:
        """Make Secrets, or ConfigMaps, as a user does before installing."""
        field = "stringData" if kind == "Secret" else "data"
        for name, content in secrets.items():
            self.api.create(
                {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, field: dict(content)}, namespace
            )


def install_kinds(api: Api, folder: Path) -> None:
    """The custom resource definitions of `folder`, and Strimzi's."""
    definitions = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))]
    definitions += [open_definition("kafka.strimzi.io", kind, ["v1", "v1beta2"]) for kind in STRIMZI]
    for definition in definitions:
        api.create(definition)
    root = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    names = {definition["metadata"]["name"] for definition in definitions}
    eventually(lambda: {d["metadata"]["name"] for d in api.items(root) if established(d)} >= names)


def established(definition: Object) -> bool:
    """Whether its kind is served."""
    conditions = definition.get("status", {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def open_definition(group: str, kind: str, versions: list[str]) -> Object:
    """A kind whose fields nobody checks.

    For Strimzi: it is Java, and no registry that the tests use holds its definitions as files. Group, version, kind and
    namespace of its objects are checked, their fields are not.
    """
    plural = f"{kind.lower()}s"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    served = [
        {"name": name, "served": True, "storage": name == versions[0], "schema": schema, "subresources": {"status": {}}}
        for name in versions
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": served,
        },
    }
