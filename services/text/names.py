"""Where encoders lie in the store, and what they are called.

The trainer puts a finished folder (folder.py) under `incoming` by a rename; the publisher judges it, moves it to `kept`
when it passes, and deletes it otherwise.
"""

import re
from datetime import UTC, datetime
from pathlib import Path

from services.common.ids import share_of

ENCODER_ID = re.compile(r"t\d{8}t\d{6}-[0-9a-f]{8}")
"""Time of making, which they sort by, and the beginning of `Encoder.source`."""


def encoder_id(created_us: int, source: str) -> str:
    """Name of an encoder's folder, and of its model on Triton.

    >>> encoder_id(1_700_000_000_000_000, "0123456789abcdef")
    't20231114t221320-01234567'
    """
    return f"t{datetime.fromtimestamp(created_us // 1_000_000, UTC):%Y%m%dt%H%M%S}-{source[:8]}"


def keeps_before(user: str, share: float) -> bool:
    """Whether a shopper is of the share that keeps the encoder before while the next one is watched."""
    return share_of(user, "text watch") < share


def incoming(store: Path) -> Path:
    """Folder of encoders that wait to be judged."""
    return store / "encoders" / "incoming"


def kept(store: Path) -> Path:
    """Folder of encoders that were let in."""
    return store / "encoders" / "releases"
