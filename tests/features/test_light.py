"""Feast is imported without torch, so that services without a trainer stay small."""

import subprocess
import sys


def test_reading_the_registry_does_not_load_torch() -> None:
    code = "import sys, services.online.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
