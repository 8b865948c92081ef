"""The whole loop as the chart has it: every workload's own command, variables and mounts, as processes of this machine.

Kafka and Redis are outside a chart, so they are the demo's; everything else is started from what helm renders.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.errors import PermanentError
from services.demo.follow import Follower
from services.demo.processes import Program
from services.demo.record import Record
from services.demo.services import Plan, answers
from services.demo.stack import Stack
from services.demo.world import World
from tests.cluster.cluster import Cluster
from tests.cluster.machine import Command, Machine, Pod, some_network
from tests.cluster.server_side import credentials, publish
from tests.deploy.manifests import ROOT, Object, parse, render
from tests.pipeline.loop import QUICK, Loop

PROFILE: Mapping[str, Any] = {
    "services": {"gateway": {"replicas": 1}, "publisher": {"settings": {"backend": "python"}}}
}
"""One of each; pip's Triton has the Python backend only."""

KAFKA = "kafka.elsewhere:9092"
TOKEN_KEYS = "1:" + "d3" * 16
JOB_SECONDS = 300
READY_SECONDS = 300
RESTARTS = 3


@dataclass(frozen=True)
class ChartPlan(Plan):
    """Addresses and folders of one run, as the rendered pods have them."""

    pods: Mapping[str, Pod] = field(default_factory=dict)
    claims: Path = Path()

    @property
    def store(self) -> Path:
        """The model store."""
        return self.claims / "freshrank-store"

    @property
    def gateway(self) -> str:
        """The ranking API of all gateways, as gRPC names several."""
        return f"ipv4:{','.join(f'{pod.address}:{self.grpc_port}' for pod in self.of('gateway').values())}"

    @property
    def urls(self) -> dict[str, str]:
        """Probe server of each service."""
        return {name: self.url(self.pods[name]) for name in self.http_ports}

    def url(self, pod: Pod) -> str:
        """Probe server of a pod."""
        return f"http://{pod.address}:{pod.port('http')}"

    def of(self, component: str) -> dict[str, Pod]:
        """All pods of a component, the first one under its name."""
        return {name: pod for name, pod in self.pods.items() if pod.component == component}


@dataclass
class ChartLoop(Loop):
    """One run of a rendered release; what it has beside a `Loop` is where programs come from."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """On top of PROFILE."""
    cluster: Cluster | None = None
    """The API server for pods that are given a token, such as the publisher for its Lease."""
    namespace: str = "default"
    network: str = field(default_factory=some_network)

    def start(self) -> None:
        """Render, start what is outside the chart, run the jobs, start the rest; whatever fails stops it all."""
        self.world, self.record = World("shop", self.seed, items=self.items), Record()
        self.stack = Stack(self.folder, self.partitions, parts=("kafka", "redis"), tools=self.tools, secure=self.secure)
        self.stack.start()
        try:
            self.image = self._image()
            self.machine = self._machine()
            self._start_pods()
        except BaseException:
            self.stack.stop()
            raise

    def _machine(self) -> Machine:
        objects = self._render()
        made = self.machine_of(objects)
        if self.cluster:
            publish(self.cluster, self.namespace, objects, made)
        return made

    def machine_of(self, objects: Sequence[Object]) -> Machine:
        """This machine with these objects; pods have the addresses of before, if they are the same ones."""
        outside = {KAFKA: self.stack.kafka.bootstrap}
        return Machine(objects, self.folder, self.secrets(), self.image, self.namespace, outside, self.network)

    def _render(self) -> list[Object]:
        return parse(render("--namespace", self.namespace, *self.values_files()))

    def values_files(self) -> list[str]:
        """What helm is told."""
        outside = {"kafka": {"bootstrap": KAFKA, "partitions": self.partitions}}
        quick = [values_of(name, value) for name, value in {**QUICK, **self.settings}.items()]
        files = []
        for number, values in enumerate((PROFILE, *quick, self.values, outside)):
            files.append(self.folder / f"values-{number}.yaml")
            files[-1].write_text(yaml.safe_dump(dict(values)))
        return [word for file in files for word in ("-f", str(file))]

    def secrets(self) -> dict[str, dict[str, str]]:
        """The two that NOTES.txt asks for."""
        return {"freshrank-redis": {"url": self.stack.redis.url}, "freshrank-tokens": {"keys": TOKEN_KEYS}}

    def _image(self) -> dict[str, Path]:
        """A copy, so that nobody writes to this checkout."""
        self.feature_repo = self.folder / "image" / "feature_repo"
        shutil.copytree(ROOT / "feature_repo", self.feature_repo, ignore=shutil.ignore_patterns("__pycache__", "data"))
        return {"/srv/freshrank/feature_repo": self.feature_repo}

    def _start_pods(self) -> None:
        pods = processes(self.machine.pods, ("triton", *self.services))
        ports = {name: pods[name].port("http") for name in self.services}
        gateway, folder = pods["gateway"], self.folder
        given = (self.partitions, gateway.port("grpc"), gateway.port("admin"), ports)
        self.plan = ChartPlan(folder, self.feature_repo, *given, pods=pods, claims=folder / "claims")
        self._run_jobs()
        for name, pod in pods.items():
            for first in pod.spec.get("initContainers", []):
                self.run_to_the_end(pod, first)
            self.stack.supervisor.start(self.program(name))
        for name in pods:
            self._until_ready(name)
        self.stack.supervisor.exits()
        self.follower = Follower(self.stack.kafka.broker, self.partitions, self.plan.urls)

    def _run_jobs(self) -> None:
        for job in self.machine.jobs():
            self.run_to_the_end(job, job.main)

    def _until_ready(self, name: str) -> None:
        """Start again what has ended itself, as a cluster does."""
        for _ in range(RESTARTS):
            try:
                self.stack.supervisor.wait_ready(name)
                return
            except PermanentError as error:
                print(error)
                self.stack.supervisor.start(self.program(name))
        self.stack.supervisor.wait_ready(name)

    def run_to_the_end(self, pod: Pod, container: Object) -> str:
        """A container that ends: what it has printed. AssertionError when it fails."""
        ended = self.executed(self.machine, pod, container)
        assert ended.returncode == 0, f"{pod.name}: {ended.stderr[-2000:]}"
        return ended.stdout

    def executed(self, machine: Machine, pod: Pod, container: Object) -> subprocess.CompletedProcess[str]:
        """Run a container that ends. Raises TimeoutExpired when it does not."""
        command = self._local(machine.command(pod, container))
        given: dict[str, Any] = {"cwd": ROOT, "env": os.environ | command.environment, "text": True}
        return subprocess.run(command.argv, **given, capture_output=True, timeout=JOB_SECONDS, check=False)

    def program(self, name: str) -> Program:
        """A workload's first container, ready when its readiness probe says so."""
        pod = self.plan.pods[name]
        command = self._local(self.machine.command(pod, pod.main))
        reach = credentials(self.cluster, self.namespace, pod, self.folder) if self.cluster else {}
        prefix = ""
        if pod.component == "triton":
            prefix = self.stack.supervisor.shared_memory(name)
            command = self._triton(command, pod, prefix)
        return Program(
            name,
            command.argv,
            dict(command.environment) | reach,
            cwd=ROOT,
            ready=lambda: probed(pod, pod.main["readinessProbe"]),
            ready_seconds=READY_SECONDS,
            grace_seconds=pod.spec["terminationGracePeriodSeconds"],
            shared_memory=prefix,
        )

    def _local(self, command: Command) -> Command:
        """With this Python for the image's, under the variables that the image sets."""
        program, *arguments = command.argv
        given = image_variables() | {"HOME": command.environment["TMPDIR"]} | dict(command.environment)
        return Command((sys.executable if program == "python" else program, *arguments), given)

    def _triton(self, command: Command, pod: Pod, prefix: str) -> Command:
        """With what the image brings, and on the pod's address: a container binds all of its own."""
        program, *arguments = command.argv
        assert program == "tritonserver"
        added = [f"--{protocol}-address={pod.address}" for protocol in ("http", "grpc", "metrics")]
        added += [f"--backend-directory={self.tools.triton}/backends", "--allow-gpu-metrics=false"]
        added += [f"--backend-config=python,shm-region-prefix-name={prefix}", "--pinned-memory-pool-byte-size=0"]
        image = {
            "LD_LIBRARY_PATH": ":".join(str(folder) for folder in self.tools.libraries),
            "PYTHONHOME": sys.base_prefix,
            "PATH": os.defpath,
            "CUDA_VISIBLE_DEVICES": "",
        }
        server = str(self.tools.triton / "bin" / program)
        return Command((server, *arguments, *added), dict(command.environment) | image)

    def variables(self) -> dict[str, str]:
        """What the gateway is given: it knows every address."""
        return dict(self.program("gateway").environment)

    async def ledger(self, timeout_s: float = 60.0) -> dict[str, str]:
        """The same; the base waits for impressions of the first gateway only."""
        _, *others = self.plan.of("gateway").values()
        for pod in others:
            with contextlib.closing(Follower(self.stack.kafka.broker, 1, {"gateway": self.plan.url(pod)})) as follower:
                await follower.impressions_sent(timeout_s)
        return await super().ledger(timeout_s)


def processes(pods: Sequence[Pod], components: Sequence[str]) -> dict[str, Pod]:
    """The pods of these components, in their order: `gateway`, and further ones as `gateway-1`."""
    found = {}
    for component in components:
        of = [pod for pod in pods if pod.component == component]
        found |= {f"{component}-{number}" if number else component: pod for number, pod in enumerate(of)}
    return found


def values_of(variable: str, value: str) -> dict[str, Any]:
    """The chart's values that become this variable.

    >>> values_of("FRESHRANK_TRAINER_UPDATE_INTERVAL", "8")
    {'services': {'trainer': {'settings': {'update_interval': '8'}}}}
    """
    service, setting = variable.removeprefix("FRESHRANK_").lower().split("_", 1)
    return {"services": {service: {"settings": {setting: value}}}}


def image_variables() -> dict[str, str]:
    """What services/Dockerfile sets for a service, beside its paths."""
    text = (ROOT / "services" / "Dockerfile").read_text().rpartition("FROM ")[2].replace("\\\n", " ")
    words = [word for line in re.findall(r"^ENV (.*)$", text, re.MULTILINE) for word in shlex.split(line)]
    found = dict(word.split("=", 1) for word in words)
    return {name: value for name, value in found.items() if name not in ("PATH", "SERVICE", "HOME")}


def probed(pod: Pod, probe: Object) -> bool:
    """Whether a probe of the chart gets its answer, as a kubelet asks."""
    if http := probe.get("httpGet"):
        port = pod.port(http["port"])
        return answers(
            urllib.parse.urlunsplit((http.get("scheme", "HTTP").lower(), f"{pod.address}:{port}", http["path"], "", ""))
        )
    with grpc.insecure_channel(f"{pod.address}:{pod.port(probe['grpc']['port'])}") as channel:
        asked = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=1)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
