"""The architecture as rules that fail: who may import whom, and where technologies may be named."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from docs.generate import SERVICES

ROOT = Path(__file__).parents[2]
TRANSPORTS = {
    "faust": "faust",
    "mode": "faust",
    "aiokafka": "faust",
    "grpc": "grpc",
    "grpc_health": "grpc",
    "grpc_reflection": "grpc",
    "grpc_status": "grpc",
    "confluent_kafka": "kafka",
    "kubernetes": "kubernetes",
    "feast": "feast",
    "redis": "redis",
    "tritonclient": "triton",
}
"""Package -> the name a module or folder must have to import it."""
EDGES = {"app", "__main__", *TRANSPORTS.values()}


def test_the_import_contracts_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run([lint, "--no-cache"], cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}, capture_output=True)
    assert ended.returncode == 0, ended.stdout.decode()


def test_domain_modules_import_no_transport() -> None:
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for part in (*SERVICES, "common")
        for path in sorted((ROOT / "services" / part).rglob("*.py"))
        if not at_the_edge(path.relative_to(ROOT / "services" / part))
        for name in imported(path)
        if name.split(".")[0] in TRANSPORTS
    ]
    assert found == []


def test_the_oracle_imports_nothing_of_the_services_it_judges() -> None:
    files = list((ROOT / "services" / "demo" / "oracle").glob("*.py"))
    assert len(files) > 1
    names = {name for path in files for name in imported(path) if name.split(".")[0] == "services"}
    assert [name for name in names if not name.startswith("services.demo.oracle")] == []


def test_tensors_are_written_in_one_place_only() -> None:
    # What safetensors writes of an array that is not contiguous has other values, and nothing says so.
    files = [path for path in (ROOT / "services").rglob("*.py") if path.name != "tensors.py"]
    savers = [p.name for p in files if re.search(r"safetensors\.\w+ import .*\bsave|\bsave_file\b", p.read_text())]
    assert savers == []


def test_services_are_started_by_short_modules() -> None:
    long = {s: lines for s in SERVICES if (lines := len(text(s, "__main__.py").splitlines())) > 15}
    assert long == {}


def at_the_edge(path: Path) -> bool:
    return any(part.removesuffix(".py") in EDGES for part in path.parts)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def text(service: str, name: str) -> str:
    return (ROOT / "services" / service / name).read_text()
