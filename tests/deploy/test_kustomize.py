"""The kustomize folders: each builds, alone and together, and says what the chart says with the same values."""

import subprocess
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from k8s.render import COMPONENTS, K8S, by_name, pages, rendered
from tests.deploy.manifests import Object, base, containers, helm, parse, pods, tool

OVERLAYS = ("local", "gpu", "production")


def build(folder: str) -> list[Object]:
    return parse(built(K8S / folder))


def built(folder: Path) -> str:
    program = tool("kustomize", "kubectl")
    command = [program, "kustomize" if program.endswith("kubectl") else "build", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def identities(objects: list[Object]) -> set[tuple[str, str]]:
    return {(o["kind"], o["metadata"]["name"]) for o in objects}


def test_everything_generated_is_what_the_chart_renders_now() -> None:
    stale = [
        str(path.relative_to(K8S)) for path, text in pages(helm()) if not path.exists() or path.read_text() != text
    ]
    assert stale == [], "run `make render`"


def test_the_base_holds_every_object_of_the_chart() -> None:
    assert identities(build("base")) == identities(base())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_builds_in_its_own_namespace(overlay: str) -> None:
    objects = build(f"overlays/{overlay}")
    names = {o["metadata"].get("namespace") for o in objects if o["kind"] != "Namespace"}
    subjects = {s["namespace"] for o in objects for s in o.get("subjects", [])}
    assert names == subjects == {"freshrank"}
    (namespace,) = [o for o in objects if o["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_denies_what_is_not_listed(overlay: str) -> None:
    assert ("NetworkPolicy", "freshrank-default-deny") in identities(build(f"overlays/{overlay}"))


SETS = [(name,) for name in COMPONENTS] + [*combinations(COMPONENTS, 2), COMPONENTS]


@pytest.mark.parametrize("components", SETS, ids=["+".join(names) for names in SETS])
def test_components_together_are_the_chart_with_their_values(components: tuple[str, ...], tmp_path: Path) -> None:
    folders = {name: K8S / "components" / name for name in components}
    entries = {"resources": ["base"], "components": list(components)}
    for name, folder in {"base": K8S / "base", **folders}.items():
        (tmp_path / name).symlink_to(folder)
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(head | entries))
    wanted = by_name(rendered(helm(), *(folder / "values.yaml" for folder in folders.values())))
    assert comparable(by_name(built(tmp_path))) == comparable(wanted)


def comparable(objects: dict[str, Object]) -> dict[str, Object]:
    """Without the sum of all settings, which each component has its own of; lists with names in order."""
    return {name: ordered(thing) for name, thing in objects.items()}


def ordered(node: object) -> object:
    if isinstance(node, dict):
        return {key: ordered(value) for key, value in node.items() if key != "checksum/settings"}
    if isinstance(node, list):
        entries = [ordered(entry) for entry in node]
        named = all(isinstance(entry, dict) and "name" in entry for entry in entries)
        return sorted(entries, key=lambda entry: str(entry["name"])) if named else entries
    return node


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
        if "secretKeyRef" in entry.get("valueFrom", {})
    }
    assert read == made
