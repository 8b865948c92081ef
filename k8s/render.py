"""Renders helm/freshrank into k8s/: `make render`.

`base/` is the chart with `base/values.yaml`. A component is the difference that its own `values.yaml` makes to that:
objects that come, and for each object that changes a strategic merge patch of no more than the change. What a component
changes in the objects of an earlier one is a patch that waits for them. So components can be put together, and there
is one hand-written source.
"""

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
K8S, CHART = ROOT / "k8s", ROOT / "helm" / "freshrank"
BASE_VALUES = K8S / "base" / "values.yaml"
COMPONENTS = ("network-policies", "gpu", "keda", "tracing", "mtls", "strimzi")
"""In the order in which they are put together: Strimzi's certificates come after those of `mtls`."""

MERGED_BY = {
    "containers": "name", "initContainers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath",
    "ports": "containerPort",
}  # fmt: skip
"""Lists of a pod that the API merges by a key; every other list is replaced as a whole."""

Object = dict[str, Any]


@cache
def rendered(helm: str, *values: Path) -> str:
    """What the chart makes of the base's values and these. Hooks and tests are helm's own: kubectl runs neither."""
    files = [word for file in (BASE_VALUES, *values) for word in ("-f", str(file))]
    command = [helm, "template", "freshrank", str(CHART), "--kube-version", "1.30.0", "--no-hooks", *files]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def pages(helm: str) -> Iterator[tuple[Path, str]]:
    """Each generated file and what should be in it."""
    text = rendered(helm)
    yield K8S / "base" / "freshrank.yaml", text
    base = by_name(text)
    for number, name in enumerate(COMPONENTS):
        folder = K8S / "components" / name
        come, changed = difference(base, by_name(rendered(helm, folder / "values.yaml")))
        waiting = [patch for other in COMPONENTS[:number] for patch in meeting(helm, base, other, name)]
        for part, objects in (("resources", come), ("patches", changed)):
            if objects:
                yield folder / f"{part}.yaml", _text(objects)
        yield folder / "kustomization.yaml", _kustomization(bool(come), bool(changed), waiting)


def meeting(helm: str, base: dict[str, Object], first: str, second: str) -> list[Object]:
    """Patches of what one component brought, where another changes it."""
    files = [K8S / "components" / name / "values.yaml" for name in (first, second)]
    before, after = by_name(rendered(helm, files[0])), by_name(rendered(helm, *files))
    _, changed = difference({name: thing for name, thing in before.items() if name not in base}, after)
    return changed


def difference(before: dict[str, Object], after: dict[str, Object]) -> tuple[list[Object], list[Object]]:
    """Objects that come, and patches of those that change or go."""
    changed = []
    for name, thing in before.items():
        identity = {key: thing[key] for key in ("apiVersion", "kind")} | {
            "metadata": {"name": thing["metadata"]["name"]}
        }
        if name not in after:
            changed.append({"$patch": "delete"} | identity)
        elif thing != after[name]:
            patch = _patch(thing, after[name])
            changed.append(identity | patch | {"metadata": identity["metadata"] | patch.get("metadata", {})})
    return [thing for name, thing in after.items() if name not in before], changed


def _patch(before: Object, after: Object) -> Object:
    """What makes one of the other: only keys that differ; None takes a key away.

    >>> _patch({"a": 1, "env": [{"name": "x", "value": 1}]}, {"env": [{"name": "x", "value": 2}]})
    {'env': [{'name': 'x', 'value': 2}], 'a': None}
    """
    found: Object = {}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := _patch(old, value):
                found[key] = inner
        elif key in MERGED_BY and isinstance(value, list) and isinstance(old, list):
            if entries := _entries(MERGED_BY[key], old, value):
                found[key] = entries
        elif value != old:
            found[key] = value
    return found | {key: None for key in before if key not in after}


def _entries(name: str, before: list[Object], after: list[Object]) -> list[Object]:
    """The same of a list that is merged by a key of its entries."""
    old, new = ({entry[name]: entry for entry in entries} for entries in (before, after))
    changed = [{name: key} | _patch(old.get(key, {}), entry) for key, entry in new.items() if entry != old.get(key)]
    return changed + [{name: key, "$patch": "delete"} for key in old if key not in new]


def by_name(text: str) -> dict[str, Object]:
    """Objects of a stream of documents by kind and name."""
    objects = [thing for thing in yaml.safe_load_all(text) if thing]
    return {f"{thing['kind']}/{thing['metadata']['name']}": thing for thing in objects}


def _text(objects: list[Object]) -> str:
    head = "# Rendered from helm/freshrank by `make render`; change the chart, or values.yaml beside this.\n"
    return head + yaml.safe_dump_all(objects, sort_keys=False, width=120)


def _kustomization(resources: bool, patches: bool, waiting: list[Object]) -> str:
    head = "# Written by `make render`.\n"
    entries: list[Object] = [{"path": "patches.yaml"}] if patches else []
    for patch in waiting:  # a target that nothing is like is none
        target = {"kind": patch["kind"], "name": patch["metadata"]["name"]}
        entries.append({"target": target, "patch": yaml.safe_dump(patch, sort_keys=False)})
    found: Object = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}
    found |= {"resources": ["resources.yaml"]} if resources else {}
    found |= {"patches": entries} if entries else {}
    return head + yaml.dump(found, Dumper=_Blocks, sort_keys=False, width=120)


class _Blocks(yaml.SafeDumper):
    """Writes texts of several lines as they are."""


_Blocks.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


if __name__ == "__main__":
    for path, text in pages(sys.argv[1]):
        path.write_text(text)
