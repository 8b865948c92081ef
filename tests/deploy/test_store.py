"""The model store: its claim, a storage class over S3, and the check that `helm test` runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import CHART, ROOT, Object, containers, named, parse, pods, render
from tests.deploy.test_options import chart, of_kind

S3 = ("-f", str(CHART / "examples" / "s3.yaml"))


def classes(*options: str) -> dict[str, Object]:
    return of_kind(parse(render(*S3, *options)), "StorageClass")


def test_a_claim_has_the_class_it_is_told_and_no_class_is_made(tmp_path: Path) -> None:
    objects = chart(tmp_path, store={"storageClass": "shared"})
    assert named(objects, "PersistentVolumeClaim", "freshrank-store")["spec"]["storageClassName"] == "shared"
    assert of_kind(objects, "StorageClass") == {}


def test_a_store_in_s3_is_a_class_of_the_secret_in_the_release_s_namespace() -> None:
    ((name, found),) = classes("--namespace", "shop").items()
    claim = named(parse(render(*S3, "--namespace", "shop")), "PersistentVolumeClaim", "freshrank-store")
    assert claim["spec"]["storageClassName"] == name
    assert found["parameters"] == {
        f"csi.storage.k8s.io/{step}-secret-{key}": value
        for step in ("provisioner", "node-publish", "controller-expand")
        for key, value in (("name", "freshrank-store"), ("namespace", "shop"))
    }
    assert (found["reclaimPolicy"], found["mountOptions"]) == ("Retain", ["entry-cache=0"])


def test_classes_of_two_namespaces_have_two_names() -> None:
    assert classes("--namespace", "shop").keys() != classes("--namespace", "trial").keys()


def test_no_pod_is_given_the_keys_of_s3() -> None:
    for name, spec in pods(parse(render(*S3))):
        assert "freshrank-store'" not in str([spec["containers"], spec.get("initContainers")]), name
        assert {v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v} & {"freshrank-store"} == set()


def test_a_store_in_s3_that_is_mounted_again_comes_into_running_pods() -> None:
    for options, propagation in ((S3, "HostToContainer"), ((), None)):
        found = [
            mount.get("mountPropagation")
            for _, spec in pods(parse(render(*options)))
            for one in containers(spec)
            for mount in one["volumeMounts"]
            if mount["name"] == "store"
        ]
        assert len(found) >= 8
        assert set(found) == {propagation}


def test_the_check_is_two_pods_where_several_can_mount_the_volume_and_one_elsewhere(tmp_path: Path) -> None:
    both = job(parse(render()))
    assert (both["parallelism"], both["completions"]) == (2, 2)
    one = job(chart(tmp_path, store={"accessModes": ["ReadWriteOnce"]}))
    assert (one["parallelism"], one["completions"]) == (1, 1)
    assert "--beside" not in container(one)["command"]
    assert "freshrank-test-store" not in of_kind(chart(tmp_path, store={"check": False}), "Job")


def test_the_check_s_command_passes_in_two_pods_on_one_store(tmp_path: Path) -> None:
    """The kubelet puts the job's own label in the place of $(CHECK); both pods of a job have the same."""
    command = [word.replace("$(CHECK)", "uid-1") for word in container(job(parse(render())))["command"]]
    env = os.environ | {"FRESHRANK_STORE": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, *command[1:]], cwd=ROOT, env=env) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert list(tmp_path.iterdir()) == []


def job(objects: list[Object]) -> Object:
    spec: Object = named(objects, "Job", "freshrank-test-store")["spec"]
    return spec


def container(spec: Object) -> dict[str, Any]:
    found: dict[str, Any] = spec["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("learns", ["trainer", "train"])
def test_the_keys_of_archives_are_with_those_who_write_and_read_archives(tmp_path: Path, learns: str) -> None:
    seal = {"seal": {"enabled": True, "existingClaim": "keys"}}
    together = {"enabled": learns == "train"}
    objects = chart(tmp_path, store=seal, maintenance={"enabled": True}, distributed=together)
    mounts: dict[str, list[Object]] = {}
    for name, spec in pods(objects):
        mounts[name] = [mount for one in containers(spec) for mount in one["volumeMounts"] if mount["name"] == "keys"]
        claim = {"name": "keys", "persistentVolumeClaim": {"claimName": "keys"}}
        assert (claim in spec["volumes"]) == bool(mounts[name])
    there = [{"name": "keys", "mountPath": "/srv/freshrank/store/keys"}]
    assert {name: found for name, found in mounts.items() if found} == dict.fromkeys(
        ("features", learns, "maintenance"), there
    )
    assert named(objects, "ConfigMap", "freshrank-settings")["data"]["FRESHRANK_SEAL"] == "true"


def test_archives_are_plain_unless_they_are_wished_sealed(tmp_path: Path) -> None:
    assert "FRESHRANK_SEAL" not in named(chart(tmp_path), "ConfigMap", "freshrank-settings")["data"]
