"""A small Feast repository on the test's Redis: one view with every type we use, and one by user and category."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
)

from services.online.encode import Kind

PROJECT = "shop"
OURS = "services.online.store.FreshrankRedisOnlineStore"
ALL_KINDS = {kind.name.lower(): kind for kind in Kind}
"""Feature name -> kind: the view `everything` has one feature of each."""

_SCALARS = {
    Kind.BYTES: Bytes,
    Kind.STRING: String,
    Kind.INT32: Int32,
    Kind.INT64: Int64,
    Kind.FLOAT64: Float64,
    Kind.FLOAT32: Float32,
    Kind.BOOL: Bool,
    Kind.UNIX_TIMESTAMP: UnixTimestamp,
}


def feast_type(kind: Kind) -> Any:
    """Feast's name of a kind."""
    return Array(_SCALARS[Kind(kind.value - 10)]) if kind.is_list else _SCALARS[kind]


@dataclass(frozen=True)
class Shop:
    """The repository and its views."""

    store: FeatureStore
    everything: FeatureView
    affinity: FeatureView

    @property
    def config(self) -> RepoConfig:
        return self.store.config

    @property
    def online(self) -> RedisOnlineStore:
        found: RedisOnlineStore = self.store._get_provider().online_store
        return found

    def push(self, rows: list[tuple[str, dict[str, Value], datetime]], view: FeatureView | None = None) -> None:
        """Writes as `feast push` and `materialize` do, past pandas."""
        data = [(item(name), values, time, None) for name, values, time in rows]
        self.online.online_write_batch(self.config, view or self.everything, data, None)

    def get(self, names: list[str], features: list[str]) -> dict[str, list[Any]]:
        """Values by the stock SDK."""
        refs = [f"everything:{feature}" for feature in features]
        rows = [{"item_id": name} for name in names]
        answer: dict[str, list[Any]] = self.store.get_online_features(refs, rows).to_dict()
        return answer


def item(name: str) -> EntityKey:
    """Feast's key of an item."""
    return EntityKey(join_keys=["item_id"], entity_values=[Value(string_val=name)])


def open_shop(folder: Path, connection_string: str, store_type: str = OURS, **settings: Any) -> Shop:
    """Applies the repository; its registry is a file in the folder."""
    config = RepoConfig(
        project=PROJECT,
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": store_type, "connection_string": connection_string, **settings},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    source = FileSource(path=str(folder / "nothing.parquet"), timestamp_field="event_time")
    one = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    category = Entity(name="category", join_keys=["category"], value_type=ValueType.STRING)
    everything = FeatureView(
        name="everything",
        entities=[one],
        ttl=timedelta(days=1),
        schema=[Field(name="item_id", dtype=String)]
        + [Field(name=name, dtype=feast_type(kind)) for name, kind in ALL_KINDS.items()],
        source=source,
    )
    affinity = FeatureView(
        name="affinity",
        entities=[user, category],
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="category", dtype=String),
            Field(name="clicks", dtype=Int64),
            Field(name="score", dtype=Float32),
        ],
        source=source,
    )
    store.apply([one, user, category, everything, affinity])
    return Shop(store, everything, affinity)


def at(seconds: float) -> datetime:
    """A time of the tests."""
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
