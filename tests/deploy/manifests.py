"""What the chart renders to, read for the tests of this folder."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import build

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "freshrank"
BASE = ROOT / "k8s" / "base" / "freshrank.yaml"
KUBE_VERSION = "1.30.0"

Object = dict[str, Any]


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""What libyaml reads is read ten times faster; a wheel of PyYAML brings it."""


def parse(text: str) -> list[Object]:
    return [document for document in yaml.load_all(text, Loader=LOADER) if document]


def base() -> list[Object]:
    """The committed objects: what helm renders with the values of k8s/base, which leave out the policies and hooks."""
    return parse(BASE.read_text())


def values() -> Object:
    loaded: Object = yaml.safe_load((CHART / "values.yaml").read_text())
    return loaded


def helm() -> str:
    """The helm that `make cluster-tools` builds, or one on the path; without either the test is skipped."""
    return tool("helm")


def tool(*names: str) -> str:
    """The first of these programs that is here, built before found on the path; without any the test is skipped."""
    for found in (build.program(name) or shutil.which(name) for name in names):
        if found:
            return str(found)
    pytest.skip(f"no {' or '.join(names)} here; `make cluster-tools` builds them where there is Go")


def render(*options: str, release: str = "freshrank", chart: Path = CHART) -> str:
    """What helm makes of the chart with these options. Raises CalledProcessError with helm's words in `stderr`."""
    files = (Path(option) for option in options if Path(option).suffix == ".yaml")
    return _rendered(options, release, chart, tuple(file.read_text() for file in files if file.exists()))


@cache
def _rendered(options: Sequence[str], release: str, chart: Path, files: Sequence[str]) -> str:
    """Once for all tests; `files` is what stands in the files of values."""
    command = [helm(), "template", release, str(chart), "--kube-version", KUBE_VERSION, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def pods(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Component and pod spec of every workload."""
    for thing in objects:
        if (template := pod_template(thing)) is not None:
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]


def pod_template(thing: Object) -> Object | None:
    """What an object makes its pods from; None when it makes none."""
    match thing["kind"]:
        case "Pod":
            return thing
        case "Deployment" | "StatefulSet" | "Job":
            found = thing["spec"]["template"]
        case "CronJob":
            found = thing["spec"]["jobTemplate"]["spec"]["template"]
        case "TrainingRuntime":
            found = thing["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
        case _:
            return None
    template: Object = found
    return template


def containers(spec: Object) -> list[Object]:
    """All of a pod, the ones that run first included."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def variables(objects: Sequence[Object], container: Object) -> dict[str, Any]:
    """Environment of a container by name, ConfigMaps opened; a value from a Secret is None."""
    found: dict[str, Any] = {}
    for source in container.get("envFrom", []):
        found |= named(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {entry["name"]: entry.get("value") for entry in container.get("env", [])}
