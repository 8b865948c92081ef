"""The ledger's oracle: recomputes from the log, in plain SQL, what the services should have done.

It imports nothing of `services`: the columns below are its own statement of the contract, the definitions come from
Feast's registry through Feast, the values from Redis through Feast's stock store. It runs when the stages have
caught up, prints one line per promise, writes them as JSON and exits 1 when one is broken.
"""

import argparse
import base64
import json
import math
import sqlite3
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Consumer, TopicPartition
from freshrank.v1 import events_pb2

IMPRESSION, TICK, FORGET = 100, 101, 102
BOT = 2
KINDS = {name.removeprefix("EVENT_KIND_").lower(): number for name, number in events_pb2.EventKind.items()}
KINDS["impression"] = IMPRESSION
END = 1 << 62
"""A position behind everything: of keys that the store does not have, because no feature ever had a value."""
HOLD_US = 10_000_000
"""How long an action waits for its impression."""
HEADS = {"click": (2,), "cart": (3,), "purchase": (4,)}

_TEXT = ("user", "session", "item", "category", "event_id", "query", "region", "device", "platform", "token")
_REAL = ("value", "quantity", "price", "rating", "play_seconds", "play_share")
_list = pa.list_(pa.string())
INTERACTIONS = pa.schema(
    [("src_offset", pa.int64()), ("src_index", pa.int32()), ("kind", pa.uint8()), ("time_us", pa.int64()),
     ("received_us", pa.int64()), *[(n, pa.string()) for n in _TEXT[:5]], *[(n, pa.float32()) for n in _REAL],
     *[(n, pa.string()) for n in _TEXT[5:]], ("verdict", pa.uint8()), ("clip_version", pa.int32()),
     ("impression_items", _list), ("impression_categories", _list), ("impression", pa.binary())]
)  # fmt: skip
ITEM_INTERACTIONS = pa.schema(
    [("src_partition", pa.int32()), ("src_offset", pa.int64()), ("src_index", pa.int32()), ("kind", pa.uint8()),
     ("time_us", pa.int64()), ("received_us", pa.int64()), ("item", pa.string()), ("user", pa.string()),
     ("session", pa.string()), ("category", pa.string()), *[(n, pa.float32()) for n in _REAL],
     *[(n, pa.string()) for n in ("query", "region", "device", "platform")], ("verdict", pa.uint8())]
)  # fmt: skip
EXAMPLES = pa.schema(
    [("src_offset", pa.int64()), ("src_index", pa.int32()), ("kind", pa.uint8()), ("time_us", pa.int64()),
     ("event_time_us", pa.int64()), ("received_us", pa.int64()), ("impression_id", pa.string()),
     ("user", pa.string()), ("items", pa.list_(pa.int16())), ("labels", pa.list_(pa.uint8())),
     ("weights", pa.list_(pa.float32())), ("impression", pa.binary())]
)  # fmt: skip
_SCHEMAS = {1: INTERACTIONS, 2: ITEM_INTERACTIONS, 3: EXAMPLES}

Row = dict[str, Any]


def read(bootstrap: str, topic: str) -> Iterator[tuple[int, int, int, bytes]]:
    """Every record of a topic as (partition, offset, timestamp in ms, value), partition by partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "oracle", "enable.auto.commit": False})
    for partition in sorted(consumer.list_topics(topic, 10).topics[topic].partitions):
        low, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        consumer.assign([TopicPartition(topic, partition, low)])
        at = low
        while at < end:
            for message in consumer.consume(min(1000, end - at), 1.0):
                if message.error():
                    raise SystemExit(f"reading {topic}: {message.error()}")
                at = message.offset() + 1
                yield partition, message.offset(), message.timestamp()[1], message.value() or b""
    consumer.close()


def rows(bootstrap: str, topic: str) -> Iterator[Row]:
    """The rows of a columnar topic, each with partition `p` and offset `o` of its message."""
    for partition, offset, _, value in read(bootstrap, topic):
        batch = pa.ipc.read_record_batch(pa.py_buffer(value).slice(2), _SCHEMAS[value[0]])
        for row in batch.to_pylist():
            yield {"p": partition, "o": offset, **row}


class Verdicts:
    """The promises and whether they hold."""

    def __init__(self) -> None:
        self.checks: list[dict[str, Any]] = []

    def add(self, name: str, held: bool, detail: str) -> None:
        """Note one and print it."""
        self.checks.append({"name": name, "held": bool(held), "detail": detail})
        print(f"{'holds ' if held else 'BROKEN'}  {name}: {detail}  [{time.process_time():.1f} s]", flush=True)

    @property
    def held(self) -> bool:
        """True when all hold."""
        return all(check["held"] for check in self.checks)


def unwrap(inbound: events_pb2.Inbound) -> Iterator[events_pb2.Event | events_pb2.Impression]:
    """The events and impressions of one inbound record."""
    which = inbound.WhichOneof("record")
    if which == "event":
        yield inbound.event
    elif which == "batch":
        yield from inbound.batch.events
    elif which == "impression":
        yield inbound.impression
    elif which == "forwarded":
        yield from unwrap(inbound.forwarded.inbound)


def check_events(bootstrap: str, acks: Path, log: list[Row], verdicts: Verdicts) -> None:
    """Acknowledged events: in events.in where the gateway said, and in interactions or dead letters exactly once."""
    acked = pq.read_table(acks).to_pylist()
    inbound: dict[tuple[int, int], set[str]] = {}
    impressions: Counter[str] = Counter()
    for partition, offset, _, value in read(bootstrap, "events.in"):
        try:
            records = list(unwrap(events_pb2.Inbound.FromString(value)))
        except Exception:  # a foreign producer's bytes: whatever they are, they are not ours to judge here
            continue
        inbound[partition, offset] = {r.event_id for r in records if isinstance(r, events_pb2.Event)}
        impressions.update(r.impression_id for r in records if isinstance(r, events_pb2.Impression))
    misplaced = sum(a["event_id"] not in inbound.get((a["partition"], a["offset"]), ()) for a in acked)
    verdicts.add(
        "acknowledged events are on the log", misplaced == 0, f"{len(acked)} acknowledged, {misplaced} not there"
    )
    seen: set[tuple[int, int, int]] = set()
    kept: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    for row in log:
        place = (row["p"], row["src_offset"], row["src_index"])
        if row["src_offset"] < 0 or place in seen:
            continue
        seen.add(place)
        if row["event_id"]:
            kept[row["event_id"]] += 1
        if row["kind"] == IMPRESSION:
            shown[events_pb2.Impression.FromString(row["impression"]).impression_id] += 1
    dead: Counter[str] = Counter()
    places: set[tuple[int, int, int]] = set()
    for _, _, _, value in read(bootstrap, "dead_letters"):
        letter = events_pb2.DeadLetter.FromString(value)
        place = (letter.partition, letter.offset, letter.index)
        if letter.stage != "ingest" or place in places:  # written again after a kill: the same place
            continue
        places.add(place)
        try:
            inside = list(unwrap(events_pb2.Inbound.FromString(letter.payload)))
        except Exception:  # a foreign producer's bytes
            continue
        dead.update(event.event_id for event in inside if isinstance(event, events_pb2.Event))
    ids = {a["event_id"] for a in acked}
    lost = sum(not kept[i] and not dead[i] for i in ids)
    double = sum(kept[i] > 1 for i in ids)
    verdicts.add(
        "acknowledged events lost",
        lost == 0,
        f"{lost} of {len(ids)}; {sum(1 for i in ids if not kept[i])} in dead letters",
    )
    verdicts.add("acknowledged events counted twice", double == 0, f"{double} of {len(ids)}")
    missing = sum(shown[i] != 1 for i in impressions)
    verdicts.add("impressions on the ordered log exactly once", missing == 0, f"{missing} wrong of {len(impressions)}")


def in_order(log: Iterable[Row], source: str = "") -> list[Row]:
    """Rows in log order without the ones a stage must drop: at or below the source pair seen last."""
    last: dict[tuple[int, int], tuple[int, int]] = {}
    out = []
    for row in log:
        key = (row["p"], row.get(source, 0))
        pair = (row["src_offset"], row["src_index"])
        if row["src_offset"] >= 0:
            if pair <= last.get(key, (-1, -1)):
                continue
            last[key] = pair
        out.append(row)
    return out


def check_examples(bootstrap: str, log: list[Row], windows_us: dict[str, int], verdicts: Verdicts) -> None:
    """Each impression gives one INITIAL, a flip for each head answered in time, and one CLOSED after the window; each
    forget is passed on."""
    want = expected_examples(log, windows_us)
    got: dict[str, list[Row]] = defaultdict(list)
    newest = {row["p"]: row["o"] for row in log}
    for row in in_order(rows(bootstrap, "examples")):
        # The clock goes on while we read: what followed from later records is for the next ledger.
        if row["src_offset"] <= newest.get(row["p"], -1):
            got[row["impression_id"]].append(row)
    forgets = Counter((r["p"], r["o"]) for r in log if r["kind"] == FORGET)
    told = Counter((r["p"], r["src_offset"]) for r in got.pop("", []) if r["kind"] == FORGET)
    wrong = Counter[str](forgets=int((forgets - told).total() + (told - forgets).total()))
    for impression_id, (shown, flips, closes) in want.items():
        mine = got.get(impression_id, [])
        initial = [r for r in mine if r["kind"] == 0]
        wrong["initial"] += len(initial) != 1 or not set(shown) <= set(initial[0]["items"])
        flipped = Counter[tuple[str, int]]()
        for row in (r for r in mine if r["kind"] == 1):
            message = events_pb2.Impression.FromString(row["impression"])
            for place, bits in zip(row["items"], row["labels"], strict=True):
                for head in range(len(HEADS)):
                    if bits >> head & 1:
                        flipped[message.items[place].item_id, head] += 1
        wrong["flips"] += flipped != Counter(dict.fromkeys(flips, 1))
        wrong["closed"] += sum(r["kind"] == 2 for r in mine) != int(closes)
    unknown = len(set(got) - set(want))
    total = sum(len(f) for _, f, _ in want.values())
    detail = f"{len(want)} impressions, {total} flips; wrong: {dict(wrong)}; of unknown impressions: {unknown}"
    verdicts.add("examples exactly as they should be", not sum(wrong.values()) and not unknown, detail)


Want = dict[str, tuple[list[int], set[tuple[str, int]], bool]]


def expected_examples(log: list[Row], windows_us: dict[str, int]) -> Want:
    """Impression -> (places shown, flips as (item, head), whether its click window has ended)."""
    want: Want = {}
    made: dict[str, dict[str, Any]] = {}
    early: dict[str, list[tuple[Row, int]]] = defaultdict(list)
    clock: dict[int, int] = defaultdict(int)
    for row in log:
        p = row["p"]
        clock[p] = max(clock[p], row["time_us"])
        if row["kind"] == IMPRESSION:
            message = events_pb2.Impression.FromString(row["impression"])
            shown = [place for place, item in enumerate(message.items) if item.shown]
            items = {message.items[place].item_id for place in shown}
            want[message.impression_id] = (shown, set(), False)
            made[message.impression_id] = {"time_us": row["time_us"], "user": message.user_id, "items": items, "p": p}
            for action, at_us in early.pop(message.impression_id, []):
                if clock[p] - at_us <= HOLD_US:
                    answer(action, clock[p], message.impression_id, want, made, windows_us)
        elif row["token"] and not row["verdict"] & BOT and (impression_id := impression_of(row["token"])):
            if impression_id not in made:
                early[impression_id].append((row, clock[p]))
            else:
                answer(row, clock[p], impression_id, want, made, windows_us)
    ended = {i: clock[m["p"]] >= m["time_us"] + windows_us["click"] for i, m in made.items()}
    return {i: (shown, flips, ended[i]) for i, (shown, flips, _) in want.items()}


def impression_of(token: str) -> str:
    """Impression id inside an attribution token; empty when it is none."""
    try:
        return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[1:17].hex()
    except ValueError:
        return ""


def answer(
    row: Row, clock_us: int, impression_id: str, want: Want, made: dict[str, Any], windows_us: dict[str, int]
) -> None:
    """Note the flip of an action that answers an impression inside its head's window, by the log's clock."""
    impression, flips = made[impression_id], want[impression_id][1]
    if row["user"] != impression["user"] or row["item"] not in impression["items"]:
        return
    # After the click window only items that have a label are remembered.
    over = clock_us >= impression["time_us"] + windows_us["click"]
    if over and not any(item == row["item"] for item, _ in flips):
        return
    for head, (name, kinds) in enumerate(HEADS.items()):
        played = name == "click" and row["kind"] == KINDS["play"] and (row["play_share"] or 0) >= 0.3
        if (row["kind"] in kinds or played) and clock_us < impression["time_us"] + windows_us[name]:
            flips.add((row["item"], head))


def expected_item_rows(log: list[Row]) -> Counter[tuple[Any, ...]]:
    """What the item topic must hold: a row for each acted-on item and for each item shown."""
    out: Counter[tuple[Any, ...]] = Counter()
    for row in log:
        if row["verdict"] and row["verdict"] & BOT:
            continue
        items = row["impression_items"] if row["kind"] == IMPRESSION else [row["item"]] if row["item"] else []
        for item in items or []:
            if row["kind"] not in (TICK, FORGET):
                out[row["p"], row["kind"], row["time_us"], item] += 1
    return out


def explode(log: list[Row]) -> Iterator[Row]:
    """Rows as features see them: an impression becomes one row per shown item."""
    for row in log:
        if row["kind"] in (TICK, FORGET) or (row["verdict"] or 0) & BOT:
            continue
        if row["kind"] != IMPRESSION:
            yield row
            continue
        categories = row["impression_categories"] or [None] * len(row["impression_items"])
        for place, (item, category) in enumerate(zip(row["impression_items"], categories, strict=True)):
            yield {**row, "item": item, "category": category or None, "place": place}


class Table:
    """Rows of one topic in SQLite, and the keys whose values are to be recomputed."""

    COLUMNS = ("p", "o", "n", "kind", "time_us", *_TEXT, *_REAL)

    def __init__(self, log: Iterable[Row]) -> None:
        self._db = sqlite3.connect(":memory:")
        self._db.create_function("pow2", 1, lambda x: 2.0**x, deterministic=True)
        self._db.create_function("root", 1, lambda x: math.sqrt(max(0.0, x)), deterministic=True)
        self._db.execute(f"CREATE TABLE log ({', '.join(self.COLUMNS)})")
        values = ([row.get(c) for c in self.COLUMNS] for row in numbered(log))
        self._db.executemany(f"INSERT INTO log VALUES ({', '.join('?' * len(self.COLUMNS))})", values)

    def keys(self, columns: list[str], known: list[tuple[Any, ...]]) -> None:
        """Set the keys: each (value of each column, partition, position, clock)."""
        self._columns = columns
        self._db.execute("DROP TABLE IF EXISTS keys")
        self._db.execute(
            f"CREATE TABLE keys (id INTEGER PRIMARY KEY, {', '.join('k_' + c for c in columns)}, part, pos, clock)"
        )
        marks = ", ".join("?" * (len(columns) + 4))
        self._db.executemany(f"INSERT INTO keys VALUES ({marks})", [(i, *k) for i, k in enumerate(known)])
        self._db.execute("DROP TABLE IF EXISTS mine")
        match = " AND ".join(f"l.{c} = k.k_{c}" for c in columns)
        self._db.execute("DROP INDEX IF EXISTS by_key")
        self._db.execute(f"CREATE INDEX by_key ON log ({', '.join(columns)}, p)")
        self._db.execute(
            f"CREATE TABLE mine AS SELECT k.id AS id, k.clock AS clock, l.* FROM keys k JOIN log l "
            f"ON {match} AND l.p = k.part WHERE l.o < k.pos"
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


def definitions(store: Any) -> dict[str, tuple[list[str], list[dict[str, Any]]]]:
    """View -> (join keys, features), as Feast's registry has them."""
    out = {}
    for view in store.list_stream_feature_views():
        tags = {f.name: dict(f.tags) for f in view.features}
        features = []
        for a in view.aggregations:
            name = a.resolved_name(a.time_window)
            t = tags[name]
            features.append(
                {"name": name, "function": a.function, "column": a.column,
                 "window_us": round(a.time_window.total_seconds() * 1e6),
                 "slide_us": round(a.slide_interval.total_seconds() * 1e6),
                 "where": t.get("where", ""), "n": int(t.get("n", 0)), "numerator": t.get("numerator", ""),
                 "denominator": t.get("denominator", ""), "prior": float(t.get("prior", 0)),
                 "prior_weight": float(t.get("prior_weight", 0)), "half_life_us": duration(t.get("half_life", "0s"))}
            )  # fmt: skip
        out[view.name] = (list(view.join_keys), features)
    return out


def duration(text: str) -> int:
    """Microseconds of `90s`, `5m`, `6h`, `7d`."""
    return int(float(text[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[text[-1]] * 1e6)


COLUMN_OF = {"user_id": "user", "item_id": "item", "category": "category", "session_id": "session"}


def check_features(store: Any, users: list[Row], items: list[Row], verdicts: Verdicts) -> None:
    """Values in the online store equal a recomputation at each key's position, for all keys."""
    tables = {"user": Table(explode(users)), "item": Table(r for r in items if r["kind"] not in (TICK, FORGET))}
    ends = {"user": max(r["time_us"] for r in users), "item": max(r["time_us"] for r in items)}
    part_of = {"user": {r["user"]: r["p"] for r in users}, "item": {r["item"]: r["p"] for r in items}}
    for view, (join_keys, features) in definitions(store).items():
        side = "item" if join_keys == ["item_id"] else "user"
        columns = [COLUMN_OF[key] for key in join_keys]
        source = items if side == "item" else list(explode(users))
        owners = {tuple(r[c] for c in columns): r for r in source if all(r[c] for c in columns)}
        keys = list(owners)
        names = [f["name"] for f in features]
        online = fetch(store, view, join_keys, keys, [*names, "_pos", "_clock"])
        known = [
            (
                *key,
                part_of["item"][key[0]] if side == "item" else owners[key]["p"],
                END if pos is None else pos,
                clock or ends[side],
            )
            for key, pos, clock in zip(keys, online["_pos"], online["_clock"], strict=True)
        ]
        present = [pos is not None for pos in online["_pos"]]
        due: set[int] = set()
        tables[side].keys(columns, known)
        wrong, values, example = 0, 0, ""
        for feature in features:
            want = tables[side].values(feature)
            for number, got in enumerate(online[feature["name"]]):
                if not present[number]:
                    due |= {number} if want.get(number) else set()
                    continue
                values += 1
                if not same(feature, want.get(number), got):
                    wrong += 1
                    example = (
                        example or f"; e.g. {feature['name']} of {keys[number]}: {got} instead of {want.get(number)}"
                    )
        example += f"; absent e.g. {keys[min(due)]}" if due else ""
        detail = f"{len(keys)} keys, {values} values, {wrong} wrong, {len(due)} keys absent{example}"
        verdicts.add(f"features of {view} equal a recomputation", wrong == 0 and not due, detail)


def fetch(
    store: Any, view: str, join_keys: list[str], keys: list[tuple[Any, ...]], names: list[str]
) -> dict[str, list[Any]]:
    """Values by feature name in the order of the keys, through Feast's own reader, 1,000 keys at a time."""
    out: dict[str, list[Any]] = {name: [] for name in names}
    for start in range(0, len(keys), 1000):
        entities = [dict(zip(join_keys, key, strict=True)) for key in keys[start : start + 1000]]
        answer = store.get_online_features([f"{view}:{name}" for name in names], entities).to_dict()
        for name in names:
            out[name] += answer[name]
    return out


def same(feature: dict[str, Any], want: Any, got: Any) -> bool:
    """Counts and lists exactly, floats to 1e-6 of float32; an empty count is 0 or null."""
    if isinstance(got, list) or isinstance(want, list):
        return list(got or []) == list(want or [])
    if feature["function"] in ("count", "count_distinct"):
        return (got or 0) == (want or 0)
    if want is None and feature["function"] in ("sum", "decay"):
        want = 0.0
    if want is None and feature["function"] == "ratio" and feature["prior_weight"]:
        want = feature["prior"]
    if want is None or got is None:
        return want is None and got is None
    if isinstance(want, str):
        return bool(want == got)
    return math.isclose(float(want), float(got), rel_tol=1e-6, abs_tol=1e-6)


def main() -> None:
    """Check everything and exit 0 only when it all holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bootstrap", "redis", "registry", "acks", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--project", default="freshrank")
    parser.add_argument("--windows", default="click=600,cart=86400,purchase=604800", help="seconds per head")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sys.modules["torch"] = None  # type: ignore[assignment]  # Feast loads it where it is, for nothing that is read here
    from feast import FeatureStore, RepoConfig

    windows = {n: int(float(s) * 1e6) for n, s in (part.split("=") for part in options.windows.split(","))}
    verdicts = Verdicts()
    users = in_order(rows(options.bootstrap, "interactions"))
    items = in_order(rows(options.bootstrap, "item_interactions"), "src_partition")
    check_events(options.bootstrap, Path(options.acks), users, verdicts)
    check_examples(options.bootstrap, users, windows, verdicts)
    want = expected_item_rows(users)
    got = Counter(
        (r["src_partition"], r["kind"], r["time_us"], r["item"]) for r in items if r["item"]
    )  # fmt: skip
    missing = sum((want - got).values()) + sum((got - want).values())
    detail = f"{sum(want.values())} expected, {sum(got.values())} there, {missing} differ"
    verdicts.add("item rows follow from the log", missing == 0, detail)
    config = RepoConfig(
        project=options.project, provider="local", registry={"registry_type": "sql", "path": options.registry},
        online_store={"type": "redis", "connection_string": options.redis}, entity_key_serialization_version=3,
    )  # fmt: skip
    check_features(FeatureStore(config=config), users, items, verdicts)
    Path(options.out).write_text(json.dumps({"held": verdicts.held, "checks": verdicts.checks}, indent=1))
    sys.exit(0 if verdicts.held else 1)


if __name__ == "__main__":
    main()
