"""Stands for scheduler, kubelet, volumes and the operators that fill Secrets, so that what is installed becomes ready.

No container runs: a pod is ready as soon as everything that it refers to is there, and a pod that is not to be started
again has succeeded, unless a test runs it. What a real node would wait for, this one waits for too: a claim, a
ConfigMap, a Secret and its key.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from tests.cluster.api import Api, Object

NAME = "node"
TLS = ("ca.crt", "tls.crt", "tls.key")
RUN_AT_ONCE = 4
"""Pods that end and are run here side by side: some wait for each other."""
_EVERY_S = 0.1

log = logging.getLogger(__name__)


def runs_for_ever(pod: Object) -> bool:
    """Whether it is a server and no job."""
    return bool(pod["spec"].get("restartPolicy", "Always") == "Always")


class Node:
    """One node that all pods fit on; looks at the cluster ten times a second, from `with` to its end."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node", daemon=True)
        self._addresses = 0
        self._filled: set[str] = set()
        self.waiting: dict[str, list[str]] = {}
        """What each pod lacks, by its name: for the message of a test that waited in vain."""
        self.runners: dict[str, Callable[[Object], Mapping[str, int]]] = {}
        """Who runs pods that end, by namespace: the exit status of each container that was started."""
        self._running = ThreadPoolExecutor(RUN_AT_ONCE, "pod")
        self._runs: dict[str, Future[Mapping[str, int]]] = {}

    def __enter__(self) -> Self:
        self._api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}})
        conditions = [{"type": "Ready", "status": "True", "reason": "Test", "message": "", "lastTransitionTime": None}]
        self._api.patch_status(f"/api/v1/nodes/{NAME}", {"conditions": conditions})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._running.shutdown()

    def _run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            try:
                self.turn()
            except (ApiException, HTTPError) as error:
                # Somebody was quicker, or the server is away for a while: the next look tells.
                log.info("a look at the cluster failed: %s", error)

    def turn(self) -> None:
        """Look at everything once and move it on."""
        pods = self._api.items("/api/v1/pods", resourceVersion="0")
        self.waiting = {
            name: lack for name, lack in self.waiting.items() if name in {p["metadata"]["name"] for p in pods}
        }
        for pod in pods:
            with contextlib.suppress(ApiException):
                self._move(pod)
        for claim in self._api.items("/api/v1/persistentvolumeclaims", resourceVersion="0"):
            if claim["status"].get("phase") == "Pending" and not claim["spec"].get("volumeName"):
                self._api.create(_volume(claim))
        for owner, name, content in filled(self._api):
            if owner["metadata"]["uid"] not in self._filled:
                self._filled.add(owner["metadata"]["uid"])
                self._api.create(_secret(owner, name, content), owner["metadata"]["namespace"])
        for volume in self._api.items("/api/v1/persistentvolumes", resourceVersion="0"):
            if volume["status"].get("phase") == "Released":
                self._api.delete(f"/api/v1/persistentvolumes/{volume['metadata']['name']}")

    def _move(self, pod: Object) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        if "deletionTimestamp" in meta:
            self._api.delete(path, gracePeriodSeconds=0)
        elif not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": NAME}
            self._api.call("POST", f"{path}/binding", {"metadata": {"name": meta["name"]}, "target": target})
        elif pod["status"].get("phase") == "Pending":
            self.waiting[meta["name"]] = lacks = list(missing(self._api, pod))
            if not lacks and (status := self._status(pod)):
                self._api.patch_status(path, status)

    def _status(self, pod: Object) -> Object | None:
        if not runs_for_ever(pod):
            return self._end(pod)
        self._addresses += 1
        address = f"10.97.{self._addresses >> 8}.{self._addresses & 255}"
        conditions = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "ContainersReady", "Ready")]
        return {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions}

    def _end(self, pod: Object) -> Object | None:
        """Run once, whatever a cached list says of it afterwards; None until it has ended."""
        runner, uid = self.runners.get(pod["metadata"]["namespace"]), pod["metadata"]["uid"]
        if runner is None:
            return {"phase": "Succeeded"}
        if uid not in self._runs:
            self._runs[uid] = self._running.submit(runner, pod)
        run = self._runs[uid]
        return _ended(pod, run.result()) if run.done() else None


def _ended(pod: Object, codes: Mapping[str, int]) -> Object:
    """What a kubelet says of a pod whose containers have ended with these."""

    def statuses(containers: list[Object]) -> list[Object]:
        known = {"imageID": "", "ready": False, "restartCount": 0}
        started = [container for container in containers if container["name"] in codes]
        return [
            {"name": c["name"], "image": c["image"], "state": {"terminated": {"exitCode": codes[c["name"]]}}} | known
            for c in started
        ]

    return {
        "phase": "Failed" if any(codes.values()) else "Succeeded",
        "initContainerStatuses": statuses(pod["spec"].get("initContainers", [])),
        "containerStatuses": statuses(pod["spec"]["containers"]),
    }


def filled(api: Api) -> Iterator[tuple[Object, str, dict[str, str]]]:
    """Owner, name and content of the Secrets that operators would fill: cert-manager's and Strimzi's."""
    for certificate in api.items("/apis/cert-manager.io/v1/certificates", resourceVersion="0"):
        yield certificate, certificate["spec"]["secretName"], dict.fromkeys(TLS, "")
    for user in api.items("/apis/kafka.strimzi.io/v1/kafkausers", resourceVersion="0"):
        yield user, user["metadata"]["name"], dict.fromkeys(("ca.crt", "user.crt", "user.key", "password"), "")
    for kafka in api.items("/apis/kafka.strimzi.io/v1/kafkas", resourceVersion="0"):
        yield kafka, f"{kafka['metadata']['name']}-cluster-ca-cert", {"ca.crt": ""}


def _secret(owner: Object, name: str, content: dict[str, str]) -> Object:
    """A Secret that goes with its owner."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    meta = {"name": name, "ownerReferences": [reference]}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": content}


def missing(api: Api, pod: Object) -> Iterator[str]:
    """What a pod refers to that is not there."""
    space = f"/api/v1/namespaces/{pod['metadata']['namespace']}"
    for kind, name, keys in sorted(references(pod["spec"])):
        try:
            found = api.get(f"{space}/{kind}/{name}")
        except ApiException:
            yield f"{kind} {name}"
            continue
        if kind == "persistentvolumeclaims" and found["status"].get("phase") != "Bound":
            yield f"{kind} {name} is not bound"
        there = {*found.get("data", {}), *found.get("binaryData", {})}
        yield from (f"{kind} {name} has no key {key}" for key in keys if key not in there)


def references(spec: Object) -> set[tuple[str, str, tuple[str, ...]]]:
    """(kind in the plural, name, keys) of all that a pod cannot start without."""
    return {*_of_volumes(spec), *_of_containers(spec)}


def _of_volumes(spec: Object) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    volumes = spec.get("volumes", [])
    parts = [part for volume in volumes for part in (volume, *volume.get("projected", {}).get("sources", []))]
    for part in parts:
        if "persistentVolumeClaim" in part:
            yield "persistentvolumeclaims", part["persistentVolumeClaim"]["claimName"], ()
        for field, kind in (("secret", "secrets"), ("configMap", "configmaps")):
            if (source := part.get(field)) and not source.get("optional"):
                name = source.get("secretName") or source["name"]
                yield kind, name, tuple(item["key"] for item in source.get("items", []))


def _of_containers(spec: Object) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for source in container.get("envFrom", []):
            for field, kind in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
                if (named := source.get(field)) and not named.get("optional"):
                    yield kind, named["name"], ()
        for entry in container.get("env", []):
            for field, kind in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
                if (named := entry.get("valueFrom", {}).get(field)) and not named.get("optional"):
                    yield kind, named["name"], (named["key"],)


def _volume(claim: Object) -> Object:
    meta, spec = claim["metadata"], claim["spec"]
    made = {
        "capacity": spec["resources"]["requests"],
        "accessModes": spec["accessModes"],
        "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {"namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]},
        "hostPath": {"path": "/nowhere"},
    }
    if "storageClassName" in spec:
        made["storageClassName"] = spec["storageClassName"]
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"v-{meta['uid']}"}, "spec": made}
