"""Feast's Redis online store with explicit order, for `feature_store.yaml`::

    online_store:
      type: services.online.store.FreshrankRedisOnlineStore
      connection_string: 127.0.0.1:6379

The stock SDK reads and writes through it unchanged. Feast takes only classes whose name ends with `OnlineStore`.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key, serialize_entity_key_prefix
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from pydantic import model_validator

from services.online import scripts
from services.online.connect import renewing
from services.online.encode import encode_timestamps, frame
from services.online.erase import erase_entities, erase_view, scan_entities
from services.online.keys import Id, KeyEncoder, pack_orders
from services.online.writer import AsyncMatrixWriter, Chunk, MatrixWriter, Packer, WriteResult

logger = logging.getLogger(__name__)

_1970 = datetime(1970, 1, 1, tzinfo=UTC)
SdkRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


class FreshrankRedisOnlineStoreConfig(RedisOnlineStoreConfig):  # type: ignore[misc]
    """Feast's settings for Redis, and which epoch writes through the SDK get."""

    type: Literal["services.online.store.FreshrankRedisOnlineStore"] = "services.online.store.FreshrankRedisOnlineStore"
    """Selects this store in feature_store.yaml."""

    sdk_epoch: Literal["zero", "current"] = "zero"
    """Epoch of rows written by `feast push`, `materialize` and the like, which are ordered by event time.
    zero: they never replace what a service wrote in explicit order (its epochs start at 1), so a push cannot
    block a stream. current: they take the view's epoch; raise it and push again to roll a view back by the SDK."""

    @model_validator(mode="after")
    def _ordered(self) -> "FreshrankRedisOnlineStoreConfig":
        if self.skip_dedup:
            raise ValueError("skip_dedup writes without order, which is what this store is for; leave it out")
        if self.redis_type == RedisType.redis_cluster:
            raise ValueError("redis_type redis_cluster: one script call carries keys of many slots; use redis")
        return self


class FreshrankRedisOnlineStore(RedisOnlineStore):  # type: ignore[misc]
    """Feast's layout, with writes compared by (epoch, seq) in Redis itself; the event time is only a value."""

    def __init__(self) -> None:
        self.dropped = 0
        """Rows that this instance wrote through the SDK and that were older than what is stored."""

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[SdkRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Writes rows that come through the SDK: order = (epoch by `sdk_epoch`, event time in microseconds).

        Raises TemporaryError when Redis failed (the same rows can be written again), InvalidInput for a row before
        1970.
        """
        client = self._get_client(config.online_store)
        for packer, commands in _packed(config, table, data):
            self._count(packer, MatrixWriter(client, packer).send(0, commands))
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[SdkRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Like `online_write_batch`."""
        client = await self._get_client_async(config.online_store)
        for packer, commands in _packed(config, table, data):
            self._count(packer, await AsyncMatrixWriter(client, packer).send(0, commands))
        if progress:
            progress(len(data))

    def _count(self, packer: Packer, result: WriteResult) -> None:
        if result.dropped:
            self.dropped += result.dropped
            logger.warning("%d of the rows pushed to %s are older than what is stored", result.dropped, packer.view)

    def delete_entity(self, config: RepoConfig, join_keys: Sequence[str], values: Sequence[Id]) -> bool:
        """Deletes all that is stored of one entity, in all views; True when there was something."""
        key = KeyEncoder(config.project, join_keys).one(values)
        return erase_entities(self._get_client(config.online_store), [key]) > 0

    def delete_view_values(
        self, config: RepoConfig, table: FeatureView, join_keys: Sequence[str], values: Sequence[Id]
    ) -> bool:
        """Deletes one view's values of one entity; True when the view had been written for it."""
        key = KeyEncoder(config.project, join_keys).one(values)
        client = self._get_client(config.online_store)
        return erase_view(client, _view_name(config, table), _feature_names(table), [key]) > 0

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Deletes one view's values of all entities, orders included (`feast apply` without the view)."""
        client = self._get_client(config.online_store)
        keys = list(scan_entities(client, serialize_entity_key_prefix(table.join_keys), config.project))
        erase_view(client, _view_name(config, table), _feature_names(table), keys)

    def delete_entity_values(self, config: RepoConfig, join_keys: list[str]) -> None:
        """Deletes all entities of one kind (`feast teardown`)."""
        client = self._get_client(config.online_store)
        erase_entities(client, list(scan_entities(client, serialize_entity_key_prefix(join_keys), config.project)))

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        client = await super()._get_client_async(online_store_config)
        renewing(client.connection_pool)
        return client

    async def close(self) -> None:
        """Closes the asyncio client, which stock Feast leaves open."""
        client: Any = self.__dict__.pop("_client_async", None)
        if client is not None:
            await client.aclose()


def _view_name(config: RepoConfig, table: FeatureView) -> str:
    return str(compute_versioned_name(table, config.registry.enable_online_feature_view_versioning))


def _feature_names(table: FeatureView) -> list[str]:
    return [feature.name for feature in table.features]


def _packed(config: RepoConfig, table: FeatureView, data: Sequence[SdkRow]) -> list[tuple[Packer, list[Chunk]]]:
    """Commands for rows, which need not all carry the same features."""
    groups: defaultdict[tuple[str, ...], list[SdkRow]] = defaultdict(list)
    for row in data:
        groups[tuple(row[1])].append(row)
    settings: FreshrankRedisOnlineStoreConfig = config.online_store
    packer = Packer(
        config.project,
        _view_name(config, table),
        table.join_keys,
        {},
        key_ttl_s=settings.key_ttl_seconds or 0,
        rule=scripts.CURRENT if settings.sdk_epoch == "current" else scripts.ZERO,
    )
    return [(packer, _commands(config, packer, names, rows)) for names, rows in groups.items()]


def _commands(config: RepoConfig, packer: Packer, names: tuple[str, ...], rows: Sequence[SdkRow]) -> list[Chunk]:
    version, project = config.entity_key_serialization_version, config.project.encode()
    keys = [serialize_entity_key(key, entity_key_serialization_version=version) + project for key, *_ in rows]
    cells = [[frame(values[name].SerializeToString()) for _, values, *_ in rows] for name in names]
    event_us = np.array([_microseconds(event_time) for _, _, event_time, _ in rows], np.int64)
    times = encode_timestamps(event_us)
    return list(packer.frames(keys, names, cells, times, pack_orders(0, event_us.astype(np.uint64))))


def _microseconds(time: datetime) -> int:
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)  # Feast takes naive times for UTC
    return (aware - _1970) // timedelta(microseconds=1)
