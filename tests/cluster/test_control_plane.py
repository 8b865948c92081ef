"""The control plane belongs to its test: nothing of it is left, whatever becomes of the test."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.demo.watcher import descendants
from tests.cluster.api import eventually
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import ControlPlane
from tests.deploy.manifests import ROOT

pytestmark = pytest.mark.cluster

HOLD = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
from tests.cluster.control_plane import ControlPlane
with ControlPlane(Path(sys.argv[1])) as plane:
    print(plane.api.get("/version")["gitVersion"], flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_test_that_ends_early_leaves_no_process(cluster: Cluster, tmp_path: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().startswith(b"v1.")
        below = descendants(holder.pid)
        named = {Path(f"/proc/{pid}/exe").resolve().name for pid in below}
        assert {"etcd", "kube"} <= named
        holder.send_signal(how)
    eventually(lambda: [pid for pid in below if os.path.exists(f"/proc/{pid}")] == [], 30)


def test_two_of_them_share_nothing(cluster: Cluster, tmp_path: Path) -> None:
    with ControlPlane(tmp_path) as other, cluster.namespace() as namespace:
        names = {found["metadata"]["name"] for found in other.api.items("/api/v1/namespaces")}
        assert "kube-system" in names
        assert namespace not in names
