"""Epochs of views: raised by a rollback, and missing when Redis lost its data."""

from collections.abc import Mapping, Sequence
from typing import Any

import redis
import redis.asyncio

from services.common.errors import InvalidInput
from services.online import scripts
from services.online.failures import reported
from services.online.keys import epoch_key


class Epochs:
    """Reads and raises the epochs of a project's views.

    Whoever owns a view raises its epoch to at least 1 before the first write. A key that was there and is not any
    more means that Redis lost its data: the owner writes everything again, then raises the epoch.
    """

    def __init__(self, client: redis.Redis, project: str) -> None:
        self._client: Any = client  # redis-py's commands are not typed
        self._project = project

    def read(self, views: Sequence[str]) -> dict[str, int | None]:
        """Epoch of each view, None where there is none. Raises TemporaryError."""
        with reported():
            return _epochs(views, self._client.execute_command("MGET", *_keys(self._project, views)) if views else [])

    def raise_to(self, view: str, epoch: int) -> int:
        """Raises the epoch, never lowers it; returns the one that holds. From then on lower ones are fenced off."""
        with reported():
            return int(self._client.execute_command(*_raise(self._project, view, epoch)))


class AsyncEpochs:
    """`Epochs` for asyncio."""

    def __init__(self, client: redis.asyncio.Redis, project: str) -> None:
        self._client: Any = client  # redis-py's commands are not typed
        self._project = project

    async def read(self, views: Sequence[str]) -> dict[str, int | None]:
        """Like `Epochs.read`."""
        with reported():
            return _epochs(
                views, await self._client.execute_command("MGET", *_keys(self._project, views)) if views else []
            )

    async def raise_to(self, view: str, epoch: int) -> int:
        """Like `Epochs.raise_to`."""
        with reported():
            return int(await self._client.execute_command(*_raise(self._project, view, epoch)))


def missing(epochs: Mapping[str, int | None]) -> list[str]:
    """Views without an epoch, in order: their data is lost or was never written.

    >>> missing({"b": None, "a": 1})
    ['b']
    """
    return sorted(view for view, epoch in epochs.items() if epoch is None)


def _keys(project: str, views: Sequence[str]) -> list[bytes]:
    return [epoch_key(project, view) for view in views]


def _epochs(views: Sequence[str], stored: Sequence[bytes | None]) -> dict[str, int | None]:
    return {view: None if epoch is None else int(epoch) for view, epoch in zip(views, stored, strict=True)}


def _raise(project: str, view: str, epoch: int) -> tuple[str, str, int, bytes, int]:
    if not 0 < epoch < 2**32:
        raise InvalidInput("epoch", "out_of_range", f"{epoch} is not within 1 and 2**32 - 1")
    return "EVAL", scripts.RAISE_EPOCH.source, 1, epoch_key(project, view), epoch
