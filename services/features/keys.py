"""Keys of a view as slots: small numbers that index every array of its state."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.definitions import JOIN_COLUMNS
from services.features.interner import pack_words, unpack_words
from services.features.rows import Rows
from services.features.windows import NEVER

Ints = NDArray[np.int64]
Key = tuple[str, ...]

OVERDUE = 0
"""Next change of a key that must be published as soon as there is room."""


class Keys:
    """`event_us`: newest event of each key; `next_us`: when a value of it changes next without an event;
    `serial`: a number never used again, so that a slot's next owner inherits nothing."""

    def __init__(self, join_keys: Sequence[str]) -> None:
        self.columns = tuple(JOIN_COLUMNS[key] for key in join_keys)
        self._slots: dict[Key, int] = {}
        self._names: list[Key | None] = []
        self._free: list[int] = []
        self._serials = 0
        self.event_us: Ints = np.zeros(0, np.int64)
        self.next_us: Ints = np.zeros(0, np.int64)
        self.serial: Ints = np.zeros(0, np.int64)
        self.users: dict[int, str] = {}
        """Shopper of each slot, where the key itself does not say."""
        self._soonest_us = NEVER

    def __len__(self) -> int:
        return len(self._slots)

    def locate(self, rows: Rows, wanted: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints]:
        """Rows that have a key, their keys' slots, and for each of these rows the place in the slots."""
        texts = [rows.text(column) for column in self.columns]
        for codes, _ in texts:
            wanted = wanted & (codes >= 0)
        picked = np.flatnonzero(wanted)
        mixed = texts[0][0][picked].astype(np.int64)
        for codes, words in texts[1:]:
            mixed = mixed * len(words) + codes[picked]
        _, first, owner = np.unique(mixed, return_index=True, return_inverse=True)
        at = picked[first]
        parts = [[words[code] for code in codes[at].tolist()] for codes, words in texts]
        slots = self.slots(list(zip(*parts, strict=True)))
        if "user" not in self.columns and "session" in self.columns:
            self._remember_users(rows, at, slots)
        self._newest(slots, owner, rows.time_us[picked])
        return picked, slots, owner

    def _remember_users(self, rows: Rows, at: Ints, slots: Ints) -> None:
        codes, words = rows.text("user")
        self.users |= {
            slot: words[code] for slot, code in zip(slots.tolist(), codes[at].tolist(), strict=True) if code >= 0
        }

    def _newest(self, slots: Ints, owner: Ints, time_us: Ints) -> None:
        newest = np.zeros(len(slots), np.int64)
        np.maximum.at(newest, owner, time_us)
        self.event_us[slots] = np.maximum(self.event_us[slots], newest)

    def slots(self, names: Sequence[Key]) -> Ints:
        """Slot of each key, new ones included."""
        known = self._slots
        out = [known.get(name, -1) for name in names]
        for place, slot in enumerate(out):
            if slot < 0:
                out[place] = self._take(names[place])
        return np.array(out, np.int64)

    def _take(self, name: Key) -> int:
        found = self._slots.get(name)
        if found is not None:
            return found
        if self._free:
            slot = self._free.pop()
            self._names[slot] = name
        else:
            slot = len(self._names)
            self._names.append(name)
            if slot >= len(self.serial):
                self._grow(max(64, 2 * slot))
        self._slots[name] = slot
        self.event_us[slot], self.next_us[slot], self.serial[slot] = 0, NEVER, self._serials
        self._serials += 1
        return slot

    def _grow(self, size: int) -> None:
        more = size - len(self.serial)
        self.event_us = np.concatenate([self.event_us, np.zeros(more, np.int64)])
        self.next_us = np.concatenate([self.next_us, np.full(more, NEVER, np.int64)])
        self.serial = np.concatenate([self.serial, np.zeros(more, np.int64)])

    def names(self, slots: Ints) -> list[Key]:
        """Keys of slots that are in use."""
        names = self._names
        return [name for slot in slots.tolist() if (name := names[slot]) is not None]

    def owners(self, slots: Ints) -> list[str]:
        """Shopper of each slot in use; none where keys belong to nobody."""
        if "user" in self.columns:
            place = self.columns.index("user")
            return [name[place] for name in self.names(slots)]
        return [self.users.get(slot, "") for slot in slots.tolist()] if "session" in self.columns else []

    def used(self) -> Ints:
        """Slots in use, ascending."""
        return np.sort(np.fromiter(self._slots.values(), np.int64, len(self._slots)))

    def of_user(self, user: str) -> Ints:
        """Slots that hold something of a shopper."""
        if "user" in self.columns:
            place = self.columns.index("user")
            found = [slot for name, slot in self._slots.items() if name[place] == user]
        else:
            found = [slot for slot, name in self.users.items() if name == user]
        return np.array(sorted(found), np.int64)

    @property
    def serials(self) -> int:
        """Serial numbers given so far."""
        return self._serials

    def free(self, slots: Ints) -> None:
        """Let go of keys that hold nothing any more."""
        for slot in slots.tolist():
            name = self._names[slot]
            if name is not None:
                del self._slots[name]
                self._names[slot] = None
                self._free.append(slot)
                self.users.pop(slot, None)
        self.next_us[slots] = NEVER

    def plan_next(self, slots: Ints, next_us: Ints) -> None:
        """Note when values of these keys change without an event; OVERDUE: publish as soon as there is room."""
        self.next_us[slots] = next_us
        if len(slots):
            self._soonest_us = min(self._soonest_us, int(next_us.min()))

    def due(self, clock_us: int, limit: int) -> Ints:
        """At most `limit` slots whose values have changed by now, the longest waiting first."""
        if self._soonest_us > clock_us:
            return np.zeros(0, np.int64)
        found = np.flatnonzero(self.next_us <= clock_us)
        if len(found) > limit:
            return found[np.argsort(self.next_us[found], kind="stable")[:limit]]
        later = self.next_us[self.next_us > clock_us]
        self._soonest_us = int(later.min()) if len(later) else NEVER
        return found

    def overdue(self) -> int:
        """How many keys wait to be published."""
        return int((self.next_us == OVERDUE).sum()) if self._soonest_us == OVERDUE else 0

    def save(self) -> tuple[dict[str, NDArray[Any]], int]:
        """Arrays of the keys in use, in the order of their slots, and the next serial."""
        used = self.used()
        arrays: dict[str, NDArray[Any]] = {
            "event_us": self.event_us[used], "next_us": self.next_us[used], "serial": self.serial[used],
        }  # fmt: skip
        names = self.names(used)
        for place in range(len(self.columns)):
            packed = pack_words([name[place] for name in names])
            arrays |= {f"key{place}.{part}": array for part, array in packed.items()}
        packed = pack_words([self.users.get(slot, "") for slot in used.tolist()] if self.users else [])
        return arrays | {f"users.{part}": array for part, array in packed.items()}, self._serials

    def load(self, arrays: Mapping[str, NDArray[Any]], serials: int) -> None:
        """Put back what `save` gave; slots count from 0 in the same order."""
        parts = [
            unpack_words(arrays[f"key{place}.ends"], arrays[f"key{place}.bytes"]) for place in range(len(self.columns))
        ]
        self._names = list(zip(*parts, strict=True))
        self._slots = {name: slot for slot, name in enumerate(self._names) if name is not None}
        self.event_us, self.next_us = np.array(arrays["event_us"]), np.array(arrays["next_us"])
        self.serial, self._serials = np.array(arrays["serial"]), serials
        users = unpack_words(arrays["users.ends"], arrays["users.bytes"])
        self.users = {slot: user for slot, user in enumerate(users) if user}
        self._soonest_us = int(self.next_us.min()) if len(self.next_us) else NEVER
