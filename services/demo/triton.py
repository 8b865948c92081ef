"""A Triton server on loopback that runs ONNX models through its Python backend, on the CPU.

In a cluster the same models run in Triton's own onnxruntime backend; the pip wheel has only the Python one.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from services.demo.probes import http_ok
from services.demo.processes import FOR_ANSWERS, Program
from services.demo.secure import Secure
from services.demo.tools import Tools


@dataclass(frozen=True)
class Triton:
    """A server of the models that clients ask it to load from `repository`."""

    repository: Path
    http_port: int
    grpc_port: int
    metrics_port: int
    shared_memory: str
    """Prefix of its segments in /dev/shm, one per run: the server leaves them behind when it is killed."""
    secure: Secure | None = None
    """gRPC is for clients with a certificate; None = plain text. Probes and metrics are HTTP in any case."""

    @property
    def grpc_address(self) -> str:
        """host:port for inference and model control."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http_address(self) -> str:
        """host:port for probes such as /v2/models/<name>/ready."""
        return f"127.0.0.1:{self.http_port}"

    @property
    def metrics_address(self) -> str:
        """host:port of /metrics."""
        return f"127.0.0.1:{self.metrics_port}"

    def prepare(self, tools: Tools) -> None:
        """Make the repository; the server refuses to start without one, an empty one will do."""
        self.repository.mkdir(parents=True, exist_ok=True)

    def program(self, tools: Tools) -> Program:
        """How to run it.

        Readiness is not strict because one failed load would otherwise turn the server's own probe off for good.
        Configurations are complete, and completing them costs a second start of the stub at each load.
        """
        options = {
            "model-repository": self.repository,
            "backend-directory": tools.triton / "backends",
            "model-control-mode": "explicit",
            "strict-readiness": "false",
            "http-address": "127.0.0.1",
            "http-port": self.http_port,
            "http-thread-count": 2,
            "grpc-address": "127.0.0.1",
            "grpc-port": self.grpc_port,
            "metrics-address": "127.0.0.1",
            "metrics-port": self.metrics_port,
            "allow-gpu-metrics": "false",
            "pinned-memory-pool-byte-size": 0,
            "exit-timeout-secs": 5,
            **(_tls(self.secure) if self.secure else {}),
        }
        argv = [str(tools.triton / "bin" / "tritonserver"), *(f"--{key}={value}" for key, value in options.items())]
        argv.append("--disable-auto-complete-config")
        argv.append(f"--backend-config=python,shm-region-prefix-name={self.shared_memory}")
        environment = {
            "LD_LIBRARY_PATH": ":".join(str(folder) for folder in tools.libraries),
            # The stub is not this Python's program, so it would look for the standard library where Python was built.
            "PYTHONHOME": sys.base_prefix,
            # It takes the first Python on the path for its own, and a venv's packages: numpy 2 gives empty tensors.
            "PATH": os.defpath,
            "PYTHONNOUSERSITE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        return Program(
            "triton",
            tuple(argv),
            environment,
            ready=self.answers,
            niceness=FOR_ANSWERS,
            shared_memory=self.shared_memory,
        )

    def answers(self) -> bool:
        """Whether it takes orders and shows its metrics, the last port it opens; says nothing about any model."""
        return http_ok(self.http_port, "/v2/health/ready") and http_ok(self.metrics_port, "/metrics")


def _tls(secure: Secure) -> dict[str, object]:
    return {
        "grpc-use-ssl": "true",
        "grpc-use-ssl-mutual": "true",
        "grpc-server-cert": secure.server.cert,
        "grpc-server-key": secure.server.key,
        "grpc-root-cert": secure.server.ca,
    }
