"""Arms: lineages that learn and serve side by side. Their names in folders and ids, and whose shopper is whose.

The first arm is `main`, and its name is left out of ids and folders; the others have theirs in them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from services.common.ids import share_of

MAIN = "main"

SPLIT_KEY = b"arms"
"""Of the record on topic routes that says which arm answers whom; each arm has one of its own beside it."""

ROUTE_KEY = b"route"
"""How the keys of the arms' own records there begin."""

TEXT_KEY = b"text"
"""Of the record there that says which text encoder searches use."""

RERANKER_KEY = b"reranker"
"""Of the one that says which reranker does."""

PATTERN = r"[a-z0-9][a-z0-9-]{0,30}"
"""What an arm may be called."""

RELEASE_ID = re.compile(rf"r(\d{{8}}t\d{{6}})-(\d+)-(\d+)(?:-({PATTERN}))?")
"""UTC time, lineage, sequence; and the arm, but for `main`."""


@dataclass(frozen=True)
class Share:
    """Part of the shoppers who are given to an arm."""

    arm: str
    share: float


@dataclass(frozen=True)
class Split:
    """Which arm answers whom. Without a trial everybody belongs to the incumbent.

    A shopper stays with one arm for `sticky_us` of event time; then chance is asked again. So each shopper in each
    such period is assigned for himself, which is what the comparison rests on; with a period longer than the trial
    nobody ever changes.
    """

    incumbent: str = MAIN
    trial: str = ""
    """Id of the trial: another one asks chance anew."""
    challengers: tuple[Share, ...] = ()
    sticky_us: int = 0

    def period(self, time_us: int) -> int:
        """Number of the period that a time falls into.

        >>> Split(sticky_us=60).period(119)
        1
        """
        return time_us // self.sticky_us if self.sticky_us > 0 else 0

    def arm_of(self, user: str, time_us: int) -> str:
        """The arm that answers a shopper at a time.

        >>> Split().arm_of("ann", 0)
        'main'
        >>> split = Split("main", "t1", (Share("other", 0.5),), 3_600_000_000)
        >>> sorted({split.arm_of(f"user{n}", 0) for n in range(20)})
        ['main', 'other']
        """
        if not self.challengers:
            return self.incumbent
        place = share_of(user, f"arms/{self.trial}/{self.period(time_us)}")
        for challenger in self.challengers:
            if place < challenger.share:
                return challenger.arm
            place -= challenger.share
        return self.incumbent

    def chance(self, arm: str) -> float:
        """Probability that a shopper is given to an arm."""
        given = sum(challenger.share for challenger in self.challengers if challenger.arm == arm)
        rest = 1 - sum(challenger.share for challenger in self.challengers)
        return given + rest if arm == self.incumbent else given

    def without(self, arm: str) -> "Split":
        """The same with a challenger's shoppers given to the incumbent: those of the others stay where they are."""
        kept = tuple(Share(self.incumbent if c.arm == arm else c.arm, c.share) for c in self.challengers)
        return Split(self.incumbent, self.trial, kept, self.sticky_us) if self.running(kept) else Split(self.incumbent)

    def running(self, challengers: Iterable[Share]) -> bool:
        """True while one of them is another arm than the incumbent."""
        return any(challenger.arm != self.incumbent for challenger in challengers)


def arm_of(release: str) -> str:
    """The arm a release is of; empty for what is no release id.

    >>> arm_of("r20260102t030405-1-7"), arm_of("r20260102t030405-1-7-gentle-2"), arm_of("model")
    ('main', 'gentle-2', '')
    """
    match = RELEASE_ID.fullmatch(release)
    return (match[4] or MAIN) if match else ""


def suffix(arm: str) -> str:
    """What an arm adds to names of folders and ids.

    >>> suffix("main"), suffix("gentle")
    ('', '-gentle')
    """
    return "" if arm == MAIN else f"-{arm}"
