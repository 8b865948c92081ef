"""Heads: what counts as a success of an impression, and how long it is waited for.

A setting in one line, so that shops, news, video and music differ by a text and not by code::

    click=CLICK,PLAY:play_share>=0.3@10m; cart=ADD_TO_CART@1d; purchase=PURCHASE@7d
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from freshrank.v1.events_pb2 import EventKind

from services.common.errors import InvalidInput

DEFAULT = "click=CLICK,PLAY:play_share>=0.3@10m; cart=ADD_TO_CART@1d; purchase=PURCHASE@7d"
COLUMNS = ("rating", "play_share", "play_seconds", "value")
"""Columns of interactions that a trigger may compare."""

_UNITS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_HEAD = re.compile(r"(?P<name>[a-z_]+)=(?P<triggers>[^@]+)@(?P<count>\d+)(?P<unit>[smhd])")
_TRIGGER = re.compile(r"(?P<kind>[A-Z_]+)(:(?P<column>[a-z_]+)>=(?P<least>\d+(\.\d+)?))?")
_MOST_HEADS = 8


@dataclass(frozen=True)
class Trigger:
    """An event kind, and the least value of a column when there is a condition."""

    kind: int
    column: str | None = None
    least: float = 0.0

    def fires(self, values: Mapping[str, float | None]) -> bool:
        """Whether an event of this kind with these values counts; a missing value does not."""
        if self.column is None:
            return True
        value = values.get(self.column)
        return value is not None and value >= self.least


@dataclass(frozen=True)
class Head:
    """One success: its name, how long after the impression it counts (microseconds), and what fires it."""

    name: str
    window_us: int
    triggers: tuple[Trigger, ...]


@dataclass(frozen=True)
class Heads:
    """All heads in the order of their label bits; the first one's window closes the impression."""

    heads: tuple[Head, ...]

    @staticmethod
    def parse(text: str) -> "Heads":
        """Read the setting. Raises InvalidInput with field `heads`.

        >>> [head.name for head in Heads.parse(DEFAULT).heads]
        ['click', 'cart', 'purchase']
        """
        heads = tuple(_head(part.strip()) for part in text.split(";") if part.strip())
        if not 1 <= len(heads) <= _MOST_HEADS:
            raise InvalidInput("heads", "out_of_range", f"must be 1 to {_MOST_HEADS} heads")
        if len({head.name for head in heads}) != len(heads):
            raise InvalidInput("heads", "malformed", "names must differ")
        return Heads(heads)

    @property
    def close_us(self) -> int:
        """Microseconds from an impression to its final labels."""
        return self.heads[0].window_us

    @property
    def longest_us(self) -> int:
        """Microseconds from an impression to the last moment an action can count."""
        return max(head.window_us for head in self.heads)

    @property
    def kinds(self) -> frozenset[int]:
        """Event kinds that can fire a head."""
        return frozenset(trigger.kind for head in self.heads for trigger in head.triggers)

    def fired(self, kind: int, values: Mapping[str, float | None]) -> int:
        """Bits of the heads an event fires.

        >>> Heads.parse(DEFAULT).fired(EventKind.EVENT_KIND_PURCHASE, {})
        4
        """
        bits = 0
        for bit, head in enumerate(self.heads):
            if any(trigger.kind == kind and trigger.fires(values) for trigger in head.triggers):
                bits |= 1 << bit
        return bits

    def open_at(self, age_us: int) -> int:
        """Bits of the heads whose window is still open so long after the impression."""
        return sum(1 << bit for bit, head in enumerate(self.heads) if age_us < head.window_us)


def _head(text: str) -> Head:
    match = _HEAD.fullmatch(text)
    if match is None:
        raise InvalidInput("heads", "malformed", f"{text!r} is not <name>=<KIND>[:<column>>=<n>],...@<n><s|m|h|d>")
    window_us = int(match["count"]) * _UNITS[match["unit"]]
    if window_us == 0:
        raise InvalidInput("heads", "out_of_range", f"{match['name']}: a window is longer than 0")
    return Head(match["name"], window_us, tuple(_trigger(part.strip()) for part in match["triggers"].split(",")))


def _trigger(text: str) -> Trigger:
    match = _TRIGGER.fullmatch(text)
    if match is None:
        raise InvalidInput("heads", "malformed", f"{text!r} is not <KIND> or <KIND>:<column>>=<number>")
    name = f"EVENT_KIND_{match['kind']}"
    if name not in EventKind.keys() or name == "EVENT_KIND_UNSPECIFIED":  # noqa: SIM118 (no mapping)
        raise InvalidInput("heads", "unknown_kind", f"{match['kind']} is no kind of event")
    column = match["column"]
    if column is not None and column not in COLUMNS:
        raise InvalidInput("heads", "malformed", f"{column} is none of {', '.join(COLUMNS)}")
    return Trigger(EventKind.Value(name), column, float(match["least"] or 0))
