"""Every rendered object is one that the Kubernetes API knows, field by field."""

import json

import pytest
from kubernetes import client

from tests.deploy.manifests import Object, base

KINDS = {
    "ConfigMap": "V1ConfigMap",
    "CronJob": "V1CronJob",
    "Deployment": "V1Deployment",
    "HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler",
    "Job": "V1Job",
    "NetworkPolicy": "V1NetworkPolicy",
    "PersistentVolumeClaim": "V1PersistentVolumeClaim",
    "Pod": "V1Pod",
    "PodDisruptionBudget": "V1PodDisruptionBudget",
    "Role": "V1Role",
    "RoleBinding": "V1RoleBinding",
    "Service": "V1Service",
    "ServiceAccount": "V1ServiceAccount",
    "StatefulSet": "V1StatefulSet",
    "StorageClass": "V1StorageClass",
}
OF_OPERATORS = {
    "Certificate": "cert-manager.io/v1",
    "Kafka": "kafka.strimzi.io/v1",
    "KafkaNodePool": "kafka.strimzi.io/v1",
    "KafkaTopic": "kafka.strimzi.io/v1",
    "KafkaUser": "kafka.strimzi.io/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "ScaledObject": "keda.sh/v1alpha1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "TrainJob": "trainer.kubeflow.org/v1alpha1",
    "TrainingRuntime": "trainer.kubeflow.org/v1alpha1",
    "TriggerAuthentication": "keda.sh/v1alpha1",
}
"""What an operator has to be there for; the API server tells what is in them."""


def understood(thing: Object) -> Object:
    """The object as the client's models hold it: a field they do not know is gone, a missing one is refused."""
    api = client.ApiClient()
    model = api.deserialize(json.dumps(thing), KINDS[thing["kind"]], "application/json")
    found: Object = api.sanitize_for_serialization(model)
    return found


@pytest.mark.parametrize("thing", base(), ids=[f"{o['kind']}/{o['metadata']['name']}" for o in base()])
def test_every_field_is_one_of_the_api(thing: Object) -> None:
    assert understood(thing) == thing


def test_a_misspelt_field_is_found() -> None:
    thing = next(o for o in base() if o["kind"] == "Deployment")
    thing["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    assert understood(thing) != thing
