"""Feast is imported without torch and without checks woven in: services start quickly and stay small."""

import subprocess
import sys


def test_feasts_functions_are_as_written_and_other_peoples_are_checked() -> None:
    code = (
        "import sys, services.online.registry, typeguard, feast.entity\n"
        "plain = not hasattr(feast.entity.Entity.__init__, '__wrapped__')\n"
        "plain &= 'typeguard' not in feast.entity.Entity.__init__.__code__.co_names\n"
        "sys.exit(0 if plain and typeguard.typechecked.__module__.startswith('typeguard') else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reading_the_registry_does_not_load_torch() -> None:
    code = "import sys, services.online.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_feast_does_not_share_metrics_between_processes_or_registries() -> None:
    program = (
        "import os, sys\n"
        "from services.online.light import light\n"
        "with light(): import feast\n"
        "from services.common.metrics import Metrics\n"
        "first, second = (Metrics('x').counter('calls', 'c') for _ in range(2))\n"
        "first.inc()\n"
        "sys.exit(int(second._value.get()) or sum('PROMETHEUS_' in name for name in os.environ))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
