"""Feature definitions: where they come from, and what an upgrade and a rollback do with them."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cluster.machine import Machine
from tests.deploy.manifests import Object, parse, pods, render, variables
from tests.deploy.test_options import chart, of_kind

APPLY = ["python", "-m", "services.cli", "features", "apply"]
PLAN = ["python", "-m", "services.cli", "features", "plan", "--fail-on-destructive"]


def hook(objects: list[Object], event: str) -> Object:
    (found,) = [
        o["spec"]["template"]["spec"]
        for o in objects
        if o["kind"] == "Job" and o["metadata"].get("annotations", {}).get("helm.sh/hook") == event
    ]
    spec: Object = found
    return spec


def commands(spec: Object) -> list[list[str]]:
    return [c["command"] for c in [*spec.get("initContainers", []), *spec["containers"]]]


def test_an_upgrade_looks_before_it_applies() -> None:
    assert commands(hook(parse(render()), "pre-upgrade")) == [PLAN, APPLY]


def test_a_rollback_applies_what_was(tmp_path: Path) -> None:
    assert commands(hook(parse(render()), "pre-rollback")) == [APPLY]


def test_what_is_lost_may_be_allowed(tmp_path: Path) -> None:
    objects = chart(tmp_path, featureRepo={"allowDestructive": True})
    assert commands(hook(objects, "pre-upgrade")) == [APPLY]


def test_only_the_first_revision_applies_beside_the_services() -> None:
    assert "apply-features" in {o["metadata"]["labels"]["app.kubernetes.io/component"] for o in plain(parse(render()))}
    assert plain(parse(render("--is-upgrade"))) == []


def plain(objects: list[Object]) -> list[Object]:
    jobs = of_kind(objects, "Job").values()
    return [o for o in jobs if "annotations" not in o["metadata"] and "apply-features" in o["metadata"]["name"]]


def test_a_hook_needs_nothing_that_its_own_revision_brings() -> None:
    for event in ("pre-upgrade", "pre-rollback"):
        spec = hook(parse(render()), event)
        assert [c["name"] for c in spec["containers"] if "envFrom" in c] == []
        assert variables([], spec["containers"][0])["FRESHRANK_STORE"] == "/srv/freshrank/store"


IDENTITY = ("-c", "user.name=shop", "-c", "user.email=shop@example.org")
SOURCES = {
    "files": {"files": {"views.py": "# views"}},
    "configMap": {"configMap": "definitions-7"},
    "git": {"git": {"repository": "https://git.example.org/shop.git", "revision": "v7", "path": "features/repo"}},
}


@pytest.mark.parametrize("source", SOURCES)
def test_definitions_lie_where_the_job_looks(tmp_path: Path, source: str) -> None:
    objects = chart(tmp_path, featureRepo=SOURCES[source])
    for spec in (
        hook(objects, "pre-upgrade"),
        hook(objects, "pre-rollback"),
        dict(pods(plain(objects)))["apply-features"],
    ):
        for container in spec["containers"]:
            folder = Path(variables(objects, container)["FRESHRANK_FEATURE_REPO"])
            mounts = {Path(m["mountPath"]) for m in container["volumeMounts"] if m["name"] in ("feature-repo", "git")}
            assert any(folder.is_relative_to(mount) for mount in mounts)


def test_files_of_a_revision_are_there_before_it_is(tmp_path: Path) -> None:
    maps = of_kind(chart(tmp_path, featureRepo=SOURCES["files"]), "ConfigMap")
    own, early = maps["freshrank-feature-repo"], maps["freshrank-feature-repo-hook"]
    assert own["data"] == early["data"] == {"views.py": "# views"}
    assert early["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade,pre-rollback"
    assert int(early["metadata"]["annotations"]["helm.sh/hook-weight"]) < 0


def test_git_is_fetched_before_anything_reads_it(tmp_path: Path) -> None:
    spec = hook(chart(tmp_path, featureRepo=SOURCES["git"]), "pre-upgrade")
    assert [c["name"] for c in spec["initContainers"]] == ["fetch", "plan"]
    assert spec["initContainers"][0]["command"][:4] == ["git", "clone", "--depth=1", "--branch=v7"]


def test_what_is_fetched_from_git_is_what_the_job_reads(tmp_path: Path) -> None:
    """By the rendered command; git itself is told that the address is a folder here."""
    (tmp_path / "shop.git/features/repo").mkdir(parents=True)
    (tmp_path / "shop.git/features/repo/views.py").write_text("# of v7")
    for words in ("init -q", "add .", "commit -q -m views", "tag v7"):
        subprocess.run(["git", *IDENTITY, *words.split()], cwd=tmp_path / "shop.git", check=True)
    objects = chart(tmp_path, featureRepo=SOURCES["git"])
    secrets = {"freshrank-redis": {"url": "redis://127.0.0.1:1"}}
    made = Machine(objects, tmp_path / "run", secrets, {}, outside={"kafka:9092": "127.0.0.1:1"})
    job = of_kind(objects, "Job")["freshrank-features-before-upgrade"]
    pod = made.pod("hook", job["spec"]["template"])
    fetch, plan = (made.command(pod, container) for container in pod.spec["initContainers"])
    here = {"KEY": f"url.{tmp_path}/.insteadOf", "VALUE": "https://git.example.org/"}
    told = {"GIT_CONFIG_COUNT": "1", **{f"GIT_CONFIG_{name}_0": value for name, value in here.items()}}
    subprocess.run(fetch.argv, env=os.environ | fetch.environment | told, check=True)
    for command in (plan, made.command(pod, pod.main)):
        assert (Path(command.environment["FRESHRANK_FEATURE_REPO"]) / "views.py").read_text() == "# of v7"


def test_services_take_the_feature_store_s_file_from_the_same_place(tmp_path: Path) -> None:
    spec = dict(pods(chart(tmp_path, featureRepo=SOURCES["configMap"])))["gateway"]
    assert {"name": "feature-repo", "configMap": {"name": "definitions-7"}} in spec["volumes"]
