"""What is known about arms across restarts: who is the incumbent, which trial runs, what it has counted. One file.

Counted is what lies in closed periods. Of the open ones the file holds where their first rows lie, so after a restart
they are read again: nothing is counted twice, and nothing is lost.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from freshrank.v1.models_pb2 import ArmShare, ArmSplit

from services.common.arms import MAIN, Share, Split
from services.common.errors import CorruptState
from services.publisher.arms.comparison import Comparison
from services.publisher.arms.guards import Tally
from services.publisher.arms.terms import Terms
from services.publisher.files import Disk

VERSION = 1
RUNNING, PROMOTED, DROPPED, STOPPED = "running", "promoted", "dropped", "stopped"


@dataclass(frozen=True)
class Standing:
    """How one challenger stands."""

    arm: str
    share: float
    state: str = RUNNING
    reason: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Counted:
    """Everything in closed periods, and where the open ones begin."""

    comparisons: dict[str, Comparison] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    units: int = 0
    impressions: int = 0
    reward: float = 0.0
    closed: int = -1
    """Number of the last closed period."""
    late: int = 0
    """Impressions that came after their period was closed."""
    begins: dict[int, dict[int, int]] = field(default_factory=dict)
    """First offset of each partition that may hold rows of an open period."""
    positions: dict[int, int] = field(default_factory=dict)
    """Next offset of each partition when this was written; empty before the trial has found its place."""

    @property
    def resume(self) -> dict[int, int]:
        """Where reading begins after a restart: before the first row of any open period."""
        found = dict(self.positions)
        for begins in self.begins.values():
            found |= {p: min(offset, found.get(p, offset)) for p, offset in begins.items()}
        return found

    @property
    def usual(self) -> float:
        """Reward per impression of everything closed; 0 before."""
        return self.reward / self.impressions if self.impressions else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            **{name: getattr(self, name) for name in ("units", "impressions", "reward", "closed", "late")},
            "comparisons": {arm: found.to_json() for arm, found in self.comparisons.items()},
            "tallies": {arm: tally.to_json() for arm, tally in self.tallies.items()},
            "begins": {str(n): {str(p): o for p, o in found.items()} for n, found in self.begins.items()},
            "positions": {str(p): offset for p, offset in self.positions.items()},
        }

    @staticmethod
    def of_json(data: Mapping[str, Any]) -> "Counted":
        """The inverse."""
        return Counted(
            comparisons={arm: Comparison.of_json(found) for arm, found in data["comparisons"].items()},
            tallies={arm: Tally.of_json(tally) for arm, tally in data["tallies"].items()},
            **{name: data[name] for name in ("units", "impressions", "reward", "closed", "late")},
            begins={int(n): {int(p): int(o) for p, o in found.items()} for n, found in data["begins"].items()},
            positions={int(p): int(offset) for p, offset in data["positions"].items()},
        )


@dataclass(frozen=True)
class ArmsBook:
    """Everything; a change is a new book."""

    split: Split = Split()
    terms: Terms | None = None
    """Of the trial that runs, or ran last."""
    ended_us: int = 0
    standings: tuple[Standing, ...] = ()
    counted: Counted = field(default_factory=Counted)

    @property
    def running(self) -> bool:
        """A trial runs."""
        return self.terms is not None and not self.ended_us

    def stands(self, standing: Standing) -> "ArmsBook":
        """With another standing of one challenger."""
        return replace(self, standings=tuple(standing if s.arm == standing.arm else s for s in self.standings))


def message_of(split: Split) -> ArmSplit:
    """What gateways are told."""
    shares = [ArmShare(arm=c.arm, share=c.share) for c in split.challengers]
    return ArmSplit(incumbent=split.incumbent, trial=split.trial, challengers=shares, sticky_us=split.sticky_us)


def write(path: Path, book: ArmsBook, disk: Disk) -> None:
    """Replace the file."""
    data = {
        "version": VERSION,
        "incumbent": book.split.incumbent,
        "split": asdict(book.split),
        "terms": asdict(book.terms) if book.terms else None,
        "ended_us": book.ended_us,
        "standings": [asdict(standing) for standing in book.standings],
        "counted": book.counted.to_json(),
    }
    disk.replace(path, json.dumps(data).encode())


def read(path: Path) -> ArmsBook:
    """The book of a file; without one `main` answers everybody. Raises CorruptState."""
    try:
        data = json.loads(path.read_bytes())
        if data["version"] != VERSION:
            raise ValueError("another version")
        split, terms = data["split"], data["terms"]
        return ArmsBook(
            split=Split(**{**split, "challengers": tuple(_share(c) for c in split["challengers"])}),
            terms=Terms(**{**terms, "challengers": tuple(terms["challengers"])}) if terms else None,
            ended_us=data["ended_us"],
            standings=tuple(Standing(**standing) for standing in data["standings"]),
            counted=Counted.of_json(data["counted"]),
        )
    except FileNotFoundError:
        return ArmsBook(Split(MAIN))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise CorruptState(f"{path.name}: {type(error).__name__}: {error}") from error


def _share(data: Mapping[str, Any]) -> Share:
    return Share(data["arm"], data["share"])
