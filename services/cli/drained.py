"""Whether the streams have read everything and saved it: what a reshard asks before it moves state. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from services.common.stage import Snapshot
from services.common.topics import EVENTS, INTERACTIONS, ITEM_INTERACTIONS

Snapshots = Mapping[int, Snapshot]

STAGES = (
    ("ingest", EVENTS.name),
    ("features", INTERACTIONS.name),
    ("features", ITEM_INTERACTIONS.name),
    ("joiner", INTERACTIONS.name),
)
"""Whose state there is, by service and topic."""

_INDEX_BITS = 31
"""Of a packed position (features' rows)."""


@dataclass(frozen=True)
class State:
    """The newest snapshot of each stage and partition, and where the logs end."""

    snapshots: Mapping[tuple[str, str], Snapshots] = field(default_factory=dict)
    ends: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """Topic -> partition -> next offset to be written."""

    def of(self, service: str, topic: str) -> Snapshots:
        """Snapshots by partition."""
        return self.snapshots.get((service, topic), {})


def missing(state: State, apart_us: int) -> list[str]:
    """A sentence for each partition that is not ready to be moved, with how much it lacks; none when all are."""
    return [*_unread(state), *_unsaved(state), *_apart(state, apart_us)]


def _unread(state: State) -> Iterator[str]:
    for service, topic in STAGES[1:]:
        found = state.of(service, topic)
        for partition, end in state.ends[topic].items():
            at = found[partition].next_offset if partition in found else 0
            if at > end:
                yield f"{service}, {topic}-{partition}: its state is {at - end} messages beyond the end: another log?"
            elif at < end:
                yield f"{service}, {topic}-{partition}: {end - at} messages are not in its newest snapshot"


def _unsaved(state: State) -> Iterator[str]:
    """What ingest has written is in its snapshot: else it would take those events once more, on other partitions."""
    saved = state.of("ingest", EVENTS.name)
    for partition, snapshot in state.of("features", INTERACTIONS.name).items():
        at = saved[partition].next_offset if partition in saved else 0
        written = (int(snapshot.meta["applied"]) >> _INDEX_BITS) + 1
        if written > at:
            yield f"ingest, {EVENTS.name}-{partition}: {written - at} taken messages are not in its newest snapshot"


def _apart(state: State, apart_us: int) -> Iterator[str]:
    """Clocks of the log are brought to the newest: windows of a partition far behind would end early."""
    clocks = {p: int(s.meta["clock_us"]) for p, s in state.of("features", INTERACTIONS.name).items()}
    newest = max(clocks.values(), default=0)
    for partition, clock_us in clocks.items():
        if newest - clock_us > apart_us:
            behind = (newest - clock_us) // 1_000_000
            yield f"ingest, {INTERACTIONS.name}-{partition}: its clock is {behind} s behind the newest"


def sentence(found: Sequence[str], most: int = 5) -> str:
    """The first few of them.

    >>> sentence(["a", "b", "c"], most=2)
    'a; b; and 1 more'
    """
    return "; ".join([*found[:most], *([f"and {len(found) - most} more"] if len(found) > most else [])])
