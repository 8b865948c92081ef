"""The record of an arm that gateways obey: which release serves, which is watched against it, which rows they read."""

from collections.abc import Callable, Sequence

from freshrank.v1.models_pb2 import Freeze, Route

from services.common.arms import suffix
from services.publisher.book import Book


def key_of(arm: str) -> bytes:
    """Key of an arm's record on the topic routes.

    >>> key_of("main"), key_of("gentle")
    (b'route', b'route-gentle')
    """
    return f"route{suffix(arm)}".encode()


def route_of(
    book: Book, watch_share: float, loaded: list[str], placed: Callable[[str], Sequence[str]], now_us: int
) -> Route:
    """What the book means for gateways; a stop of the row gate shows as frozen rows.

    `placed`: the Triton endpoints that may be asked for a release.
    """
    switches = book.switches
    stopped = bool(book.stopped)
    return Route(
        champion=book.champion,
        previous=book.previous,
        watch_share=watch_share if book.previous else 0.0,
        slot=book.serving.slot,
        epoch=book.serving.epoch,
        freeze=Freeze(
            rows=switches.rows or stopped,
            releases=switches.releases,
            learning=switches.learning,
            actor="row gate" if stopped and not switches.rows else switches.actor,
            reason=book.stopped if stopped and not switches.rows else switches.reason,
        ),
        updated_us=now_us,
        previous_slot=book.serving.slot if book.previous else "",
        previous_epoch=book.serving.epoch if book.previous else 0,
        loaded=sorted(loaded),
        arm=book.arm,
        term=book.term,
        champion_at=placed(book.champion) if book.champion else (),
        previous_at=placed(book.previous) if book.previous else (),
    )
