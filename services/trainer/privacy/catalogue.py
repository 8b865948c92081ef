"""Item rows of a public list of items: which rows there are says nothing about who looked at what."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.common.ids import keys_of
from services.trainer.keyindex import Keys, Slots
from services.trainer.tables import RowConfig, RowTable


class CatalogueTable(RowTable):
    """Every item of the list has a row from the beginning and keeps it; no other item ever has one."""

    def __init__(self, config: RowConfig, ids: Sequence[str]) -> None:
        """Raises InvalidInput when there are more items than rows."""
        super().__init__(config)
        if len(ids) > config.max_rows:
            raise InvalidInput("privacy_items", "too_many", f"{len(ids)} items, but max_rows is {config.max_rows}")
        self._listed = list(ids)
        self._fill()

    def observe(self, ids: Sequence[str], keys: Keys, now_us: int) -> Slots:
        """The slots [n] of those that are listed; nothing is counted."""
        return self.find(keys)

    def seen(self, ids: Sequence[str]) -> NDArray[np.uint8]:
        """As often as can be, of all: what would be counted is private."""
        return np.full(len(ids), 255, np.uint8)

    def expire(self, before_us: int) -> int:
        """None goes for not being looked at."""
        return 0

    def reopen(self, used: int) -> None:
        """See `RowTable`; then the list as it is now: new items get rows, those that left it lose theirs."""
        super().reopen(used)
        self._fill()

    def slots(self) -> Slots:
        """Slots of all rows, ascending."""
        return np.flatnonzero(self.live[: self.next])

    def _fill(self) -> None:
        keys = keys_of(self._listed)
        slots = self.slots()
        self._evict(slots[~np.isin(self.keys[slots], keys)])
        missing = np.flatnonzero(self.find(keys) < 0)
        self._admit([self._listed[k] for k in missing], keys[missing])


def read_items(path: Path | None) -> list[str]:
    """Ids of a file with one item a line, each once. Raises InvalidInput when there is no such file or no item."""
    if path is None:
        raise InvalidInput("privacy_items", "missing", "private learning needs a file of all items, one id a line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("privacy_items", "unreadable", f"{path}: {error}") from error
    ids = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not ids:
        raise InvalidInput("privacy_items", "empty", f"{path} names no item")
    return ids
