"""`freshrank releases` with a kubeconfig and nothing else: through a real API server to a port nobody else sees."""

from collections.abc import Iterator

import pytest

from tests.cli.fakes import CHAMPION, Admin, run, serving
from tests.cluster.api import Api, Object, eventually
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import Kubelet
from tests.cluster.rollout import own_plane

pytestmark = pytest.mark.cluster

SPACE = "/api/v1/namespaces/default"
LABELS = {"app": "gateway"}
TOKEN = "s3cret"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with own_plane(tmp_path_factory.mktemp("plane")) as it:
        yield it


@pytest.fixture(scope="module")
def kubelet(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """A node with a ready pod of the gateway, whose admin port asks for the token of a Secret."""
    with serving(Admin(token=TOKEN)) as address:
        it = Kubelet(tmp_path_factory.mktemp("node"), {50052: int(address.rpartition(":")[2])})
        install(plane.api, it.port)
        yield it
        it.close()


def install(api: Api, port: int) -> None:
    """What the chart makes, as far as the command looks at it."""
    api.create(of("Node", "node"))
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    api.patch_status("/api/v1/nodes/node", status)
    eventually(lambda: api.items(f"{SPACE}/serviceaccounts"))
    api.create(of("Secret", "operator", stringData={"token": TOKEN}), "default")
    service = {"selector": LABELS, "ports": [{"name": "admin", "port": 50052}]}
    api.create(of("Service", "freshrank-gateway", spec=service), "default")
    token = {"secretKeyRef": {"name": "operator", "key": "token"}}
    container = {
        "name": "gateway",
        "image": "gateway",
        "ports": [{"name": "admin", "containerPort": 50052}],
        "env": [{"name": "FRESHRANK_GATEWAY_ADMIN_TOKEN", "valueFrom": token}],
    }
    pod = of("Pod", "gateway-1", spec={"nodeName": "node", "containers": [container]})
    pod["metadata"]["labels"] = LABELS
    api.create(pod, "default")
    ready = [{"type": "Ready", "status": "True"}]
    api.patch_status(f"{SPACE}/pods/gateway-1", {"phase": "Running", "conditions": ready})


def of(kind: str, name: str, **rest: object) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **rest}


def test_releases_are_shown_and_promoted_with_the_kubeconfig_alone(plane: ControlPlane, kubelet: Kubelet) -> None:
    env = {"KUBECONFIG": str(plane.kubeconfig)}
    shown = run("releases", "list", "--namespace", "default", "--json", env=env)
    assert shown.code == 0, shown.err
    assert CHAMPION in [release["release"] for release in shown.json]
    rolled_back = run("releases", "rollback", "--namespace", "default", "--context", "test", "--json", env=env)
    assert rolled_back.code == 0, rolled_back.err
    assert kubelet.asked[0].startswith("/portForward/default/gateway-1?")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param(("--namespace", "default", "--context", "other"), "--context", id="no such context"),
        pytest.param(("--namespace", "elsewhere"), "--service", id="no such service"),
        pytest.param(("--namespace", "default", "--token", "wrong"), "--token", id="a wrong token"),
    ],
)
def test_what_is_wrong_is_named_by_its_option(
    plane: ControlPlane, kubelet: Kubelet, options: tuple[str, ...], says: str
) -> None:
    ended = run("releases", "list", *options, env={"KUBECONFIG": str(plane.kubeconfig)})
    assert ended.code != 0
    assert says in ended.err
