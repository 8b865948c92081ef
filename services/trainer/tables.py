"""Embedding rows by id: found by hash, given by frequency, taken by age, learned by row-wise Adagrad.

Row-wise Adagrad keeps one accumulator per row (Duchi et al., 2011; the row-wise form of FBGEMM and DLRM), and
touches only the rows of a step: its time does not depend on how many rows there are. Storage is
reserved once for the most rows and costs memory only as pages are first written, so nothing is ever copied to grow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.ids import keys_of
from services.trainer.admission import FrequencySketch
from services.trainer.arena import IdArena
from services.trainer.keyindex import ABSENT, KeyIndex, Keys, Slots

Floats = NDArray[np.float32]

_DELTA, _CHECKPOINT = np.uint8(1), np.uint8(2)
"""Bits of `_touched`: changed since the last delta, since the last checkpoint."""


@dataclass(frozen=True)
class RowConfig:
    """How rows are kept and learned."""

    dim: int = 16
    max_rows: int = 4_000_000
    admission: int = 3
    """Times an id must have been seen before it gets a row."""
    rate: float = 0.2
    decay: float = 0.0
    clip: float = 1.0
    """Largest length of one row's gradient in one step."""
    max_norm: float = 8.0
    """Rows are scaled back to this length: the publisher's row gate refuses longer ones."""
    epsilon: float = 1e-6
    first: float = 0.01
    """What an accumulator starts from: keeps a row's first step below the full rate."""


class RowTable:
    """Rows of one kind of id (items or shoppers)."""

    def __init__(self, config: RowConfig) -> None:
        self.config = config
        self.rows = np.zeros((config.max_rows, config.dim), np.float32)
        self.squares = np.zeros(config.max_rows, np.float32)
        self.seen_us = np.zeros(config.max_rows, np.int64)
        self.keys = np.zeros(config.max_rows, np.uint64)
        self.live = np.zeros(config.max_rows, np.bool_)
        self.sketch = FrequencySketch()
        self.refused = 0
        """Admissions that found no room."""
        self.next = 0
        self._free: list[int] = []
        self._leaving: list[int] = []
        """Evicted, but the delta that says so is not written yet: not to be used again before."""
        self.ids = IdArena(config.max_rows)
        self._index = KeyIndex()
        self._touched = np.zeros(config.max_rows, np.uint8)
        self._changed: list[Slots] = []
        self._unsaved: list[Slots] = []

    def __len__(self) -> int:
        return len(self._index)

    def find(self, keys: Keys) -> Slots:
        """Slots [n] of keys; -1 = no row."""
        return self._index.find(keys)

    def lookup(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows [n, dim] and masks [n], as `encode.RowLookup` wants them."""
        return self.gather(self.find(keys_of(ids)))

    def gather(self, slots: Slots) -> tuple[Floats, Floats]:
        """Rows [n, dim] and masks [n] of slots; -1 gives zeros."""
        present = slots >= 0
        out = self.read(np.maximum(slots, 0))
        out[~present] = 0
        return out, present.astype(np.float32)

    def read(self, slots: Slots) -> Floats:
        """Rows [n, dim] of slots as they are scored, learned on and pushed."""
        return self.rows[slots]

    def observe(self, ids: Sequence[str], keys: Keys, now_us: int) -> Slots:
        """Count the ids, give a row to those seen often enough, and answer the slots [n] of all (-1 = none yet)."""
        self.sketch.add(keys)
        return self.meet(ids, keys, now_us)

    def meet(self, ids: Sequence[str], keys: Keys, now_us: int) -> Slots:
        """`observe` of ids that have been counted."""
        slots = self.find(keys)
        missing = np.flatnonzero(slots == ABSENT)
        wanted = missing[self.sketch.estimate(keys[missing]) >= self.config.admission]
        if len(wanted):
            first = wanted[np.unique(keys[wanted], return_index=True)[1]]
            self._admit([ids[k] for k in first], keys[first])
            slots[missing] = self.find(keys[missing])
        present = slots[slots >= 0]
        self.seen_us[present] = now_us
        self._save_later(present)
        return slots

    def admit(self, ids: Sequence[str], now_us: int) -> Slots:
        """Give each id a row, however often it was seen; the slots [n] of all, -1 where there is no room."""
        keys = keys_of(ids)
        missing = np.flatnonzero(self.find(keys) == ABSENT)
        self._admit([ids[int(k)] for k in missing], keys[missing])
        slots = self.find(keys)
        self.seen_us[slots[slots >= 0]] = now_us
        return slots

    def learn(self, slots: Slots, gradients: Floats, rate: float) -> None:
        """One Adagrad step on rows of different slots; `gradients` [n, dim], `rate` scales the configured one."""
        moved = gradients.any(axis=1)
        slots, gradients = slots[moved], gradients[moved]
        if not len(slots):
            return
        c = self.config
        length = np.sqrt(np.einsum("nd,nd->n", gradients, gradients))
        gradients = gradients * np.minimum(1.0, c.clip / np.maximum(length, 1e-30))[:, None].astype(np.float32)
        squares = self.squares[slots] + np.einsum("nd,nd->n", gradients, gradients) / np.float32(c.dim)
        self.squares[slots] = squares
        step = np.float32(c.rate * rate) / (np.sqrt(squares + np.float32(c.first)) + np.float32(c.epsilon))
        rows = self.rows[slots] * np.float32(1 - c.rate * rate * c.decay) - step[:, None] * gradients
        norm = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        self.rows[slots] = rows * np.minimum(1.0, c.max_norm / np.maximum(norm, 1e-12))[:, None].astype(np.float32)
        self._touch(slots)

    def put(self, slots: Slots, rows: Floats, squares: Floats) -> None:
        """Write rows and what their steps have summed up, as they were at another time."""
        self.rows[slots], self.squares[slots] = rows, squares
        self._touch(slots)

    def remove(self, ids: Sequence[str]) -> int:
        """Take the rows of these ids away (forgotten shoppers); returns how many there were."""
        slots = self.find(keys_of(ids))
        return self._evict(np.unique(slots[slots >= 0]))

    def expire(self, before_us: int) -> int:
        """Take away rows not seen since; returns how many."""
        used = slice(0, self.next)
        return self._evict(np.flatnonzero(self.live[used] & (self.seen_us[used] < before_us)))

    def prune(self, most: int) -> int:
        """Take away the rows not seen for longest until at most so many are left; returns how many went."""
        live = np.flatnonzero(self.live[: self.next])
        if len(live) <= most:
            return 0
        order = np.lexsort((self.keys[live], self.seen_us[live]))  # keys: the same rows whatever their places
        return self._evict(live[order[: len(live) - most]])

    def changed(self) -> tuple[list[str], Floats]:
        """Ids and rows [n, dim] changed since the last call; all zero where the row is gone."""
        slots = self._drain(self._changed, _DELTA)
        self._free += self._leaving
        self._leaving = []
        return self.ids.get(slots), self.read(slots)

    def seen(self, ids: Sequence[str]) -> NDArray[np.uint8]:
        """How often each id was seen lately [n], 255 at most: how much its row stands on."""
        return self.sketch.estimate(keys_of(ids))

    def touch_all(self) -> None:
        """Make every row part of the next delta: a new slot has to be filled."""
        self._touch(np.flatnonzero(self.live[: self.next]))

    def unsaved(self) -> Slots:
        """Slots changed since the last call."""
        return self._drain(self._unsaved, _CHECKPOINT)

    def pack(self, slots: Slots) -> dict[str, NDArray[Any]]:
        """Everything about slots, for a checkpoint."""
        data, lengths = self.ids.packed(slots)
        return {
            "slots": slots,
            "keys": self.keys[slots],
            "rows": self.rows[slots],
            "squares": self.squares[slots],
            "seen_us": self.seen_us[slots],
            "live": self.live[slots].astype(np.uint8),
            "ids": data,
            "id_lengths": lengths,
        }

    def unpack(self, packed: dict[str, NDArray[Any]]) -> None:
        """Put back what `pack` gave, over what is there; `reopen` must follow the last one."""
        slots = packed["slots"]
        for name in ("keys", "rows", "squares", "seen_us"):
            getattr(self, name)[slots] = packed[name]
        self.live[slots] = packed["live"].astype(np.bool_)
        self.ids.set_packed(slots, packed["ids"].tobytes(), packed["id_lengths"])

    def reopen(self, used: int) -> None:
        """Make the unpacked rows findable; `used`: slots ever given out."""
        self.next = used
        live = self.live[:used]
        self._free, self._leaving = np.flatnonzero(~live)[::-1].tolist(), []
        self._index = KeyIndex()
        self._index.insert(self.keys[:used][live], np.flatnonzero(live))

    def _admit(self, ids: Sequence[str], keys: Keys) -> None:
        room = len(self._free) + self.config.max_rows - self.next
        self.refused += max(0, len(ids) - room)
        ids, keys = ids[:room], keys[:room]
        again = [self._free.pop() for _ in range(min(len(self._free), len(ids)))]
        fresh = len(ids) - len(again)
        slots = np.array(again + list(range(self.next, self.next + fresh)), np.int64)
        self.next += fresh
        self.keys[slots], self.live[slots] = keys, True
        self.ids.set(slots, ids)
        self._index.insert(keys, slots)
        self._save_later(slots)

    def _evict(self, slots: Slots) -> int:
        self._index.remove(self.keys[slots])
        self.rows[slots], self.squares[slots], self.live[slots] = 0, 0, False
        self._touch(slots)
        self._leaving.extend(slots.tolist())
        return len(slots)

    def _touch(self, slots: Slots) -> None:
        self._push_later(slots)
        self._save_later(slots)

    def _push_later(self, slots: Slots) -> None:
        new = slots[self._touched[slots] & _DELTA == 0]
        self._touched[new] |= _DELTA
        self._changed.append(new)

    def _save_later(self, slots: Slots) -> None:
        new = np.unique(slots[self._touched[slots] & _CHECKPOINT == 0])
        self._touched[new] |= _CHECKPOINT
        self._unsaved.append(new)

    def _drain(self, waiting: list[Slots], bit: np.uint8) -> Slots:
        slots = np.concatenate([*waiting, np.zeros(0, np.int64)])
        self._touched[slots] &= ~bit
        waiting.clear()
        return np.sort(slots)
