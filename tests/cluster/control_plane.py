"""A real Kubernetes API server on loopback: etcd, kube-apiserver and kube-controller-manager as local processes.

with ControlPlane(folder) as plane:
    plane.kubeconfig, plane.api

There is no scheduler and no kubelet: `node.py` stands for both. Everything belongs to the demo's supervisor, so nothing
outlives the test, not even one that is killed.
"""

import secrets
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.demo.ports import Ports
from services.demo.probes import http_ok
from services.demo.processes import Program, Supervisor
from tests.cluster import build
from tests.cluster.api import Api

ABSENT = ("nodelifecycle", "nodeipam", "cloud-node-lifecycle", "service-lb-controller", "node-route-controller")
"""Controllers of what is not here: machines and a cloud. The first would take the node for dead: nobody renews its
lease."""


class ControlPlane:
    """One cluster of its own; `folder` is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._token = secrets.token_hex(16)

    def __enter__(self) -> Self:
        self._ports, self._supervisor = Ports(), Supervisor(self._folder)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.api.close()
        self.stop()

    def stop(self) -> None:
        """Stop the processes and give the ports back."""
        self._supervisor.close()
        self._ports.close()

    @property
    def kubeconfig(self) -> Path:
        """A file with address, certificate and credentials of an administrator."""
        return self._folder / "kubeconfig"

    def _start(self) -> None:
        etcd, peer, self._port = (self._ports.take() for _ in range(3))
        (self._folder / "tokens.csv").write_text(f"{self._token},admin,admin,system:masters\n")
        _write_key(self._folder / "accounts.key")
        for program in (self._etcd(etcd, peer), self._server(etcd), self._manager()):
            if program.name == "kube-controller-manager":
                self._write_kubeconfig()
            self._supervisor.start(program)
            self._supervisor.wait_ready(program.name)
        self.api = Api(self.kubeconfig)

    def _etcd(self, port: int, peer: int) -> Program:
        options = {
            "data-dir": self._folder / "etcd",
            "listen-client-urls": f"http://127.0.0.1:{port}",
            "advertise-client-urls": f"http://127.0.0.1:{port}",
            "listen-peer-urls": f"http://127.0.0.1:{peer}",
            "initial-advertise-peer-urls": f"http://127.0.0.1:{peer}",
            "initial-cluster": f"default=http://127.0.0.1:{peer}",
            "log-level": "warn",
        }
        return _program("etcd", [*_flags(options), "--unsafe-no-fsync"], ready=lambda: http_ok(port, "/health"))

    def _server(self, etcd: int) -> Program:
        key = self._folder / "accounts.key"
        options = {
            "etcd-servers": f"http://127.0.0.1:{etcd}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": self._port,
            "cert-dir": self._folder / "certificates",
            "token-auth-file": self._folder / "tokens.csv",
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-signing-key-file": key,
            "service-account-key-file": key,
            "service-cluster-ip-range": "10.96.0.0/16",
            # Else it would publish its own address, and loopback may be nobody's endpoint.
            "endpoint-reconciler-type": "none",
        }
        return _program("kube-apiserver", _flags(options), ready=self._answers)

    def _manager(self) -> Program:
        options = {
            "kubeconfig": self.kubeconfig,
            "service-account-private-key-file": self._folder / "accounts.key",
            "controllers": ",".join(["*", *(f"-{name}" for name in ABSENT)]),
            "leader-elect": "false",
            "secure-port": 0,
            # Its own measure is meant for clusters that others use too.
            "kube-api-qps": 200,
            "kube-api-burst": 400,
        }
        return _program("kube-controller-manager", _flags(options))

    def _answers(self) -> bool:
        certificate = self._folder / "certificates" / "apiserver.crt"
        if not certificate.exists():
            return False
        try:
            trust = ssl.create_default_context(cafile=certificate)
            with urllib.request.urlopen(f"https://127.0.0.1:{self._port}/readyz", timeout=1, context=trust) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _write_kubeconfig(self) -> None:
        server = {
            "server": f"https://127.0.0.1:{self._port}",
            "certificate-authority": str(self._folder / "certificates" / "apiserver.crt"),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "admin", "user": {"token": self._token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(yaml.safe_dump(content))


def _program(name: str, arguments: list[str], **given: object) -> Program:
    path = build.folder() / "bin" / name
    return Program(name, (str(path), *arguments), **given)  # type: ignore[arg-type]


def _flags(options: dict[str, object]) -> list[str]:
    return [f"--{key}={value}" for key, value in options.items()]


def _write_key(path: Path) -> None:
    """The key that signs tokens of service accounts."""
    encoding, private = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    made = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(made.private_bytes(encoding, private, serialization.NoEncryption()))
