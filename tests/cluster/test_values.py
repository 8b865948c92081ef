"""Values files that are wrong are refused before anything is installed, each with the path of its key."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import Cluster
from tests.deploy.manifests import CHART, values
from tests.deploy.test_values import WRONG

pytestmark = pytest.mark.cluster

DRY = "--dry-run=server"


def nested(path: str, value: object) -> dict[str, Any]:
    """The value at its path, as a values file has it.

    >>> nested("a.b", 1)
    {'a': {'b': 1}}
    """
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def refusal(cluster: Cluster, namespace: str, wrong: dict[str, Any], folder: Path, *options: str) -> str:
    """What `helm install` says of this file; AssertionError when it has nothing against it."""
    (folder / "values.yaml").write_text(yaml.safe_dump(wrong))
    words = ("install", "shop", str(CHART), "-n", namespace, "-f", str(folder / "values.yaml"), *options)
    ended = cluster.helm(*words, check=False)
    assert ended.returncode != 0
    return ended.stderr


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused_with_the_path_of_its_key(cluster: Cluster, tmp_path: Path, what: str) -> None:
    path, value, *others = WRONG[what]
    beside = [word for setting in others for word in ("--set-json", setting)]
    *parents, last = path.split(".")
    said = refusal(cluster, "default", nested(path, value), tmp_path, DRY, *beside)
    assert f"at '{''.join(f'/{parent}' for parent in parents)}" in said
    assert last in said


def test_there_are_wrong_files_enough() -> None:
    assert len(WRONG) >= 25


def test_nothing_of_a_refused_file_is_installed(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.namespace() as namespace:
        refusal(cluster, namespace, {"services": {"gateway": {"replicas": -1}}}, tmp_path)
        assert json.loads(cluster.helm("list", "-a", "-n", namespace, "-o", "json").stdout) == []
        assert cluster.api.items(f"/apis/apps/v1/namespaces/{namespace}/deployments") == []


def leaves(node: object, path: str = "") -> dict[str, object]:
    """Every value by its path; a list or an empty map is one value."""
    if isinstance(node, dict) and node:
        return {name: leaf for key, child in node.items() for name, leaf in leaves(child, f"{path}/{key}").items()}
    return {path: node}


def unlike(value: object) -> object:
    """A value of another type."""
    return "text" if isinstance(value, dict) else {"a": {}}


def test_every_key_of_the_chart_refuses_a_value_of_another_type(cluster: Cluster, tmp_path: Path) -> None:
    """All at once: helm names each."""
    known = values()
    wrong: dict[str, Any] = {}
    for path, value in leaves(known).items():
        *parents, last = path.strip("/").split("/")
        place = wrong
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = unlike(value)
    said = refusal(cluster, "default", wrong, tmp_path, DRY)
    assert [path for path in leaves(known) if f"'{path}'" not in said and f"'{path}/" not in said] == []
