"""The pipeline on one screen: each topic's key, message, producers and consumers.

Code, tests, chart and docs read this table; nothing else names a topic.
"""

from dataclasses import dataclass, field

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Topic:
    """One Kafka topic and who is on its two ends."""

    name: str
    key: str
    message: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    single: bool = False
    """One partition whatever the setting: the whole topic has one order."""
    fixed: bool = False
    """Keeps the number of partitions it was made with: a key that moved would have two newest values."""
    config: dict[str, str] = field(default_factory=dict)


_LOG = {"retention.ms": str(30 * DAY_MS), "message.timestamp.type": "CreateTime", "max.message.bytes": "8388608"}
_COMPACT = {"cleanup.policy": "compact", "max.message.bytes": "8388608"}

EVENTS = Topic(
    "events.in",
    "user (foreign producers: any)",
    "freshrank.v1.Inbound",
    ("gateway", "shop systems"),
    ("ingest",),
    config=_LOG,
)
INTERACTIONS = Topic(
    "interactions",
    "user's partition",
    "columns: records.INTERACTIONS",
    ("ingest",),
    ("features", "joiner"),
    config=_LOG,
)
ITEM_INTERACTIONS = Topic(
    "item_interactions",
    "item's or query's partition",
    "columns: records.ITEM_INTERACTIONS",
    ("features",),
    ("features",),
    config=_LOG,
)
EXAMPLES = Topic(
    "examples", "user's partition", "columns: records.EXAMPLES", ("joiner",), ("trainer", "publisher"), config=_LOG
)
ITEM_UPDATES = Topic(
    "item_updates",
    "c|item, f|view|item, r|slot|item, q|query",
    "CatalogueItem, ItemFeatures, ItemRow",
    ("gateway", "features", "publisher"),
    ("gateway", "ingest", "trainer"),
    fixed=True,
    config=_COMPACT,
)
ROUTES = Topic(
    "routes",
    '"route", "route-<arm>", "arms", "text", "reranker"',
    "Route, ArmSplit, TextRoute",
    ("publisher",),
    ("gateway", "cli"),
    single=True,
    config=_COMPACT,
)
COMMANDS = Topic(
    "commands", "command id", "freshrank.v1.Command", ("gateway", "cli"), ("publisher",), single=True, config=_LOG
)
DEAD_LETTERS = Topic(
    "dead_letters",
    "stage",
    "freshrank.v1.DeadLetter",
    ("ingest", "features", "joiner"),
    ("people",),
    single=True,
    config=_LOG,
)

TOPICS = (EVENTS, INTERACTIONS, ITEM_INTERACTIONS, EXAMPLES, ITEM_UPDATES, ROUTES, COMMANDS, DEAD_LETTERS)
