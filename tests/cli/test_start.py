"""The command as a program: quick to start, lazy, and handing over to others."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.fakes import run

ROOT = Path(__file__).parents[2]
HEAVY = ("grpc", "pyarrow", "numpy", "pandas", "confluent_kafka", "feast", "torch", "pydantic_settings", "rich")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_putting_the_command_together_imports_nothing_heavy() -> None:
    code = f"import sys; import services.cli.app as a; a.build(); print([m for m in {HEAVY!r} if m in sys.modules])"
    assert python("-c", code).stdout.strip() == "[]"


@pytest.mark.pipeline  # it imports every service: seconds, no servers
def test_the_demo_takes_its_own_options_and_its_exit_code_is_the_commands() -> None:
    ended = python("-m", "services.cli", "demo", "--no-such-option")
    assert ended.returncode == 2
    assert "--domain" in ended.stderr


@pytest.mark.parametrize(
    "name",
    [
        "demo",
        "replay",
        "import",
        "status",
        "freeze",
        "unfreeze",
        "releases",
        "explain",
        "forget",
        "features",
        "evaluate",
        "topics",
    ],
)
def test_the_help_names_every_command(name: str) -> None:
    assert f"\n  {name} " in run("--help").out


def test_the_version_is_shown() -> None:
    assert run("--version").out.strip()
