"""What is built is what is pinned."""

import re
from pathlib import Path

import pytest

from tests.cluster import build


@pytest.mark.parametrize("name", build.PROGRAMS)
def test_every_program_is_of_a_module_whose_content_is_pinned(name: str) -> None:
    required = re.findall(r"^\s*(?:require )?(\S+) (v\S+)(?: // indirect)?$", versions(name), re.MULTILINE)
    sums = (build.module(name) / "go.sum").read_text()
    package = "k8s.io/kubernetes" if name == "kube" else build.PROGRAMS[name]
    (pinned,) = [f"{path} {version} h1:" for path, version in required if f"{package}/".startswith(f"{path}/")]
    assert pinned in sums


def versions(name: str) -> str:
    return (build.module(name) / "go.mod").read_text()


def test_both_servers_are_made_of_the_same_release() -> None:
    staged = set(re.findall(r"=> k8s\.io/\S+ v0\.(\S+)", versions("kube")))
    assert re.findall(r"k8s\.io/kubernetes v1\.(\S+)", versions("kube")) == [*staged]


def test_definitions_are_pinned_by_version_and_content() -> None:
    for wanted in build.definitions():
        assert re.fullmatch(r"\S+@v\d+\.\d+\.\d+", wanted.module)
        assert re.fullmatch(r"h1:[\w+/]{43}=", wanted.content)
        assert wanted.files


def test_a_program_that_nobody_knows_is_named() -> None:
    with pytest.raises(SystemExit, match="no program named helmet"):
        build.main(["helmet"])


def test_make_looks_where_the_tests_of_a_cluster_are() -> None:
    tests = Path(__file__).parents[1]
    found = {path.parent.name for path in tests.rglob("test_*.py") if "pytest.mark.cluster" in path.read_text()}
    assert found == {"cluster", "deploy"}
