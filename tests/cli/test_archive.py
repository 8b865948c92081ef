"""Sealed feature rows are opened for a point-in-time join, but for those of who was forgotten."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, String

from services.common import sealed
from services.common.keytable import KeyTable, writing
from tests.cli.fakes import run

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A model store with sealed rows of two shoppers: `spent` at three moments each; Ben is forgotten."""
    made = tmp_path / "store"
    keys = writing(made, made / "archive" / "features", wanted=True)
    assert keys is not None
    _archive(made, keys)
    keys.forget("ben", 0, (9, 0))
    return made


def _archive(store: Path, keys: KeyTable) -> None:
    times = pa.array([AT + timedelta(hours=hour) for hour in (0, 1, 2)] * 2, pa.timestamp("us", "UTC"))
    users = ["ada"] * 3 + ["ben"] * 3
    columns = {"user_id": users, "spent": [1.0, 2.0, 4.0] * 2, "_pos": [1, 2, 3] * 2, "event_timestamp": times}
    rows = pa.table({**columns, "created": times, "_user": users, "_row": range(6)})
    folder = store / "archive" / "features"
    for view in ("stats", "items"):
        (folder / view).mkdir(parents=True)
    pq.write_table(sealed.seal(rows, 0, sealed.FEATURES, keys, "_user"), folder / "stats" / "a.parquet")
    pq.write_table(pa.table({"item_id": ["i1"], "price": [9.5]}), folder / "items" / "a.parquet")


def _joined(folder: Path) -> list[float | None]:
    """`spent` of both half an hour after each moment, as Feast joins it."""
    settings = {"registry": str(folder / "registry.db"), "offline_store": {"type": "file"}, "online_store": None}
    feast = FeatureStore(
        config=RepoConfig(project="p", provider="local", entity_key_serialization_version=3, **settings)
    )
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    source = FileSource(
        path=str(folder / "archive" / "features" / "stats"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    fields = [Field(name="user_id", dtype=String), Field(name="spent", dtype=Float64)]
    feast.apply([user, FeatureView(name="stats", entities=[user], ttl=timedelta(days=1), schema=fields, source=source)])
    asked = [(name, AT + timedelta(hours=hour, minutes=30)) for name in ("ada", "ben") for hour in range(3)]
    frame = feast.get_historical_features(pd.DataFrame(asked, columns=["user_id", "event_timestamp"]), ["stats:spent"])
    found = frame.to_df().sort_values(["user_id", "event_timestamp"])["spent"]
    return [None if pd.isna(value) else float(value) for value in found]


def test_feast_joins_what_was_opened_by_time(store: Path, tmp_path: Path) -> None:
    ended = run("archive", "open", str(tmp_path / "out"), "--store", str(store), "--json")
    assert ended.code == 0
    assert ended.json == [{"view": "items", "rows": 1, "lost": 0}, {"view": "stats", "rows": 3, "lost": 1}]
    assert _joined(tmp_path / "out") == [1.0, 2.0, 4.0, None, None, None]
    assert pq.read_table(tmp_path / "out/archive/features/stats/a.parquet").column_names == [
        *("user_id", "spent", "_pos", "event_timestamp", "created"),
    ]


def test_a_view_and_shoppers_may_be_named(store: Path, tmp_path: Path) -> None:
    command = ("archive", "open", "--store", str(store), "--json")
    assert run(*command, str(tmp_path / "a"), "--view", "stats", "--user", "eva").json == [
        {"view": "stats", "rows": 0, "lost": 1}
    ]
    assert run(*command, str(tmp_path / "b"), "--user", "ada", "--user", "eva").json[1]["rows"] == 3


def test_what_cannot_be_opened_is_named(store: Path, tmp_path: Path) -> None:
    assert "--view" in run("archive", "open", str(tmp_path / "a"), "--store", str(store), "--view", "none").err
    ended = run("archive", "open", str(store), "--store", str(store))
    assert (ended.code, "OUT" in ended.err) == (2, True)
    assert not (tmp_path / "a").exists()
