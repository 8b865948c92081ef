"""One name everywhere: a service is called the same in every place that names it."""

import configparser
import re
import tomllib
from pathlib import Path

import pytest

from docs.generate import SERVICES, settings_of
from tests.deploy.manifests import ROOT, base, pods, values

SHARED = {"common", "online", "text", "pb", "cli", "demo"}
"""Packages under services/ that are no service."""


def folders(parent: Path) -> set[str]:
    return {path.name for path in parent.iterdir() if path.is_dir() and any(path.glob("*.py"))}


OTHERS = {"client", "demo", "dev", "evaluate", "federated", "text", "tracking"}
"""Extras that are no service."""


def extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"]) - OTHERS


def independent() -> set[str]:
    linter = configparser.ConfigParser()
    linter.read(ROOT / ".importlinter")
    return {name.removeprefix("services.") for name in linter["importlinter:contract:independent"]["modules"].split()}


def makefile() -> set[str]:
    found = re.search(r"^SERVICES := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return set(found[1].split()) - {"client"}


def rendered() -> set[str]:
    return {component for component, spec in pods(base()) if spec["containers"][0]["name"] in SERVICES}


PLACES = {
    "folders of services/": lambda: folders(ROOT / "services") - SHARED,
    "extras of pyproject.toml": extras,
    "independent modules of .importlinter": independent,
    "SERVICES of the Makefile": makefile,
    "services of values.yaml": lambda: set(values()["services"]),
    "workloads of k8s/base": rendered,
    "folders of tests/": lambda: {name for name in SERVICES if (ROOT / "tests" / name).is_dir()},
    "requirements": lambda: {name for name in SERVICES if (ROOT / "requirements" / f"{name}.txt").is_file()},
    "programs": lambda: {name for name in SERVICES if (ROOT / "services" / name / "__main__.py").is_file()},
    "READMEs": lambda: {name for name in SERVICES if (ROOT / "services" / name / "README.md").is_file()},
}


@pytest.mark.parametrize("place", PLACES)
def test_services_have_the_same_names_in(place: str) -> None:
    assert PLACES[place]() == set(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_settings_are_prefixed_with_the_services_name(service: str) -> None:
    assert settings_of(service).model_config["env_prefix"] == f"FRESHRANK_{service.upper()}_"


@pytest.mark.parametrize("service", SERVICES)
def test_metrics_are_prefixed_with_the_services_name(service: str) -> None:
    source = "".join(path.read_text() for path in (ROOT / "services" / service).rglob("*.py"))
    assert set(re.findall(r"\bMetrics\(\"(\w+)\"", source)) == {service}
