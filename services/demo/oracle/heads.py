"""What counts as a success: the joiner's setting, read by rules of our own.

>>> [(head.name, head.window_us) for head in heads_of("like=RATE:rating>=4@10m; sale=PURCHASE@7d")]
[('like', 600000000), ('sale', 604800000000)]
"""

from dataclasses import dataclass

from services.demo.oracle.log import KINDS, Row

DEFAULT = "click=CLICK,PLAY:play_share>=0.3@10m; cart=ADD_TO_CART@1d; purchase=PURCHASE@7d"
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True)
class Head:
    """One success; the first one's window closes an impression."""

    name: str
    window_us: int
    triggers: tuple[tuple[int, str, float], ...]
    """Kind, and the column that must be at least a number; no column = always."""

    def fired(self, row: Row) -> bool:
        """Whether this action is one."""
        return any(row["kind"] == kind and (not c or (row[c] or 0) >= least) for kind, c, least in self.triggers)


def heads_of(text: str) -> list[Head]:
    """Heads in the order of their label bits."""
    heads = []
    for part in text.split(";"):
        name, _, rest = part.strip().partition("=")
        triggers, _, window = rest.rpartition("@")
        heads.append(
            Head(
                name,
                int(window[:-1]) * _SECONDS[window[-1]] * 1_000_000,
                tuple(_trigger(one) for one in triggers.split(",")),
            )
        )
    return heads


def _trigger(text: str) -> tuple[int, str, float]:
    kind, _, condition = text.partition(":")
    column, _, least = condition.partition(">=")
    return KINDS[kind.lower()], column, float(least or 0)
