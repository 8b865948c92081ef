"""What of helm/freshrank is written from other files: the table of values in its README, and its list of topics."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from services.common.topics import TOPICS

CHART = Path(__file__).parents[1] / "helm" / "freshrank"

_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):( |$)")
_COMMENT = re.compile(r"^ *# -- (.*)$")


def topics() -> str:
    """topics.yaml: what the chart has to know of each topic."""
    lines = [
        f"  - {{name: {topic.name}, single: {_flag(topic.single)}, fixed: {_flag(topic.fixed)},"
        f" config: {json.dumps(topic.config)}}}"
        for topic in TOPICS
    ]
    return "\n".join(["# Written from services/common/topics.py by `make docs`.", "topics:", *lines, ""])


def _flag(value: bool) -> str:
    return str(value).lower()


def values_table(text: str) -> str:
    """One row for each commented key of a values file, as helm-docs has it.

    >>> print(values_table("a:\\n  # -- What it is\\n  b: 2Gi\\n"))
    | Key | Default | What |
    | --- | --- | --- |
    | `a.b` | `2Gi` | What it is |
    """
    loaded = yaml.safe_load(text)
    rows = [f"| `{path}` | {_default(_at(loaded, path))} | {_cell(what)} |" for path, what in comments(text)]
    return "\n".join(["| Key | Default | What |", "| --- | --- | --- |", *rows])


def comments(text: str) -> Iterator[tuple[str, str]]:
    """Path and comment of each key that has one of the form `# -- ...` above it."""
    parents: list[tuple[int, str]] = []
    said = ""
    for line in text.splitlines():
        if found := _COMMENT.match(line):
            said = found[1]
        elif found := _KEY.match(line):
            depth = len(found[1])
            parents = [*(p for p in parents if p[0] < depth), (depth, found[2])]
            if said:
                yield ".".join(name for _, name in parents), said
            said = ""


def _at(values: Mapping[str, Any], path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


def _default(value: Any) -> str:
    if value in ("", [], {}):
        return "empty"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _cell(text: str) -> str:
    return re.sub(r"`[^`]*`|<", lambda found: found[0].replace("<", "&lt;") if found[0] == "<" else found[0], text)
