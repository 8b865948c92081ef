"""Writes items of 20 float features into Feast's Redis layout: the stock SDK, raw HSET and ours.

    python -m benchmarks.feast_write [--redis URL] [--json FILE] [--rounds 7] [--rows 20000]

`raw_hset` is the floor: the same bytes packed the same way (less the order field), one plain HSET per row, pipelined,
nothing compared; `raw_hset_redis_py` packs with redis-py. Ours compares (epoch, seq) inside Redis for every row. Each
way has its own entities; after the first, each round replaces the values of the one before. Before anything is
timed, the SDK reads back what ours wrote, and all values must be equal.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import redis
from feast import FeatureStore
from numpy.typing import NDArray

from benchmarks.feast_shop import (
    FEATURES,
    PROJECT,
    arguments,
    environment,
    features_of,
    open_store,
    ratios,
    redis_at,
    report,
    spread,
)
from services.online.encode import Column, Kind, encode_column, encode_timestamps, frame
from services.online.keys import entity_keys, feature_field, ts_field
from services.online.writer import Batch, MatrixWriter, Packer

SDK_ROWS = 2_000
"""Rows per turn of the SDK, which takes a second for ten thousand."""
BAR = 0.8
"""Ours must reach at least this share of the rate of raw HSET."""
HSET_ROWS = 500
"""Rows per send of the floor."""


@dataclass(frozen=True)
class Rows:
    """What one turn writes."""

    numbers: list[int]
    values: dict[str, NDArray[np.float32]]
    event_us: NDArray[np.int64]

    def ids(self, way: str) -> list[str]:
        """Each way its own entities of equal length of name: hashes of one size, not one hash that grows."""
        return [f"{way:.4}-{number:06d}" for number in self.numbers]

    def head(self, count: int) -> "Rows":
        """The first rows."""
        return Rows(self.numbers[:count], {n: v[:count] for n, v in self.values.items()}, self.event_us[:count])


def make(count: int, turn: int) -> Rows:
    """Random values of one turn, later than those of the turn before."""
    rng = np.random.default_rng(turn)
    values = {name: rng.standard_normal(count, np.float32) for name in FEATURES}
    return Rows(list(range(count)), values, 1_770_000_000_000_000 + turn * 1_000_000 + np.arange(count))


class Ways:
    """Each writes all rows and returns when Redis has answered for the last."""

    def __init__(self, client: redis.Redis, store: FeatureStore) -> None:
        self._client, self._store = client, store
        kinds = dict.fromkeys(FEATURES, Kind.FLOAT32)
        self._writer = MatrixWriter(client, Packer(PROJECT, "ours", ["item_id"], kinds))
        self.turn = 0

    def sdk(self, rows: Rows) -> None:
        """`write_to_online_store` of stock Feast; the frame is made before."""
        self._store.write_to_online_store("item_stats", self.frame)

    def ours(self, rows: Rows) -> None:
        """`MatrixWriter`, keys and packing included."""
        columns = {name: Column(values) for name, values in rows.values.items()}
        seqs = np.full(len(rows.numbers), self.turn, np.uint64)
        result = self._writer.write(Batch([rows.ids("ours")], columns, rows.event_us, 1, seqs))
        if result.written != len(rows.numbers):
            raise SystemExit(f"{result.dropped} rows were dropped")

    def raw_hset(self, rows: Rows) -> None:
        """The same packing, plain HSET."""
        self._send(self._packed_hsets(rows))

    def raw_hset_redis_py(self, rows: Rows) -> None:
        """Values by the same packing, HSET by a redis-py pipeline."""
        fields, cells = self._cells("redis_py", rows)
        unframed = [[cell.split(b"\r\n", 1)[1][:-2] for cell in column] for column in cells]
        keys = entity_keys(PROJECT, ("item_id",), rows.ids("pyhs"))
        table = list(zip(keys, zip(*unframed, strict=True), strict=True))
        for start in range(0, len(table), HSET_ROWS):
            with self._client.pipeline(transaction=False) as pipe:
                for key, row in table[start : start + HSET_ROWS]:
                    pipe.hset(key, mapping=dict(zip(fields, row, strict=True)))  # type: ignore[arg-type]
                pipe.execute()

    def prepare(self, rows: Rows) -> None:
        """What the SDK wants its rows in."""
        times = pd.to_datetime(rows.head(SDK_ROWS).event_us, unit="us", utc=True)
        values = {f"item_{name}": column for name, column in rows.head(SDK_ROWS).values.items()}
        self.frame = pd.DataFrame({"item_id": rows.ids("sdk_")[:SDK_ROWS], "event_time": times, **values})

    def _cells(self, view: str, rows: Rows) -> tuple[list[bytes], list[list[bytes]]]:
        count = len(rows.numbers)
        cells = [encode_column(name, Kind.FLOAT32, Column(values), count) for name, values in rows.values.items()]
        fields = [*(feature_field(view, name) for name in FEATURES), ts_field(view)]
        return fields, [*cells, encode_timestamps(rows.event_us)]

    def _packed_hsets(self, rows: Rows) -> Iterator[tuple[int, bytes]]:
        fields, cells = self._cells("raw", rows)
        head = b"*%d\r\n$4\r\nHSET\r\n" % (2 + 2 * len(fields))
        names = [[frame(field)] * len(rows.numbers) for field in fields]
        keys = [head + frame(key) for key in entity_keys(PROJECT, ("item_id",), rows.ids("hset"))]
        pairs = chain.from_iterable(zip(names, cells, strict=True))
        table = list(zip(keys, *pairs, strict=True))
        for start in range(0, len(table), HSET_ROWS):
            part = table[start : start + HSET_ROWS]
            yield len(part), b"".join(chain.from_iterable(part))

    def _send(self, commands: Iterator[tuple[int, bytes]]) -> None:
        pool: Any = self._client.connection_pool
        connection = pool.get_connection()
        for count, packed in commands:
            connection.send_packed_command([packed])
            for _ in range(count):
                connection.read_response()
        pool.release(connection)


def differing(client: redis.Redis, store: FeatureStore) -> tuple[int, int]:
    """(values compared, values that differ) between what ours wrote and what the SDK reads."""
    rows = make(2_000, 0)
    named = {f"item_{name}": Column(values, np.arange(2_000) % 11 == 0) for name, values in rows.values.items()}
    writer = MatrixWriter(
        client, Packer(PROJECT, "item_stats", ["item_id"], dict.fromkeys(features_of("item"), Kind.FLOAT32))
    )
    writer.write(Batch([rows.ids("ours")], named, rows.event_us, 1, np.ones(2_000, np.uint64)))
    refs = [f"item_stats:{name}" for name in features_of("item")]
    answer = store.get_online_features(refs, {"item_id": rows.ids("ours")}).to_dict()
    compared = different = 0
    for name, column in named.items():
        nulls = column.nulls if column.nulls is not None else np.zeros(2_000, np.bool_)
        expected = [None if null else float(v) for v, null in zip(column.values, nulls, strict=True)]
        compared += len(expected)
        different += sum(one != other for one, other in zip(answer[name], expected, strict=True))
    client.flushdb()
    return compared, different


def timed(ways: Ways, rounds: int, count: int) -> dict[str, list[float]]:
    """Rows per second per way and round, in a new order each round; the first round warms up."""
    chosen = random.Random(3)
    writers: dict[str, Callable[[Rows], None]] = {
        "sdk": ways.sdk,
        "raw_hset": ways.raw_hset,
        "raw_hset_redis_py": ways.raw_hset_redis_py,
        "ours": ways.ours,
    }
    rates: dict[str, list[float]] = {name: [] for name in writers}
    for turn in range(rounds + 1):
        rows = make(count, turn)
        ways.turn = turn
        ways.prepare(rows)
        for name in chosen.sample(sorted(writers), len(writers)):
            started = time.perf_counter()
            writers[name](rows)
            rates[name].append((SDK_ROWS if name == "sdk" else count) / (time.perf_counter() - started))
    return {name: values[1:] for name, values in rates.items()}


def run(url: str, rounds: int, count: int) -> dict[str, Any]:
    """Compares, then times."""
    with tempfile.TemporaryDirectory() as folder, redis.Redis.from_url(url) as client:
        store = open_store(Path(folder), url, "redis")
        compared, different = differing(client, store)
        if different:
            raise SystemExit(f"{different} of {compared} values differ from what was written")
        rates = {name: spread(values) for name, values in timed(Ways(client, store), rounds, count).items()}
    return {
        "benchmark": "feast_write",
        "rows": {"ours": count, "sdk": SDK_ROWS, "features": len(FEATURES)},
        "parity": {"values": compared, "different": different},
        "rows_per_second": rates,
        "share_of_raw_hset": ratios(rates["ours"], rates["raw_hset"]),
        "times_faster_than_sdk": ratios(rates["ours"], rates["sdk"]),
        "bar": {"share_of_raw_hset": BAR},
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> int:
    """Exit status 0 when ours reaches BAR of the rate of raw HSET by the median."""
    options = arguments(__doc__ or "", rounds=7, rows=20_000)
    with redis_at(options.redis) as url:
        before = environment(url)
        result = run(url, options.rounds, options.rows)
        report(result | {"before": before, "load_after": environment(url)["load"]}, options.json)
    return 0 if result["share_of_raw_hset"]["median"] >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
