"""Takes values out of the online store: all of an entity (forget), or one view's part of it."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import redis
import redis.asyncio

from services.online.failures import reported
from services.online.keys import feature_field, ord_field, project_of, ts_field

CHUNK = 500
"""Keys per round trip."""

Command = tuple[str | bytes, ...]


def erase_entities(client: redis.Redis, keys: Sequence[bytes]) -> int:
    """Deletes whole entities, the fields of all views and their orders; returns how many were there.

    Raises TemporaryError. A write that comes later brings an entity back: stop its writers first.
    """
    return sum(sum(_run(client, [("UNLINK", *part)])) for part in _parts(keys))


async def erase_entities_async(client: redis.asyncio.Redis, keys: Sequence[bytes]) -> int:
    """Like `erase_entities`."""
    return sum([sum(await _run_async(client, [("UNLINK", *part)])) for part in _parts(keys)])


def erase_view(client: redis.Redis, view: str, features: Sequence[str], keys: Sequence[bytes]) -> int:
    """Deletes one view's features, event time and order of the entities; returns how many of them had the view."""
    return sum(sum(_run(client, _view_commands(view, features, part))[::2]) for part in _parts(keys))


async def erase_view_async(
    client: redis.asyncio.Redis, view: str, features: Sequence[str], keys: Sequence[bytes]
) -> int:
    """Like `erase_view`."""
    parts = [_view_commands(view, features, part) for part in _parts(keys)]
    return sum([sum((await _run_async(client, part))[::2]) for part in parts])


def scan_entities(client: redis.Redis, prefix: bytes, project: str) -> Iterator[bytes]:
    """Keys of all entities of a project whose key starts with `prefix` (Feast's join-key prefix).

    Feast searches with the prefix as a pattern, in which a length byte can be a wildcard, and by the end of the key,
    where one project's name can end another's; both are told apart here.
    """
    pattern = re.sub(rb"([*?\[\]\\^-])", rb"\\\1", prefix) + b"*"
    with reported():
        for key in client.scan_iter(pattern, count=1000):
            if project_of(key) == project:
                yield key


def _parts(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK))


def _view_commands(view: str, features: Sequence[str], keys: Sequence[bytes]) -> list[Command]:
    fields = [*(feature_field(view, name) for name in features), ts_field(view), ord_field(view)]
    commands: list[Command] = []
    for key in keys:
        commands += [("HEXISTS", key, ts_field(view)), ("HDEL", key, *fields)]
    return commands


def _run(client: redis.Redis, commands: Sequence[Command]) -> list[int]:
    with reported(), client.pipeline(transaction=False) as pipe:
        queue: Any = pipe.execute_command
        for command in commands:
            queue(*command)
        return [int(reply) for reply in pipe.execute()]


async def _run_async(client: redis.asyncio.Redis, commands: Sequence[Command]) -> list[int]:
    with reported():
        async with client.pipeline(transaction=False) as pipe:
            queue: Any = pipe.execute_command
            for command in commands:
                queue(*command)
            return [int(reply) for reply in await pipe.execute()]
