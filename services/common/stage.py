"""A stream stage without its transport: a fold with a position, and what it does to the world.

State is a fold of one partition of one log (design D5). The runtime in `faust.py` owns membership,
seeking, snapshots and retries; what is written against this module is pure and tested without a broker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from services.common.records import Message
from services.common.topics import Topic


@dataclass(frozen=True)
class Snapshot:
    """The whole state of a fold, owned by the holder: later changes of the fold do not show in it."""

    next_offset: int
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    """Plain data that JSON can hold."""


Out_co = TypeVar("Out_co", covariant=True)
Out_contra = TypeVar("Out_contra", contravariant=True)
Out = TypeVar("Out")


class Fold(Protocol[Out_co]):
    """State of one partition. `apply` is a pure function of the state and the messages."""

    next_offset: int
    """The offset after the newest message applied; the position that is saved with the state."""

    def apply(self, messages: Sequence[Message]) -> Out_co:
        """Take messages in log order, all at or above `next_offset`; raise it; return what follows from them."""
        ...

    def snapshot(self) -> Snapshot:
        """Copy the state."""
        ...


class Stage(Protocol[Out]):
    """One kind of fold and its effects."""

    @property
    def topic(self) -> Topic:
        """What is folded."""
        ...

    def open(self, partition: int, snapshot: Snapshot | None) -> Fold[Out]:
        """The fold of a partition: from a snapshot, or empty at offset 0."""
        ...

    async def emit(self, partition: int, outputs: Out) -> None:
        """Write the outputs and wait until every write is acknowledged. Doing it twice changes nothing.

        Raises TemporaryError when trying again can help; anything else ends the process.
        """
        ...
