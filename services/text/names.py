"""Where encoders and rerankers lie in the store, and what they are called.

Who makes one puts a finished folder (folder.py) under `incoming` by a rename; the publisher judges it, moves it to
`kept` when it passes, and deletes it otherwise.
"""

import re
from datetime import UTC, datetime
from pathlib import Path

from services.common.ids import share_of
from services.text.folder import ENCODER, RERANKER

ENCODER_ID = re.compile(r"t\d{8}t\d{6}-[0-9a-f]{8}")
"""Time of making, which they sort by, and the beginning of `Encoder.source`."""
RERANKER_ID = re.compile(rf"x{ENCODER_ID.pattern[1:]}")
IDS = {ENCODER: ENCODER_ID, RERANKER: RERANKER_ID}


def encoder_id(created_us: int, source: str, kind: str = ENCODER) -> str:
    """Name of a folder, and of its model on Triton.

    >>> encoder_id(1_700_000_000_000_000, "0123456789abcdef")
    't20231114t221320-01234567'
    """
    made = datetime.fromtimestamp(created_us // 1_000_000, UTC)
    return f"{'x' if kind == RERANKER else 't'}{made:%Y%m%dt%H%M%S}-{source[:8]}"


def keeps_before(user: str, share: float) -> bool:
    """Whether a shopper is of the share that keeps the encoder before while the next one is watched."""
    return share_of(user, "text watch") < share


def home(store: Path, kind: str = ENCODER) -> Path:
    """Folder of everything of a kind: `encoders` or `rerankers`."""
    return store / f"{kind}s"


def incoming(store: Path, kind: str = ENCODER) -> Path:
    """Folder of those that wait to be judged."""
    return home(store, kind) / "incoming"


def kept(store: Path, kind: str = ENCODER) -> Path:
    """Folder of those that were let in."""
    return home(store, kind) / "releases"
