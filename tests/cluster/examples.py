"""The chart's example values, and what a user has to bring for each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.node import TLS
from tests.deploy.manifests import CHART, Object, parse, render, values

DEFAULTS = "defaults"
EXAMPLES = {DEFAULTS: None} | {path.stem: path for path in sorted((CHART / "examples").glob("*.yaml"))}


def options(example: str) -> list[str]:
    """What helm is told to use it."""
    path = EXAMPLES[example]
    return ["-f", str(path)] if path else []


def objects(example: str, release: str = "freshrank") -> list[Object]:
    """All that is rendered, hooks and tests too."""
    return parse(render(*options(example), release=release))


def merged(example: str) -> Object:
    """The chart's values with those of the example on top."""
    path: Path | None = EXAMPLES[example]
    return over(values(), yaml.safe_load(path.read_text()) or {} if path else {})


def over(below: Object, above: Object) -> Object:
    """Both, as helm puts one values file over another.

    >>> over({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    both = {
        k: over(below[k], v) if isinstance(v, dict) and isinstance(below.get(k), dict) else v for k, v in above.items()
    }
    return below | both


def secrets(example: str) -> dict[str, dict[str, str]]:
    """The Secrets whose names the values give: each with its key, and with all files of a certificate."""
    found: dict[str, dict[str, str]] = {}
    for part in _parts(merged(example)):
        if name := part.get("existingSecret"):
            keys = [key for field, key in part.items() if field.startswith("existingSecret") and field.endswith("Key")]
            found.setdefault(name, {}).update(dict.fromkeys([*keys, *TLS, ".netrc"], "not read here"))
    return found


def brought(example: str) -> list[Object]:
    """What an example's user has beforehand: the objects that its values name."""
    found = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}
        for name, content in secrets(example).items()
    ]
    if name := merged(example)["featureRepo"]["configMap"]:
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"views.py": ""}})
    parts = list(_parts(merged(example)))
    for name in {part["existingClaim"] for part in parts if part.get("existingClaim")}:
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        found.append({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec})
    for name in {part["priorityClassName"] for part in parts if part.get("priorityClassName")}:
        kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
        found.append({**kind, "metadata": {"name": name}, "value": 1000})
    return found


def _parts(node: Any) -> Iterator[Object]:
    if isinstance(node, dict):
        yield node
    children: Sequence[Any] = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    for child in children:
        yield from _parts(child)
