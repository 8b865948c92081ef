"""Features in plain SQL: rows of one topic in SQLite, windows and functions as their words say."""

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from services.demo.oracle.log import KINDS, REAL, TEXT, Row


class Table:
    """Rows of one topic in SQLite, and the keys whose values are to be recomputed."""

    COLUMNS = ("p", "o", "n", "kind", "time_us", *TEXT, *REAL, "examined", "dwell_seconds")

    def __init__(self, log: Iterable[Row]) -> None:
        self._db = sqlite3.connect(":memory:")
        self._db.create_function("pow2", 1, lambda x: 2.0**x, deterministic=True)
        self._db.create_function("root", 1, lambda x: math.sqrt(max(0.0, x)), deterministic=True)
        self._db.execute(f"CREATE TABLE log ({', '.join(self.COLUMNS)})")
        values = ([row.get(c) for c in self.COLUMNS] for row in numbered(log))
        self._db.executemany(f"INSERT INTO log VALUES ({', '.join('?' * len(self.COLUMNS))})", values)

    def keys(self, columns: list[str], known: list[tuple[Any, ...]]) -> None:
        """Set the keys: each (value of each column, clock). Rows count wherever they lie: partitions are added."""
        self._columns = columns
        self._db.execute("DROP TABLE IF EXISTS keys")
        self._db.execute(f"CREATE TABLE keys (id INTEGER PRIMARY KEY, {', '.join('k_' + c for c in columns)}, clock)")
        marks = ", ".join("?" * (len(columns) + 2))
        self._db.executemany(f"INSERT INTO keys VALUES ({marks})", [(i, *k) for i, k in enumerate(known)])
        self._db.execute("DROP TABLE IF EXISTS mine")
        match = " AND ".join(f"l.{c} = k.k_{c}" for c in columns)
        self._db.execute("DROP INDEX IF EXISTS by_key")
        self._db.execute(f"CREATE INDEX by_key ON log ({', '.join(columns)})")
        self._db.execute(
            f"CREATE TABLE mine AS SELECT k.id AS id, k.clock AS clock, l.* FROM keys k JOIN log l ON {match}"
        )

    def values(self, feature: dict[str, Any]) -> dict[int, Any]:
        """Key number -> the value a feature should have; keys without any row in the window are absent."""
        slide, tiles = feature["slide_us"], feature["window_us"] // feature["slide_us"]
        inside = f"time_us/{slide} > clock/{slide} - {tiles} AND time_us/{slide} <= clock/{slide}"
        where = f"{inside} AND {feature['column']} IS NOT NULL"
        if feature["where"]:
            where += f" AND ({sql_of(feature['where'])})"
        function = feature["function"]
        if function in ("last_n", "top_k", "last"):
            return self._lists(feature, where)
        return dict(self._db.execute(f"SELECT id, {self._aggregate(feature)} FROM mine WHERE {where} GROUP BY id"))

    def _aggregate(self, feature: dict[str, Any]) -> str:
        c = feature["column"]
        if feature["function"] == "ratio":
            top = f"SUM(CASE WHEN {sql_of(feature['numerator'])} THEN 1 ELSE 0 END)"
            low = f"SUM(CASE WHEN {sql_of(feature['denominator'])} THEN 1 ELSE 0 END)"
            prior, weight = feature["prior"], feature["prior_weight"]
            return f"CASE WHEN {low} + {weight} > 0 THEN ({top} + {prior * weight}) * 1.0 / ({low} + {weight}) END"
        if feature["function"] == "decay":
            slide = feature["slide_us"]
            return f"SUM(pow2((time_us/{slide} - clock/{slide}) * {slide} * 1.0 / {feature['half_life_us']}))"
        return {
            "count": f"COUNT({c})",
            "sum": f"SUM({c})",
            "mean": f"AVG({c})",
            "min": f"MIN({c})",
            "max": f"MAX({c})",
            "count_distinct": f"COUNT(DISTINCT {c})",
            "std": f"root(AVG({c} * {c}) - AVG({c}) * AVG({c}))",
        }[feature["function"]]

    def _lists(self, feature: dict[str, Any], where: str) -> dict[int, Any]:
        c = feature["column"]
        out: dict[int, list[Any]] = defaultdict(list)
        if feature["function"] == "top_k":
            query = f"SELECT id, {c} FROM mine WHERE {where} GROUP BY id, {c} ORDER BY id, COUNT(*) DESC, {c}"
        else:
            query = f"SELECT id, {c} FROM mine WHERE {where} ORDER BY id, time_us DESC, n DESC"
        for key, value in self._db.execute(query):
            if len(out[key]) < (feature["n"] or 1):
                out[key].append(value)
        return {key: values[0] for key, values in out.items()} if feature["function"] == "last" else dict(out)


def numbered(log: Iterable[Row]) -> Iterator[Row]:
    """Rows with `n`, their place in the log: what breaks ties of time."""
    for n, row in enumerate(log):
        yield {**row, "n": n}


def sql_of(text: str) -> str:
    """A filter as SQL: the same words, with event kinds as numbers."""
    for name, number in KINDS.items():
        for quote in "'\"":
            text = text.replace(f"{quote}{name}{quote}", str(number))
    return text
