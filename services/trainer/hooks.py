"""Named points of the loop where a test can end the process: what a restart must survive has a name."""

from typing import Protocol

POINTS = (
    "batch.journaled",
    "batch.learned",
    "delta.staged",
    "delta.renamed",
    "checkpoint.staged",
    "checkpoint.renamed",
    "export.staged",
    "export.renamed",
)
"""Every point, in the order a release passes them."""

ARCHIVE_POINTS = ("archive.forgotten", "archive.sealed", "archive.staged", "archive.renamed")
"""Those of an archive that is sealed."""


class Hooks(Protocol):
    """Told when a point is passed."""

    def at(self, point: str) -> None:
        """`point` is one of POINTS or ARCHIVE_POINTS."""
        ...


class NoHooks:
    """Nobody listens."""

    def at(self, point: str) -> None:
        """Nothing."""
