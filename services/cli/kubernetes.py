"""The gateway's admin port by a kubeconfig's credentials alone: a local port that ends at a pod, over the API server.

    freshrank releases list --namespace shop

It asks for what `kubectl port-forward` asks for, and for the Secret that holds the operator's token:
get services, list pods, create pods/portforward, get that secret.
"""

import base64
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward
from urllib3.exceptions import HTTPError

from services.cli.settings import CliSettings
from services.common.errors import InvalidInput, NotFound, TemporaryError

_ANSWER_S = 10.0
_PORT, _TOKEN = "admin", "FRESHRANK_GATEWAY_ADMIN_TOKEN"


@contextmanager
def forwarded(settings: CliSettings) -> Iterator[CliSettings]:
    """The settings with `admin` and `admin_token` as they are from here, while the block lasts.

    Raises InvalidInput for a context that does not exist or may not do this, NotFound without service or ready pod,
    TemporaryError when the API server does not answer.
    """
    with _translated(settings):
        core = client.CoreV1Api(_client(settings.context))
        pod = _pod(core, settings)
        token = settings.admin_token or _token(core, pod)
        port = _admin_port(pod)

    def connect() -> Any:
        own = client.CoreV1Api(_client(settings.context))  # a client that streams does nothing else meanwhile
        name, namespace = pod.metadata.name, pod.metadata.namespace
        return portforward(own.connect_get_namespaced_pod_portforward, name, namespace, ports=str(port))

    forward = Forward(connect, port)
    try:
        yield settings.model_copy(update={"admin": forward.address, "admin_token": token})
    finally:
        forward.close()


class Forward:
    """Listens on a free loopback port; each connection gets a stream of its own from `connect`."""

    def __init__(self, connect: Callable[[], Any], port: int) -> None:
        """`port`: of the pod."""
        self._connect, self._port = connect, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="port-forward", daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those there are end with their peers."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(near,), name="connection", daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        # Whatever fails, who called sees a connection that ends.
        with near, suppress(ApiException, HTTPError, OSError), closing(self._connect().socket(self._port)) as far:
            back = threading.Thread(target=_copy, args=(far, near), daemon=True)
            back.start()
            _copy(near, far)
            back.join()


def _copy(source: Any, target: Any) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _client(context: str) -> Any:
    found = client.Configuration()
    try:
        # Given here, as the library looks at the variable once, when it is imported.
        config.load_kube_config(os.environ.get("KUBECONFIG"), context or None, found)
    except (config.ConfigException, OSError) as error:
        raise InvalidInput("--context", "not_found", f"no such place in the kubeconfig: {error}") from error
    found.retries = False
    return client.ApiClient(found)


def _pod(core: Any, settings: CliSettings) -> Any:
    """A ready pod of the service."""
    service = core.read_namespaced_service(settings.service, settings.namespace, _request_timeout=_ANSWER_S)
    labels = ",".join(f"{name}={value}" for name, value in (service.spec.selector or {}).items())
    found = core.list_namespaced_pod(settings.namespace, label_selector=labels, _request_timeout=_ANSWER_S)
    for pod in found.items:
        if any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or []):
            return pod
    raise NotFound(f"--service: no pod of {settings.service} is ready")


def _admin_port(pod: Any) -> int:
    ports = [port for container in pod.spec.containers for port in container.ports or []]
    for port in ports:
        if port.name == _PORT:
            return int(port.container_port)
    raise NotFound(f"--service: pod {pod.metadata.name} has no port named {_PORT}")


def _token(core: Any, pod: Any) -> str:
    """The operator's token, from the Secret that the pod's own variable names; empty when it has none."""
    variables = [variable for container in pod.spec.containers for variable in container.env or []]
    source = next((v.value_from.secret_key_ref for v in variables if v.name == _TOKEN and v.value_from), None)
    if source is None:
        return ""
    try:
        secret = core.read_namespaced_secret(source.name, pod.metadata.namespace, _request_timeout=_ANSWER_S)
    except ApiException as error:
        raise InvalidInput(
            "--token", "missing_field", f"secret {source.name} cannot be read: {error.reason}"
        ) from error
    return base64.b64decode((secret.data or {}).get(source.key, "")).decode()


@contextmanager
def _translated(settings: CliSettings) -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        if error.status == 404:
            raise NotFound(f"--service: there is no service {settings.service} in {settings.namespace}") from error
        raise InvalidInput("--context", "refused", f"the API server says {error.status} {error.reason}") from error
    except HTTPError as error:
        raise TemporaryError(f"the API server (--context) does not answer: {error}") from error
