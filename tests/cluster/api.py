"""Objects of any kind by the Python client's transport, in the terms of kubectl: create, get, delete, dry-run."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.client import ApiException

Object = dict[str, Any]

MERGE = "application/merge-patch+json"


@dataclass(frozen=True)
class Resource:
    """A kind as the server offers it."""

    root: str
    """`/api/v1` or `/apis/<group>/<version>`."""
    name: str
    """In the plural, as it stands in a path."""
    kind: str
    namespaced: bool
    verbs: frozenset[str]

    def path(self, namespace: str = "", name: str = "") -> str:
        """Of an object, or of all objects when there is no name."""
        middle = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{self.root}{middle}/{self.name}{f'/{name}' if name else ''}"


class Api:
    """One server; each method raises ApiException as the server refuses."""

    def __init__(self, kubeconfig: Path) -> None:
        self._client = config.new_client_from_config(str(kubeconfig))
        # It would read kubeconfig and environment again for each request, and pytest changes that in another thread.
        self._client.configuration.refresh_api_key_hook = None
        self._known: dict[tuple[str, str], Resource] = {}
        self._all: list[Resource] = []

    def call(self, method: str, path: str, body: object = None, kind: str = "application/json", **query: str) -> Object:
        """One request and its answer."""
        headers = {"Accept": "application/json", "Content-Type": kind}
        request = self._client.param_serialize(
            method, path, {}, list(query.items()), headers, body, auth_settings=["BearerToken"]
        )
        response = self._client.call_api(*request, _request_timeout=30)
        text = response.read()
        if not 200 <= response.status <= 299:
            raise ApiException.from_response(http_resp=response, body=text.decode(), data=None)
        answer: Object = json.loads(text)
        return answer

    def resources(self) -> list[Resource]:
        """Every kind in every version, subresources left out; asked for once, so after all kinds are there."""
        if not self._all:
            self._all = list(self._listed())
        return self._all

    def _listed(self) -> Iterator[Resource]:
        groups = self.call("GET", "/apis")["groups"]
        roots = ["/api/v1", *(f"/apis/{version['groupVersion']}" for group in groups for version in group["versions"])]
        for root in roots:
            for found in self.call("GET", root)["resources"]:
                if "/" not in found["name"]:
                    verbs = frozenset(found["verbs"])
                    yield Resource(root, found["name"], found["kind"], found["namespaced"], verbs)

    def resource(self, version: str, kind: str) -> Resource:
        """The kind of an object's `apiVersion` and `kind`; LookupError when the server has none."""
        if (version, kind) not in self._known:
            self._known[version, kind] = self._looked_up(version, kind)
        return self._known[version, kind]

    def _looked_up(self, version: str, kind: str) -> Resource:
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        for found in self.call("GET", root)["resources"]:
            if found["kind"] == kind and "/" not in found["name"]:
                return Resource(root, found["name"], kind, found["namespaced"], frozenset(found["verbs"]))
        raise LookupError(f"no kind {kind} in {version}")

    def create(self, thing: Object, namespace: str = "", **query: str) -> Object:
        """Make it; in its own namespace if it names one."""
        resource = self.resource(thing["apiVersion"], thing["kind"])
        return self.call("POST", resource.path(thing["metadata"].get("namespace", namespace)), thing, **query)

    def try_out(self, thing: Object, namespace: str) -> Object:
        """What would be made of it, by all of admission and validation; an unknown or doubled field is refused."""
        thing = thing | {"metadata": {key: value for key, value in thing["metadata"].items() if key != "namespace"}}
        return self.create(thing, namespace, dryRun="All", fieldValidation="Strict")

    def get(self, path: str) -> Object:
        """One object or list."""
        return self.call("GET", path)

    def items(self, path: str, **query: str) -> list[Object]:
        """The objects of a list."""
        listed = self.call("GET", path, **query)
        whole = {"apiVersion": listed["apiVersion"], "kind": listed["kind"].removesuffix("List")}
        return [whole | item for item in listed["items"]]

    def patch_status(self, path: str, status: Mapping[str, Any]) -> None:
        """Say how an object is."""
        self.call("PATCH", f"{path}/status", {"status": status}, kind=MERGE)

    def delete(self, path: str, **body: object) -> None:
        """Take it away with all that hangs on it; what is gone already is no fault."""
        try:
            self.call("DELETE", path, {"propagationPolicy": "Background"} | body)
        except ApiException as error:
            if error.status != 404:
                raise

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()


def eventually(found: Callable[[], Any], timeout_s: float = 60.0, every_s: float = 0.1) -> Any:
    """The first true answer of `found`. AssertionError in time."""
    until = time.monotonic() + timeout_s
    while not (answer := found()):
        assert time.monotonic() < until, "it did not come in time"
        time.sleep(every_s)
    return answer
