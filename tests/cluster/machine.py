"""Rendered pods as processes of this machine: commands, arguments, variables and mounts as the chart has them.

Each pod has a loopback address of its own, so ports stay those of the chart. What a cluster would do is done by text:
names of Services become addresses of the pods that they select, mounted paths become folders, and a path of ours that
nothing is mounted at becomes one that nobody can write to. A Secret that nobody makes or a port that no pod has is a
ChartFault.
"""

import os
import random
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.manifests import Object

Contents = Mapping[str, Mapping[str, str]]
"""Keys and values by the name of a Secret or ConfigMap."""

_OURS = ("/srv/freshrank", "/tmp")
_NOWHERE = Path("/dev/null/nothing-is-mounted-here")


class ChartFault(AssertionError):
    """What is rendered does not fit together."""


@dataclass(frozen=True)
class Pod:
    """One pod of a workload."""

    name: str
    component: str
    labels: Mapping[str, str]
    spec: Object
    address: str

    @property
    def main(self) -> Object:
        """The container that is the workload."""
        container: Object = self.spec["containers"][0]
        return container

    def port(self, number_or_name: int | str) -> int:
        """The number of a container's port. Raises ChartFault when there is none."""
        for port in (port for container in self.spec["containers"] for port in container.get("ports", [])):
            if number_or_name in (port["containerPort"], port.get("name")):
                return int(port["containerPort"])
        raise ChartFault(f"{self.component} has no port {number_or_name}")


@dataclass(frozen=True)
class Command:
    """What to execute for a container."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def some_network() -> str:
    """The first three numbers of loopback addresses that nobody else has, in all likelihood."""
    return "127.{}.{}".format(*random.SystemRandom().choices(range(1, 255), k=2))


class Machine:
    """All rendered objects of a release, and where their parts are here."""

    def __init__(
        self,
        objects: Sequence[Object],
        folder: Path,
        secrets: Contents,
        image: Mapping[str, Path],
        namespace: str = "default",
        outside: Mapping[str, str] | None = None,
        network: str = "",
    ) -> None:
        """`secrets` are those that the chart refers to; `image` has folders of the image by their path in it; `outside`
        has the addresses here, host:port, of what the chart expects elsewhere; `network` begins the pods' addresses."""
        self._outside = outside or {}
        self._namespace = namespace
        self._objects = objects
        self._folder = folder
        self._image = image
        maps = {o["metadata"]["name"]: o.get("data", {}) for o in objects if o["kind"] == "ConfigMap"}
        self._contents: dict[str, Contents] = {"secret": secrets, "configMap": maps}
        self._network = network or some_network()
        self._taken = 1
        self.pods = [pod for thing in objects for pod in self._pods(thing)]

    def _pods(self, thing: Object) -> Iterator[Pod]:
        if thing["kind"] in ("Deployment", "StatefulSet"):
            for number in range(thing["spec"].get("replicas", 1)):
                yield self.pod(f"{thing['metadata']['name']}-{number}", thing["spec"]["template"])

    def pod(self, name: str, template: Object) -> Pod:
        """A pod of this template with an address of its own."""
        self._taken += 1
        labels = template["metadata"].get("labels", {})
        component = labels.get("app.kubernetes.io/component", name)
        return Pod(name, component, labels, template["spec"], f"{self._network}.{self._taken}")

    def jobs(self) -> list[Pod]:
        """A pod of every job of an installation, in the order in which they are rendered."""
        found = [thing for thing in self._objects if thing["kind"] == "Job" and _at_install(thing)]
        return [self.pod(thing["metadata"]["name"], thing["spec"]["template"]) for thing in found]

    def claim(self, name: str) -> Path:
        """The folder that stands for a claim's volume."""
        return self._folder / "claims" / name

    def command(self, pod: Pod, container: Object) -> Command:
        """How a container is started. Raises ChartFault when something that it names is not there."""
        given = self._variables(pod, container)
        local = self._translate(pod, container)
        environment = {name: local(_expanded(value, given)) for name, value in given.items()}
        environment["TMPDIR"] = local("/tmp")
        words = [*container.get("command", []), *container.get("args", [])]
        return Command(tuple(local(_expanded(word, given)) for word in words), environment)

    def _variables(self, pod: Pod, container: Object) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            (reference,) = source
            found |= self._content(reference.removesuffix("Ref"), source[reference]["name"])
        for entry in container.get("env", []):
            found[entry["name"]] = entry["value"] if "value" in entry else self._value(pod, entry.get("valueFrom", {}))
        return found

    def _value(self, pod: Pod, source: Object) -> str:
        if "fieldRef" in source:
            fields = {"metadata.name": pod.name, "metadata.namespace": self._namespace, "status.podIP": pod.address}
            fields |= {f"metadata.labels['{name}']": value for name, value in pod.labels.items()}
            return fields[source["fieldRef"]["fieldPath"]]
        for field in ("secret", "configMap"):
            if reference := source.get(f"{field}KeyRef"):
                content = self._content(field, reference["name"])
                if reference["key"] not in content:
                    raise ChartFault(f"{reference['name']} has no key {reference['key']}")
                return content[reference["key"]]
        return ""

    def _content(self, field: str, name: str) -> Mapping[str, str]:
        if name not in self._contents[field]:
            raise ChartFault(f"there is no {field} {name}")
        return self._contents[field][name]

    def mounts(self, pod: Pod, container: Object) -> dict[str, Path]:
        """Folder of each path that the container sees, filled as the volume is."""
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        found = dict(self._image)
        for mount in container.get("volumeMounts", []):
            folder = self._volume(pod, volumes[mount["name"]])
            found[mount["mountPath"]] = folder / mount.get("subPath", "")
        return found

    def _volume(self, pod: Pod, volume: Object) -> Path:
        folder = self._folder / "pods" / pod.name / volume["name"]
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            if claim not in (o["metadata"]["name"] for o in self._objects if o["kind"] == "PersistentVolumeClaim"):
                raise ChartFault(f"there is no claim {claim}")
            folder = self.claim(claim)
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, str] = {}
        for part in (volume, *volume.get("projected", {}).get("sources", [])):
            for field in ("secret", "configMap"):
                if source := part.get(field):
                    files |= _files(source, self._content(field, source.get("secretName") or source["name"]))
        if files and files != {path: _text(folder / path) for path in files}:
            _swap(folder, files)
        return folder

    def change(self, secret: str, content: Mapping[str, str]) -> None:
        """Give a Secret another content; pods that mount it see that, as they do of a kubelet after a while."""
        self._contents["secret"] = {**self._contents["secret"], secret: content}
        for pod in self.pods:
            self.mounts(pod, pod.main)

    def _translate(self, pod: Pod, container: Object) -> "Translation":
        return Translation(self._hosts(), self.mounts(pod, container), pod, self._outside)

    def endpoints(self) -> Iterator[tuple[Object, list[Pod]]]:
        """Each Service that selects pods, and those."""
        for name, (service, pods) in self._hosts().items():
            if name == service["metadata"]["name"] and pods:
                yield service, pods

    def _hosts(self) -> dict[str, tuple[Object, list[Pod]]]:
        """Service and pods by each name that a cluster's DNS would have."""
        found = {}
        for service in (thing for thing in self._objects if thing["kind"] == "Service"):
            name, selector = service["metadata"]["name"], service["spec"]["selector"]
            chosen = [pod for pod in self.pods if selector.items() <= pod.labels.items()]
            found[name] = (service, chosen)
            found |= {f"{pod.name}.{name}": (service, [pod]) for pod in chosen}
        return found


class Translation:
    """Text of a container with names of the cluster as this machine has them; one pass, so nothing is read twice."""

    def __init__(
        self,
        hosts: Mapping[str, tuple[Object, list[Pod]]],
        mounts: Mapping[str, Path],
        pod: Pod,
        outside: Mapping[str, str],
    ) -> None:
        self._hosts, self._mounts, self._pod, self._outside = hosts, mounts, pod, outside
        others = "|".join(map(re.escape, outside)) or "(?!)"
        names = "|".join(re.escape(name) for name in sorted(hosts, key=len, reverse=True))
        paths = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
        self._known = re.compile(
            rf"(?P<finder>dns:///|kubernetes:[a-z0-9-]+/)?(?<![\w.-])(?P<host>{names})(?:\.[a-z0-9-]+(?:\.svc(?:\.cluster\.local)?)?)?:(?P<port>\d+)"
            rf"|(?<!\w)(?P<path>{paths}|{'|'.join(_OURS)})(?![\w.-])|(?<![\w.])(?P<every>0\.0\.0\.0)(?![\w.])"
            rf"|(?<![\w.-])(?P<other>{others})(?!\d)"
        )

    def __call__(self, text: str) -> str:
        """The text for this machine. Raises ChartFault for a port that nobody has."""
        return self._known.sub(self._here, text)

    def _here(self, found: re.Match[str]) -> str:
        if found["path"]:
            return str(self._mounts.get(found["path"], _NOWHERE))
        if found["other"]:
            return self._outside[found["other"]]
        return self._pod.address if found["every"] else self._addresses(found)

    def _addresses(self, found: re.Match[str]) -> str:
        service, pods = self._hosts[found["host"]]
        if not pods:
            raise ChartFault(f"the Service {service['metadata']['name']} selects no pod")
        places = [f"{pod.address}:{_target(service, pod, int(found['port']))}" for pod in pods]
        match found["finder"]:
            case None:
                return places[0]
            case "dns:///" if len(places) == 1:  # the name in a certificate is looked for in it
                return f"dns:///{places[0]}"
            case "dns:///":
                return f"ipv4:{','.join(places)}"
            case _:  # The API server is asked for them.
                return found[0]


def _files(source: Object, content: Mapping[str, str]) -> dict[str, str]:
    """Text by path of what a volume takes of a Secret or ConfigMap."""
    items = source.get("items") or [{"key": key, "path": key} for key in content]
    for item in items:
        if item["key"] not in content:
            raise ChartFault(f"a volume asks for the key {item['key']}, which is not there")
    return {item["path"]: content[item["key"]] for item in items}


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _swap(folder: Path, files: Mapping[str, str]) -> None:
    """As a kubelet does it: what is seen are links into a folder that is swapped at once."""
    version = folder / f"..{uuid.uuid4().hex}"
    for name, text in files.items():
        path = version / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "..swap").symlink_to(version.name)
    os.replace(folder / "..swap", folder / "..data")
    for first in {Path(name).parts[0] for name in files}:
        if not (folder / first).is_symlink():
            (folder / first).symlink_to(f"..data/{first}")


def _at_install(job: Object) -> bool:
    hooks = job["metadata"].get("annotations", {}).get("helm.sh/hook", "")
    return not hooks or "install" in hooks


def _target(service: Object, pod: Pod, port: int) -> int:
    """The pod's port behind a Service's; a headless Service has none of its own, so callers meet the pod's."""
    known = next((entry for entry in service["spec"]["ports"] if entry["port"] == port), None)
    if known is None:
        raise ChartFault(f"the Service {service['metadata']['name']} has no port {port}")
    target = pod.port(known.get("targetPort", port))
    if service["spec"].get("clusterIP") == "None" and target != port:
        raise ChartFault(f"{service['metadata']['name']} is headless, so {port} reaches nobody: the pod has {target}")
    return target


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` replaced, as Kubernetes does."""
    return re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], found[0]), text)
