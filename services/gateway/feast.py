"""Everything about a shopper from the Feast online store, in one round trip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.gateway.candidates import RowSlot
from services.gateway.schema import (
    ASKED_CATEGORY,
    ASKED_ITEM,
    ITEM,
    PAIR,
    QUERY,
    SESSION,
    USER,
    Schema,
    ViewColumns,
)
from services.gateway.shopper import ItemMisses, Pairs, Recent, Shopper, no_pairs
from services.online.keys import KeyEncoder
from services.online.reader import MatrixReader, Read, Rows

MOST_MISSES = 200
"""Items read from the store per request; the item table has all but the newest."""


@dataclass(frozen=True)
class Ask:
    """Whose values are wanted."""

    user: str
    session: str
    categories: Sequence[str]
    """Main categories among the candidates, for features of pairs with them."""
    missing: Sequence[str]
    """Candidates that the item table has not seen."""
    row_slot: RowSlot
    now_us: int
    query: str = ""
    """What is searched for, as it is counted; empty = nothing is."""
    items: Sequence[str] = ()
    """Candidates, for features of item and query."""


@dataclass(frozen=True)
class Keys:
    """Encoders of one project's keys."""

    user: KeyEncoder
    session: KeyEncoder
    item: KeyEncoder
    pair: KeyEncoder
    query: KeyEncoder
    asked_category: KeyEncoder
    asked_item: KeyEncoder

    @staticmethod
    @lru_cache(maxsize=4)
    def of(project: str) -> "Keys":
        """Those of a project, made once."""
        entities = (USER, SESSION, ITEM, PAIR, QUERY, ASKED_CATEGORY, ASKED_ITEM)
        return Keys(*(KeyEncoder(project, join_keys) for join_keys in entities))


class ShopperStore:
    """Reads shoppers; for one event loop."""

    def __init__(self, reader: MatrixReader) -> None:
        self._reader = reader

    async def read(self, schema: Schema, ask: Ask, timeout_s: float) -> Shopper:
        """One round trip.

        Raises DeadlineExceeded after the timeout, TemporaryError when the store cannot answer, CorruptState for a
        value of the wrong type.
        """
        trip, keys = _Trip(schema, ask), Keys.of(schema.project)
        single: dict[tuple[str, ...], list[bytes]] = {USER: [keys.user.one((ask.user,))]}
        if ask.session:
            single[SESSION] = [keys.session.one((ask.session,))]
        if ask.query:
            single[QUERY] = [keys.query.one((ask.query,))]
        trip.add_views(single)
        trip.add_pairs(_pairs(schema, keys, ask))
        if ask.query and ask.items and schema.asked_views:
            trip.add_asked(keys.asked_item.batch(ask.items, [ask.query] * len(ask.items)))
        if ask.row_slot.name:
            trip.add_row("user", single[USER])
        if ask.missing:
            trip.add_items(keys.item.batch(ask.missing[:MOST_MISSES]))
        answers = await self._reader.read(trip.reads, timeout_s=timeout_s, now_us=ask.now_us)
        return trip.shopper(answers)

    async def read_pairs(self, schema: Schema, ask: Ask, timeout_s: float) -> Pairs:
        """Only features of pairs with a category [categories, pairs]: for candidates found with what `read` gave."""
        trip = _Trip(schema, ask)
        trip.add_pairs(_pairs(schema, Keys.of(schema.project), ask))
        answers = await self._reader.read(trip.reads, timeout_s=timeout_s, now_us=ask.now_us)
        shopper = trip.shopper(answers)
        return Pairs(shopper.pair, shopper.pair_pos)

    async def close(self) -> None:
        """Close the connection."""
        await self._reader.close()


def _pairs(schema: Schema, keys: Keys, ask: Ask) -> dict[tuple[str, ...], list[bytes]]:
    """Keys of each kind of pair with a category that the schema reads."""
    wanted = {tuple(sorted(view.join_keys)) for view in schema.pair_views} if ask.categories else set()
    found: dict[tuple[str, ...], list[bytes]] = {}
    if PAIR in wanted:
        found[PAIR] = keys.pair.batch(ask.categories, [ask.user] * len(ask.categories))
    if ASKED_CATEGORY in wanted and ask.query:
        found[ASKED_CATEGORY] = keys.asked_category.batch(ask.categories, [ask.query] * len(ask.categories))
    return found


class _Trip:
    """Puts reads together and takes their answers apart again."""

    def __init__(self, schema: Schema, ask: Ask) -> None:
        self._schema, self._ask = schema, ask
        self.reads: list[Read] = []
        self._at: dict[tuple[str, str], int] = {}

    def add_views(self, keys: Mapping[tuple[str, ...], list[bytes]]) -> None:
        columns = {view.view: view for view in self._schema.user_views}
        lists = {entry.view: entry for entry in self._schema.lists}
        for name in dict.fromkeys([*columns, *lists]):
            view, arrays = columns.get(name), lists.get(name)
            entity = tuple(sorted((view or arrays).join_keys))  # type: ignore[union-attr]
            if entity not in keys:
                continue
            objects = tuple(f"{p}_{part}" for p in arrays.prefixes for part in _PARTS) if arrays else ()
            self._add("view", Read(name, keys[entity], numeric=view.fields if view else (), objects=objects))

    def add_pairs(self, keys: Mapping[tuple[str, ...], list[bytes]]) -> None:
        for view in self._schema.pair_views:
            entity = tuple(sorted(view.join_keys))
            if entity in keys:
                self._add("pair", Read(view.view, keys[entity], numeric=view.fields))

    def add_asked(self, keys: list[bytes]) -> None:
        for view in self._schema.asked_views:
            self._add("asked", Read(view.view, keys, numeric=view.fields))

    def add_row(self, entity: str, keys: list[bytes]) -> None:
        slot = self._ask.row_slot
        self._add("row", Read(f"{entity}_row_{slot.name}", keys, packed=(("row", slot.dim),)))

    def add_items(self, keys: list[bytes]) -> None:
        for view in self._schema.item_views:
            self._add("item", Read(view.view, keys, numeric=view.fields))
        if self._ask.row_slot.name:
            self.add_row("item", keys)

    def _add(self, group: str, read: Read) -> None:
        self._at[group, read.view] = len(self.reads)
        self.reads.append(read)

    def shopper(self, answers: Sequence[Rows]) -> Shopper:
        schema, ask = self._schema, self._ask
        got = {name: answers[place] for name, place in self._at.items()}
        user = np.full(len(schema.user), np.nan, np.float32)
        for view in schema.user_views:
            if ("view", view.view) in got:
                user[view.places] = got["view", view.view].matrix[0]
        views = tuple(name for group, name in got if group == "view")
        rows = [got["view", name] for name in views]
        row = got.get(("row", f"user_row_{ask.row_slot.name}"))
        pairs = self._columns(got, "pair", schema.pair_views, len(ask.categories))
        there = row is not None and bool(_row_mask(row, ask.row_slot)[0])
        return Shopper(
            user=user,
            pair=pairs.values,
            pair_pos=pairs.pos,
            lists=self._lists(got),
            views=views,
            pos=tuple(int(r.seq[0]) for r in rows),
            times_us=tuple(int(r.event_us[0]) for r in rows),
            row=row.packed["row"][0] if row is not None and there else None,
            row_seq=int(row.seq[0]) if row is not None and there else 0,
            row_time_us=int(row.event_us[0]) if row is not None and there else 0,
            misses=self._misses(got),
            of_query=frozenset(v.view for v in schema.user_views if v.join_keys == QUERY and v.view in views),
            asked=self._columns(got, "asked", schema.asked_views, len(ask.items)) if ask.query else None,
        )

    @staticmethod
    def _columns(got: Mapping[tuple[str, str], Rows], group: str, views: Sequence[ViewColumns], keys: int) -> Pairs:
        """Values and positions of `keys` entities, view beside view; missing where a view was not read."""
        pairs = no_pairs(keys, sum(len(view.fields) for view in views), len(views))
        start = 0
        for place, view in enumerate(views):
            rows, end = got.get((group, view.view)), start + len(view.fields)
            if rows is not None:
                pairs.values[:, start:end], pairs.pos[:, place] = rows.matrix, rows.seq
            start = end
        return pairs

    def _lists(self, got: Mapping[tuple[str, str], Rows]) -> dict[str, Recent]:
        out = {}
        for entry in self._schema.lists:
            rows = got.get(("view", entry.view))
            for prefix in entry.prefixes if rows is not None else ():
                recent = _recent(*(rows.objects[f"{prefix}_{part}"][0] for part in _PARTS))  # type: ignore[union-attr]
                if recent is not None:
                    out[f"{entry.view}:{prefix}"] = recent
        return out

    def _misses(self, got: Mapping[tuple[str, str], Rows]) -> ItemMisses:
        ids = self._ask.missing[:MOST_MISSES]
        if not ids:
            return ItemMisses()
        stored: list[ViewColumns] = [view for view in self._schema.item_views if ("item", view.view) in got]
        rows = got.get(("row", f"item_row_{self._ask.row_slot.name}"))
        mask = _row_mask(rows, self._ask.row_slot) if rows is not None else None
        return ItemMisses(
            ids=ids,
            views={view.view: got["item", view.view].matrix for view in stored},
            pos={view.view: got["item", view.view].seq.astype(np.int64) for view in stored},
            rows=rows.packed["row"] * mask[:, None] if rows is not None and mask is not None else None,
            row_mask=mask,
            row_seq=np.where(mask, rows.seq, 0).astype(np.int64) if rows is not None and mask is not None else None,
        )


_PARTS = ("items", "kinds", "times")


def _row_mask(rows: Rows, slot: RowSlot) -> NDArray[np.bool_]:
    return rows.packed_mask["row"] & (rows.epoch >= slot.epoch)


def _recent(items: Any, kinds: Any, times: Any) -> Recent | None:
    """The three lists as one; None when they are null or, torn by a definition's change, of unequal length."""
    if items is None or kinds is None or times is None or not len(items) == len(kinds) == len(times):
        return None
    return Recent(items, np.array(kinds, np.int64), np.array(times, np.int64))
