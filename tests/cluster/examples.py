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
    """The Secrets whose names the values give: each with its key, or with all files of a certificate."""
    found: dict[str, dict[str, str]] = {}
    for part in _parts(merged(example)):
        if name := part.get("existingSecret"):
            keys = [key for field, key in part.items() if field.startswith("existingSecret") and field.endswith("Key")]
            found.setdefault(name, {}).update(dict.fromkeys(keys or TLS, "not read here"))
    return found


def config_maps(example: str) -> dict[str, dict[str, str]]:
    """The ConfigMaps whose names the values give."""
    name = merged(example)["featureRepo"]["configMap"]
    return {name: {"views.py": ""}} if name else {}


def _parts(node: Any) -> Iterator[Object]:
    if isinstance(node, dict):
        yield node
    children: Sequence[Any] = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    for child in children:
        yield from _parts(child)
