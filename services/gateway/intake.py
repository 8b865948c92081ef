"""What callers bring: events of shoppers, items of the catalogue, the wish to be forgotten."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from freshrank.v1.events_pb2 import Event
from freshrank.v1.models_pb2 import CatalogueItem, ItemRow
from freshrank.v1.ranking_pb2 import Item

from services.common.errors import DeadlineExceeded, FreshrankError, InvalidInput
from services.common.kafka import Ack
from services.gateway import given, track
from services.gateway.checks import content_of
from services.gateway.meters import Meters
from services.gateway.retrieve import Covisits
from services.gateway.track import Parcel

NAN = float("nan")


class Sends(Protocol):
    """Where accepted records go; a future holds the place once it is safe."""

    def parcel(self, parcel: Parcel) -> "asyncio.Future[Ack]":
        """Events of one record."""
        ...

    def item(self, item: str, entry: CatalogueItem | None) -> "asyncio.Future[Ack]":
        """A catalogue entry; None deletes it."""
        ...

    def row(self, slot: str, item: str, row: ItemRow | None) -> "asyncio.Future[Ack]":
        """A vector that the shop gives of an item; None takes it out."""
        ...

    def forget(self, user: str, before_us: int, received_us: int) -> "asyncio.Future[Ack]":
        """A shopper's wish to be forgotten."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of one event: its place, or the fault."""

    partition: int = -1
    offset: int = -1
    fault: InvalidInput | None = None


class Intake:
    """Takes in records; nothing is accepted before the broker has acknowledged it."""

    def __init__(
        self,
        sends: Sends,
        partitions: int,
        replay: bool,
        meters: Meters,
        covisits: Covisits,
        forgotten: Callable[[str], None],
        vectors: Mapping[str, int] | None = None,
    ) -> None:
        """`forgotten` is told of each user whose memory in this process must go; `vectors`: numbers of each that the
        shop may give of an item, by name.
        """
        self.vectors = vectors or {}
        self._sends, self._partitions, self._replay = sends, partitions, replay
        self._meters, self._covisits, self._forgotten = meters, covisits, forgotten

    async def track(self, events: Sequence[Event], now_us: int, timeout_s: float) -> list[Outcome]:
        """One outcome per event, in order.

        Raises TemporaryError or DeadlineExceeded when a record was not acknowledged: send the call again, an event
        that got through counts once.
        """
        parcels, faults = track.sort(events, self._partitions, now_us, self._replay)
        acks = await acknowledged([self._sends.parcel(parcel) for parcel in parcels], timeout_s)
        outcomes = [Outcome(fault=faults.get(place)) for place in range(len(events))]
        for parcel, (partition, offset) in zip(parcels, acks, strict=True):
            for place in parcel.indexes:
                outcomes[place] = Outcome(partition, offset)
                self._covisited(events[place])
        self._meters.events.labels("accepted").inc(len(events) - len(faults))
        self._meters.events.labels("refused").inc(len(faults))
        return outcomes

    async def upsert(self, items: Sequence[Item], now_us: int, timeout_s: float) -> int:
        """Add or change items; returns how many. Raises as `track`."""
        rows = [
            self._sends.row(given.slot_of(vector.name), item.item_id, given.row_of(vector, now_us))
            for item in items
            for vector in item.vectors
        ]
        sent = [self._sends.item(item.item_id, entry_of(item, now_us)) for item in items]
        await acknowledged([*sent, *rows], timeout_s)
        return len(sent)

    async def delete(self, ids: Sequence[str], timeout_s: float) -> int:
        """Take items out; returns how many were named. Raises as `track`."""
        distinct = list(dict.fromkeys(ids))
        rows = [self._sends.row(given.slot_of(name), item, None) for item in distinct for name in self.vectors]
        await acknowledged([*(self._sends.item(item, None) for item in distinct), *rows], timeout_s)
        return len(distinct)

    async def forget(self, user: str, before_us: int, now_us: int, timeout_s: float) -> Ack:
        """Put the wish on the log and drop what this process remembers. Raises as `track`."""
        (ack,) = await acknowledged([self._sends.forget(user, before_us, now_us)], timeout_s)
        self._forgotten(user)
        return ack

    def _covisited(self, event: Event) -> None:
        if event.item_id and event.session_id:
            self._covisits.saw(event.session_id, event.item_id)


def entry_of(item: Item, now_us: int) -> CatalogueItem:
    """The catalogue entry as it goes onto item_updates."""
    return CatalogueItem(
        item_id=item.item_id,
        title=item.title,
        categories=item.categories,
        brand=item.brand,
        price=item.price if item.HasField("price") else NAN,
        stock=item.stock if item.HasField("stock") else -1,
        published_us=item.published_us or now_us,
        updated_us=now_us,
        content=content_of(item),
        description=item.description,
    )


async def acknowledged(sent: "Sequence[asyncio.Future[Ack]]", timeout_s: float) -> list[Ack]:
    """Places of all records. Raises the first failure, or DeadlineExceeded when not all are safe in time."""
    if not sent:
        return []
    done, waiting = await asyncio.wait(sent, timeout=timeout_s)
    for future in waiting:
        future.add_done_callback(_seen)
    failures = [error for future in done if isinstance(error := future.exception(), FreshrankError)]
    if failures:
        raise failures[0]
    if waiting:
        raise DeadlineExceeded("the log has not acknowledged in time; sending the same again is safe")
    return [future.result() for future in sent]


def _seen(future: "asyncio.Future[Ack]") -> None:
    """Take note of a failure nobody waits for any more."""
    if not future.cancelled():
        future.exception()
