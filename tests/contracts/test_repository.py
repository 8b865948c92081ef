"""What no committed file may hold: addresses of package indexes, paths of one machine, unfinished work."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = {
    "a package index": r"pypi\.org|pythonhosted\.org|maven\.org|/maven2/|proxy\.golang|npmjs|/simple/"
    r"|(?<!emit-)index-url\b|find-links[ =]https?:",
    "a path of one machine": r"(?<![\w.])/(?:work|root|home|Users|farm)/",
    "unfinished work": r"\b(?:TODO|FIXME|XXX|HACK)\b",
    "a loader of code from data": r"^\s*(?:import|from) (?:pickle|dill|cloudpickle)\b|\b(?:pickle|dill)\.loads?\(",
}
ITSELF = "tests/contracts/test_repository.py"


def committed() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and name != ITSELF and (ROOT / name).is_file()]


@pytest.mark.parametrize("what", RULES)
def test_no_committed_file_holds(what: str) -> None:
    rule = re.compile(RULES[what], re.MULTILINE)
    found = [
        f"{path.relative_to(ROOT)}: {hit.group()}"
        for path in committed()
        if (hit := rule.search(path.read_text(errors="replace")))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a package index", "--index-url https://host/simple/"),
        ("a path of one machine", "see /root/notes"),
        ("unfinished work", "# TODO later"),
        ("a loader of code from data", "import pickle"),
    ],
)
def test_each_rule_can_fail(what: str, text: str) -> None:
    assert re.search(RULES[what], text, re.MULTILINE)
