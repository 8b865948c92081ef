"""Fixtures of the cluster tests: one control plane per run, started by the first test that asks."""

from collections.abc import Iterator

import pytest

from tests.cluster import build
from tests.cluster.cluster import Cluster, install_kinds
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node import Node


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real API server; skipped where its programs have not been built."""
    absent = [name for name in ("etcd", "kube", "helm") if build.program(name) is None]
    definitions = build.crds()
    if absent or definitions is None:
        pytest.skip(f"no {', '.join(absent) or 'definitions'} here; `make cluster-tools` builds them where there is Go")
    with ControlPlane(tmp_path_factory.mktemp("cluster")) as plane:
        install_kinds(plane.api, definitions)
        with Node(plane.api) as node:
            yield Cluster(plane.kubeconfig, plane.api, node)
