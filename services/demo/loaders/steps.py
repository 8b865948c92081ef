"""What a driver does, whatever the log: stock the catalogue, ask for a ranking, tell what happened."""

from dataclasses import dataclass, field

from freshrank.v1 import events_pb2, ranking_pb2


@dataclass
class Stock:
    """Items that enter the catalogue."""

    items: list[ranking_pb2.Item]


@dataclass
class Ask:
    """One request. With candidates it is `Rank` (their order is the prior one), without `Recommend`."""

    time_us: int
    shopper: ranking_pb2.Shopper
    candidates: list[ranking_pb2.Candidate] = field(default_factory=list)
    events: list[events_pb2.Event] = field(default_factory=list)
    """What the shopper did with the answer; each gets the answer's token."""
    wanted: str = ""
    """The item the shopper took, for MRR and AUC."""
    tag: dict[str, str] = field(default_factory=dict)


@dataclass
class Tell:
    """Events that answer nothing."""

    time_us: int
    events: list[events_pb2.Event]
