"""The values: what is wrong is refused with its path, what is there is explained."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from docs.chart import comments
from tests.deploy.manifests import CHART, render, values

WRONG: dict[str, tuple[Any, ...]] = {
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
    "a mount that says written before it is": ("store.s3.mountOptions", ["writeback"]),
    "a volume of two kinds": ("store.s3.existingSecret", "bucket", 'store.existingClaim="here"'),
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
    "a digest that is none": ("services.gateway.image.digest", "sha256:latest"),
    "a size below nothing": ("store.size", "-5Gi"),
    "a quantity with a comma": ("services.trainer.resources.limits", {"memory": "1,5Gi"}),
    "GPUs without their number": ("gpu.count", None, "gpu.enabled=true"),
    "no GPU of each": ("gpu.count", 0),
    "two ways to scale": ("services.gateway.autoscaling.type", "hpa,keda"),
    "a switch for each way to scale": ("services.gateway.autoscaling.keda", {"enabled": True}),
    "more pods than partitions": ("services.features.autoscaling.max", 5, 'services.features.autoscaling.type="keda"'),
    "more pods at least than at most": (
        "services.gateway.autoscaling.min",
        9,
        'services.gateway.autoscaling.type="hpa"',
    ),
    "a trainer that scales": ("services.trainer.autoscaling.type", "hpa"),
    "everything scales": ("defaults.autoscaling.type", "keda"),
    "Triton by keda without Prometheus": ("triton.autoscaling.prometheus", "", 'triton.autoscaling.type="keda"'),
    "a budget that forbids everything": ("defaults.podDisruptionBudget.maxUnavailable", 0),
    "a budget that keeps all": ("services.gateway.podDisruptionBudget.minAvailable", 2),
    "a budget of all in percent": ("services.gateway.podDisruptionBudget.minAvailable", "100%"),
    "TLS without a Secret": ("tls.gateway.existingSecret", "", "tls.gateway.enabled=true"),
    "cert-manager without an issuer": ("tls.certManager.issuerRef.name", "", "tls.certManager.enabled=true"),
    "an issuer of another kind": ("tls.certManager.issuerRef.kind", "Vault"),
    "a user without a password": ("kafka.sasl.existingSecret", "", 'kafka.sasl.username="shop"'),
    "a policy's port out of range": ("networkPolicy.to.redis.ports", [70000]),
    "a peer of an unknown form": ("networkPolicy.from.clients", [{"pods": {}}]),
    "Kafka behind a closed port": ("networkPolicy.to.kafka.ports", [9093]),
    "an arm called main": ("arms.main", {"slots": "cd"}),
    "an arm without slots": ("arms.towers.slots", None, 'arms.towers.settings={"seed": 2}'),
    "an arm with the slots of main": ("arms.towers.slots", "bc"),
    "a schedule that is none": ("maintenance.schedule", "nightly"),
    "a retrain of an unknown arm": ("maintenance.of", "towers", "maintenance.enabled=true"),
    "a retrain of an arm into itself": ("maintenance.arm", "main", "maintenance.enabled=true"),
    "an import from nowhere": ("jobs.import.existingClaim", "", "jobs.import.enabled=true"),
    "partitions that are there already": ("jobs.reshard.partitions", 4, "jobs.reshard.enabled=true"),
    "a reshard to nothing": ("jobs.reshard.partitions", 0, "jobs.reshard.enabled=true"),
    "definitions from git by ssh": ("featureRepo.git.repository", "git@example.org:shop.git"),
    "definitions from two places": ("featureRepo", {"configMap": "a", "files": {"views.py": ""}}),
    "copies that cannot be": ("strimzi.minInSyncReplicas", 4, "strimzi.enabled=true"),
    "no process": ("distributed.processes", 0),
    "an object store": ("store.type", "s3"),
    "an unknown spread": (
        "defaults.topologySpread",
        [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "Maybe"}],
    ),
    "an interval without a unit": ("metrics.serviceMonitor.interval", "15"),
}
"""Key, value, and what else is set for it to be wrong."""


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_value_is_refused_with_its_path(what: str) -> None:
    path, value, *others = WRONG[what]
    given = [f"{path}={json.dumps(value)}", *others]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render(*(word for setting in given for word in ("--set-json", setting)))
    *parents, last = path.split(".")
    assert f"at '{''.join(f'/{parent}' for parent in parents)}" in caught.value.stderr
    assert last in caught.value.stderr


def test_the_schema_is_closed_everywhere() -> None:
    assert [path for path, part in parts(schema()) if "properties" in part and open_object(path, part)] == []


def open_object(path: str, part: dict[str, Any]) -> bool:
    narrowing = {"allOf", "if", "then"} & set(path.split("/"))  # closed by its neighbour, which is refined here
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


def test_every_value_is_explained_where_it_is_first_set() -> None:
    text = (CHART / "values.yaml").read_text()
    explained = {path for path, _ in comments(text)}
    assert [
        path for path in leaves(values()) if not path.startswith("services.") and not covered(path, explained)
    ] == []


def leaves(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}".lstrip("."))
    else:
        yield path


def covered(path: str, explained: set[str]) -> bool:
    """Is it explained, or a part of what is?"""
    words = path.split(".")
    return any(".".join(words[:n]) in explained for n in range(1, len(words) + 1))


def test_every_value_of_a_service_is_one_of_the_defaults() -> None:
    known = set(values()["defaults"])
    assert {key for own in values()["services"].values() for key in own} - known == set()


def test_the_schema_knows_every_value() -> None:
    assert set(yaml.safe_load((CHART / "values.yaml").read_text())) - set(schema()["properties"]) == set()
