"""The whole loop as a release that helm has installed, upgrades and rolls back: its jobs and hooks are run too.

helm talks to the API server as ever. Pods of jobs are executed here as that server holds them, and their exit status
goes back to it, so what a failed hook does to an upgrade is Kubernetes' and helm's own doing. The workloads' processes
are those of the first revision: a change of definitions starts no pod anew.
"""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from services.demo.api import Api
from services.demo.traffic import Pace, Traffic
from tests.cluster.api import Object
from tests.cluster.chart_loop import KAFKA, ChartLoop
from tests.cluster.cluster import Cluster
from tests.cluster.machine import ChartFault, Machine
from tests.deploy.manifests import CHART, ROOT, parse
from tests.pipeline.loop import PatientApi

RELEASE = "freshrank"
WAIT = ("--wait", "--wait-for-jobs", "--timeout", "900s")
STEADY = Pace(seconds=3600, events_per_second=20, sessions_per_second=2)
"""Little: what is told here takes longer than traffic has to be dense for."""
DEADLINE_S = 30.0
"""Of a call: a busy machine is slow, and slow is not failed."""
NOT_STARTED = 128
"""Exit status of a container that cannot be started."""

Files = Mapping[str, str]
"""A feature repository: texts by name."""


@dataclass(frozen=True)
class Ran:
    """A container that has ended."""

    component: str
    container: str
    status: int
    said: str


@dataclass
class RollingLoop(ChartLoop):
    """The release is in a namespace of its own: there, endpoints are the cluster's, not this machine's."""

    release_namespace: str = ""
    ran: list[Ran] = field(default_factory=list)
    """All containers of jobs, in their order."""
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    """Called before a job's container of this name is started."""
    services_at: dict[str, str] = field(default_factory=dict)
    """Where pods of jobs find the release's Services, by name and port."""

    def stop(self) -> None:
        """Stop everything; the release goes with its namespace."""
        self._api.node.runners.pop(self.release_namespace, None)
        super().stop()

    @property
    def _api(self) -> Cluster:
        assert self.cluster
        return self.cluster

    def _render(self) -> list[Object]:
        """Install, and go by what helm keeps."""
        self._api.node.runners[self.release_namespace] = self._run_pod
        secrets = [
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}
            for name, content in self.secrets().items()
        ]
        self._api.give(self.release_namespace, secrets)
        self.values = {**self.values, "featureRepo": {"files": dict(files_of_the_repository())}}
        ended = self._helm("install", RELEASE, str(CHART), *self.values_files(), *WAIT)
        assert ended.returncode == 0, f"{ended.stderr}\n{self.ran}"
        return self._manifest()

    def _manifest(self) -> list[Object]:
        """Of the newest revision; the publisher's account is bound by its namespace, and pods here have another."""
        return parse(self._helm("get", "manifest", RELEASE).stdout.replace(self.release_namespace, self.namespace))

    def _run_jobs(self) -> None:
        """helm has waited for them."""

    def upgrade(self, values: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
        """`helm upgrade` with these on top; whoever calls judges how it ended."""
        path = self.folder / "values-upgrade.yaml"
        path.write_text(yaml.safe_dump(dict(values)))
        return self._helm("upgrade", RELEASE, str(CHART), *self.values_files(), "-f", str(path), *WAIT)

    def renew(self) -> None:
        """All pods go, and come as the newest revision has them."""
        self.follower.close()
        self.stack.supervisor.stop(*self.plan.pods)
        self.machine = self.machine_of(self._manifest())
        self._start_pods()

    def roll_back(self, revision: int) -> subprocess.CompletedProcess[str]:
        """`helm rollback`."""
        return self._helm("rollback", RELEASE, str(revision), *WAIT)

    def test(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`helm test`: its pods ask the gateway and try the volume."""
        return self._helm("test", RELEASE, "--timeout", "300s", *words)

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[Api]:
        """The gateways' API, with patience."""
        api = PatientApi(self.plan.gateway, self.record, DEADLINE_S, self.secure.client if self.secure else None)
        try:
            yield api
        finally:
            await api.close()

    def replace(self, name: str) -> None:
        """A pod goes and comes as at an upgrade: between leaving its Service and SIGTERM it serves on."""
        sleep = self.plan.pods[name].main.get("lifecycle", {}).get("preStop", {}).get("sleep", {})
        time.sleep(sleep.get("seconds", 0))
        self.restart(name)

    @asynccontextmanager
    async def shopping(self) -> AsyncIterator[Api]:
        """Traffic for as long as the block takes."""
        async with self.calling() as api:
            traffic = Traffic(self.world, api, STEADY)
            running = asyncio.create_task(traffic.run())
            try:
                yield api
            finally:
                traffic.end()
                await running

    def given(self, things: Sequence[Object]) -> None:
        """What a user makes beside the release."""
        self._api.give(self.release_namespace, things)

    def run_now(self, cron: str) -> None:
        """`kubectl create job --from=cronjob/...`."""
        path = f"/apis/batch/v1/namespaces/{self.release_namespace}/cronjobs/{cron}"
        template = self._api.api.get(path)["spec"]["jobTemplate"]
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"{cron}-now"}, "spec": template["spec"]}
        self._api.give(self.release_namespace, [job])

    def status(self) -> str:
        """What helm says of the newest revision."""
        found: str = yaml.safe_load(self._helm("status", RELEASE, "-o", "yaml").stdout)["info"]["status"]
        return found

    def pods_of_services(self) -> set[str]:
        """Names on the API server: another one is another pod."""
        listed = self._api.api.items(f"/api/v1/namespaces/{self.release_namespace}/pods")
        return {pod["metadata"]["name"] for pod in listed if pod["spec"]["restartPolicy"] == "Always"}

    def _helm(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._api.helm(*words, "-n", self.release_namespace, check=False)

    def _run_pod(self, thing: Object) -> dict[str, int]:
        """One container after the other, until one fails, as a kubelet does."""
        api, space = self._api.api, f"/api/v1/namespaces/{self.release_namespace}"
        there = [*api.items(f"{space}/configmaps"), *api.items(f"{space}/persistentvolumeclaims")]
        # No folder of the image: definitions come from where the pod mounts them.
        machine = Machine(there, self.folder, self.secrets(), {}, self.release_namespace, self._outside())
        pod = machine.pod(thing["metadata"]["name"], thing)
        codes: dict[str, int] = {}
        for container in [*pod.spec.get("initContainers", []), *pod.spec["containers"]]:
            self.before.get(container["name"], _nothing)()
            try:
                ended = self.executed(machine, pod, container)
                status, said = ended.returncode, ended.stdout + ended.stderr
            except (ChartFault, subprocess.TimeoutExpired) as fault:
                status, said = NOT_STARTED, str(fault)
            codes[container["name"]] = status
            self.ran.append(Ran(pod.component, container["name"], status, said))
            if status:
                break
        return codes

    def _outside(self) -> dict[str, str]:
        return {KAFKA: self.stack.kafka.bootstrap, **self.services_at}

    def _start_pods(self) -> None:
        """Pods of jobs find the release's Services, each as its first pod, where those of the workloads are."""
        for service, (pod, *_) in self.machine.endpoints():
            name, ports = service["metadata"]["name"], service["spec"]["ports"]
            self.services_at |= {f"{name}:{p['port']}": f"{pod.address}:{pod.port(p['targetPort'])}" for p in ports}
        super()._start_pods()


def _nothing() -> None:
    """Nobody waits for this container."""


def files_of_the_repository() -> Files:
    """What a shop starts with."""
    found = sorted((ROOT / "feature_repo").iterdir())
    return {path.name: path.read_text() for path in found if path.suffix in (".py", ".yaml")}


def changed(files: Files, *changes: tuple[str, str, str]) -> Files:
    """The files with texts of theirs replaced: (file, text, its replacement)."""
    found = dict(files)
    for name, before, after in changes:
        assert before in found[name], f"{name} has no {before!r}"
        found[name] = found[name].replace(before, after, 1)
    return found
