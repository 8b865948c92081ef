"""Writes the tables of the docs from the code they are about: `make docs`.

A table lies between `<!-- name:begin -->` and `<!-- name:end -->`; what stands around it is written by hand.
A test writes every page again and compares.
"""

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs import chart, dashboards, learning, search, technique_pages
from docs.panels import DASHBOARDS
from services.common.settings import SHARED_PREFIX, ServiceSettings
from services.common.topics import TOPICS

ROOT = Path(__file__).parents[1]
SERVICES = ("gateway", "ingest", "features", "joiner", "trainer", "publisher")
"""In the order of the data."""
STREAMS = frozenset({"ingest", "features", "joiner"})
"""Those that the stage runtime carries; its metrics are theirs too."""


def settings_of(service: str) -> type[ServiceSettings]:
    """The settings class of a service: the one that `services.<service>.settings` defines."""
    module = importlib.import_module(f"services.{service}.settings")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ServiceSettings) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise LookupError(f"services.{service}.settings defines {len(found)} settings classes, not one")
    return found[0]


def own_fields(service: str) -> dict[str, FieldInfo]:
    """What a service adds to the settings that all have."""
    return {name: f for name, f in settings_of(service).model_fields.items() if name not in shared_fields()}


def shared_fields() -> dict[str, FieldInfo]:
    """The settings that all services have."""
    return dict(ServiceSettings.model_fields)


def topics_table() -> str:
    """One row per topic: what lies on it, who writes it, who reads it."""
    rows = [
        (
            f"`{t.name}`",
            t.key,
            t.message,
            ", ".join(t.producers),
            ", ".join(t.consumers),
            "one" if t.single else "as first set" if t.fixed else "as set",
            _kept(t.config),
        )
        for t in TOPICS
    ]
    return _table(("Topic", "Key", "Message", "Written by", "Read by", "Partitions", "Kept"), rows)


def settings_tables() -> str:
    """One table of the shared settings, one per service, one of the `freshrank` command."""
    parts = [f"### All services: `{SHARED_PREFIX}<NAME>`\n\n{_settings(shared_fields())}"]
    for service in (*SERVICES, "cli"):
        heading = f"### {service}: `{SHARED_PREFIX}{service.upper()}_<NAME>`"
        parts.append(f"{heading}\n\n{_settings(own_fields(service))}")
    return "\n\n".join(parts)


def metrics_tables() -> str:
    """One table per service of what its `/metrics` holds."""
    parts = []
    for service in SERVICES:
        rows = [(f"`{name}`", *rest) for name, *rest in metrics_of(service)]
        parts.append(
            f"### {service}: `freshrank_{service}_<name>`\n\n{_table(('Name', 'Kind', 'Labels', 'What'), rows)}"
        )
    return "\n\n".join(parts)


def metrics_of(service: str) -> list[tuple[str, str, str, str]]:
    """Name without the service's prefix, kind, labels and meaning of each metric that a service declares."""
    paths = sorted((ROOT / "services" / service).rglob("*.py"))
    paths += sorted((ROOT / "services" / "common").glob("*.py")) if service in STREAMS else []
    return [row for path in paths for row in _metrics(ast.parse(path.read_text()))]


def fill(text: str, tables: Mapping[str, str]) -> str:
    """Put each table between its marks. Raises LookupError when a mark is missing.

    >>> fill("a <!-- t:begin -->old<!-- t:end --> b", {"t": "new"}).split()
    ['a', '<!--', 't:begin', '-->', 'new', '<!--', 't:end', '-->', 'b']
    """
    for name, table in tables.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise LookupError(f"no marks for {name}")
        text = pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text)  # noqa: B023 - used at once
    return text


def pages() -> Iterator[tuple[Path, str]]:
    """Each page with its tables as they should be."""
    tables = {
        ROOT / "docs" / "architecture.md": {"topics": topics_table()},
        ROOT / "docs" / "operations.md": {"settings": settings_tables(), "metrics": metrics_tables()},
        chart.CHART / "README.md": {"values": chart.values_table((chart.CHART / "values.yaml").read_text())},
    }
    for path, named in tables.items():
        yield path, fill(path.read_text(), named)
    yield chart.CHART / "topics.yaml", chart.topics()
    yield ROOT / "docs" / "techniques.md", technique_pages.page()
    yield from technique_pages.family_pages()
    yield ROOT / "docs" / "learning.md", learning.page()
    yield ROOT / "docs" / "search.md", search.page()
    for dashboard in DASHBOARDS:
        yield ROOT / "helm" / "freshrank" / "dashboards" / f"{dashboard.name}.json", dashboards.page(dashboard)


def _settings(fields: Mapping[str, FieldInfo]) -> str:
    rows = [(f"`{name.upper()}`", _default(f), f.description or "") for name, f in fields.items()]
    return _table(("Name", "Default", "What"), rows)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined or value is None:
        return "required" if field.is_required() else "none"
    return f"`{value}`" if str(value) else "empty"


def _metrics(tree: ast.Module) -> Iterator[tuple[str, str, str, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="counter" | "gauge" | "histogram" as kind),
                args=[ast.Constant(value=str(name)), ast.Constant(value=str(text)), *rest],
            ):
                given = [*rest[:1], *(word.value for word in node.keywords if word.arg == "labels")]
                labels = [
                    str(part.value) for value in given for part in ast.walk(value) if isinstance(part, ast.Constant)
                ]
                yield name, kind, ", ".join(labels), text


def _kept(config: Mapping[str, str]) -> str:
    if config.get("cleanup.policy") == "compact":
        return "newest per key"
    return f"{int(config['retention.ms']) // 86_400_000} days"


def _cell(text: str) -> str:
    return text if text.startswith("`") else text.replace("|", "\\|").replace("<", "&lt;")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


if __name__ == "__main__":
    for page, content in pages():
        page.write_text(content)
