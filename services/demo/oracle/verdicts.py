"""The promises and whether they hold."""

import time
from typing import Any


class Verdicts:
    """The promises and whether they hold."""

    def __init__(self) -> None:
        self.checks: list[dict[str, Any]] = []

    def add(self, name: str, held: bool, detail: str) -> None:
        """Note one and print it."""
        self.checks.append({"name": name, "held": bool(held), "detail": detail})
        print(f"{'holds ' if held else 'BROKEN'}  {name}: {detail}  [{time.process_time():.1f} s]", flush=True)

    @property
    def held(self) -> bool:
        """True when all hold."""
        return all(check["held"] for check in self.checks)
