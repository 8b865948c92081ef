"""The tables of the docs equal the code they are about."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from freshrank import Client

from docs.generate import ROOT, fill, pages


def test_every_page_is_as_its_sources_say() -> None:
    stale = [path.name for path, content in pages() if path.read_text() != content]
    assert stale == [], "run `make docs`"


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(LookupError, match="topics"):
        fill("nothing here", {"topics": "| a |"})


PAGES = sorted(p for p in (ROOT / "docs").rglob("*.md")) + [ROOT / "README.md", *ROOT.glob("*/README.md")]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_python_of_the_readme_uses_what_there_is() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    tree = ast.parse(example)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
    methods = {n.func.attr for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    assert all(hasattr(Client, method) for method in methods)
