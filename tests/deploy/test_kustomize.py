"""The kustomize folders: each builds, and an overlay changes what it says it does."""

import subprocess

from tests.deploy.manifests import ROOT, Object, base, containers, parse, pods, tool


def build(folder: str) -> list[Object]:
    program = tool("kustomize", "kubectl")
    command = [program, "kustomize" if program.endswith("kubectl") else "build", str(ROOT / "k8s" / folder)]
    return parse(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def identities(objects: list[Object]) -> set[tuple[str, str]]:
    return {(o["kind"], o["metadata"]["name"]) for o in objects}


def test_the_base_holds_every_object_of_the_chart() -> None:
    assert identities(build("base")) == identities(base())


def test_the_local_overlay_fits_one_node() -> None:
    objects = build("overlays/local")
    (claim,) = [o for o in objects if o["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert {o["spec"]["replicas"] for o in objects if o["kind"] == "Deployment"} == {1}


def test_the_local_overlay_names_one_tag_of_every_image() -> None:
    images = [c["image"] for _, spec in pods(build("overlays/local")) for c in containers(spec)]
    assert [image for image in images if not image.endswith(":local")] == []


def test_the_local_overlay_makes_the_secrets_that_its_pods_read() -> None:
    objects = build("overlays/local")
    made = {o["metadata"]["name"] for o in objects if o["kind"] == "Secret"}
    read = {
        entry["valueFrom"]["secretKeyRef"]["name"]
        for _, spec in pods(objects)
        for entry in spec["containers"][0].get("env", [])
        if "valueFrom" in entry
    }
    assert read == made
