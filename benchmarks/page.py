"""docs/benchmarks.md out of the JSON of benchmarks/results: pure, so that a test can write it again and compare."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]

HEAD = """# Benchmarks

Written by `make bench` from `benchmarks/results/*.json`; edit neither by hand. Headlines are ratios between ways that
took turns in one run; absolute figures hold for the machine and the load named beside them. Every benchmark checks
values before or after it times (last column of the first table); one that finds a wrong value fails.
"""


@dataclass(frozen=True)
class Row:
    """One figure and its bar; `held` is None where there is no bar."""

    what: str
    measured: str
    wanted: str = ""
    held: bool | None = None


def read(folder: Path) -> list[dict[str, Any]]:
    """All described results of a folder, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def correct(name: str, result: Result) -> bool:
    """Whether the benchmark's own check of values held."""
    return bool(_CORRECT[name](result))


def rows(described: Result) -> list[Row]:
    """The figures of one described result."""
    return _ROWS[described["name"]](described["result"])


def steady(described: Result) -> bool:
    """Whether the floor of the run varied little enough (IQR at most 20 % of its median) for a verdict."""
    floor = _FLOOR[described["name"]](described["result"])
    return floor is None or bool(floor["iqr"] <= 0.2 * floor["median"])


def write(described: Sequence[Result]) -> str:
    """The page."""
    parts = [HEAD, _overview(described), _lost(described)]
    for one in described:
        parts.append(f"## {one['name']}\n\n{_TEXT[one['name']]}\n\n{_table(rows(one), steady(one))}")
        if detail := _DETAIL[one["name"]](one["result"]):
            parts.append(detail)
    parts.append(_missing(described))
    parts.append(_versions(described))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part)


def _overview(described: Sequence[Result]) -> str:
    lines = [
        "## Runs",
        "",
        "| benchmark | commit | when | machine | load before, after | correct |",
        "|" + " --- |" * 6,
    ]
    for one in described:
        where = f"{one['machine']['cpu']}, {one['machine']['cores']} cores, {one['machine']['memory_gib']:.0f} GiB"
        name = one["name"] + (" (quick: few repetitions)" if one["quick"] else "")
        loads = f"{one['load_before'][0]}, {one['load_after'][0]}"
        lines.append(
            f"| {name} | {one['commit']} | {one['at']} | {where} | {loads} | {'yes' if one['correct'] else '**no**'} |"
        )
    return "\n".join(lines)


def _lost(described: Sequence[Result]) -> str:
    missed = [(one["name"], row) for one in described if steady(one) for row in rows(one) if row.held is False]
    unsteady = [one["name"] for one in described if not steady(one)]
    lines = ["", "## Where we lose", ""]
    lines += [f"- {name}: {row.what} is {row.measured}, wanted {row.wanted}." for name, row in missed]
    busy = [one["name"] for one in described if one["load_before"][0] > one["machine"]["cores"]]
    if not missed:
        lines.append("- No figure that could be judged misses its bar.")
    if unsteady:
        lines.append(f"- Not judged, because their floors varied by more than 20 %: {', '.join(unsteady)}.")
    if busy:
        lines.append(f"- Measured while other work kept the processor busy (load above its cores): {', '.join(busy)}.")
    return "\n".join(lines) + "\n"


def _missing(described: Sequence[Result]) -> str:
    absent = sorted(set(_ROWS) - {one["name"] for one in described})
    return f"## Not measured\n\nThere is no committed result of: {', '.join(absent)}.\n" if absent else ""


def _versions(described: Sequence[Result]) -> str:
    sets = {json.dumps(one["versions"], sort_keys=True): one["versions"] for one in described}
    lines = ["## Versions", ""]
    for found in sets.values():
        names = [one["name"] for one in described if one["versions"] == found]
        lines.append(f"- {', '.join(names)}: " + ", ".join(f"{k} {v}" for k, v in sorted(found.items())))
    return "\n".join(lines) + "\n"


def _table(found: Sequence[Row], steady: bool) -> str:
    lines = ["| what | measured | wanted | held |", "| --- | --- | --- | --- |"]
    answers = {True: "yes", False: "**no**", None: ""}
    for row in found:
        held = answers[row.held] if steady or row.held is None else "not judged"
        lines.append(f"| {row.what} | {row.measured} | {row.wanted} | {held} |")
    return "\n".join(lines) + "\n"


def _least(what: str, value: float, bar: float, unit: str = "x") -> Row:
    return Row(what, f"{value:.3g}{unit}", f"at least {bar:g}{unit}", value >= bar)


def _most(what: str, value: float, bar: float, unit: str = "x") -> Row:
    return Row(what, f"{value:.3g}{unit}", f"at most {bar:g}{unit}", value <= bar)


def _ways(found: Mapping[str, Mapping[str, float]], unit: str) -> str:
    lines = [f"| way | median {unit} | IQR | n |", "| --- | --- | --- | --- |"]
    for name, value in found.items():
        lines.append(f"| {name} | {value['median']:,.4g} | {value['iqr']:,.3g} | {_count(value)} |")
    return "\n".join(lines) + "\n"


def _count(value: Mapping[str, float]) -> str:
    return f"{value['n']:.0f}" if "n" in value else ""


def _shares(found: Mapping[str, Mapping[str, float]], unit: str) -> str:
    lines = [f"| what | p50 {unit} | p95 | p99 | worst | n |", "| --- | --- | --- | --- | --- | --- |"]
    for name, value in found.items():
        figures = " | ".join(f"{value[key]:,.4g}" for key in ("p50", "p95", "p99", "worst"))
        lines.append(f"| {name} | {figures} | {value['n']:.0f} |")
    return "\n".join(lines) + "\n"


def _feast_read(result: Result) -> list[Row]:
    return [
        _least(
            "ours against the SDK", result["times_faster_than_sdk"]["median"], result["bar"]["times_faster_than_sdk"]
        ),
        Row("ours against the SDK's async reader", f"{result['times_faster_than_sdk_async']['median']:.3g}x"),
        Row("ours over the hand-packed floor", f"{result['times_the_floor']['median']:.3g}x"),
        Row("values that differ from the SDK's", f"{result['parity']['different']} of {result['parity']['values']:,}"),
    ]


def _feast_write(result: Result) -> list[Row]:
    return [
        _least(
            "ours as a share of raw HSET", result["share_of_raw_hset"]["median"], result["bar"]["share_of_raw_hset"]
        ),
        Row("ours against the SDK", f"{result['times_faster_than_sdk']['median']:.3g}x"),
        Row("values that differ from the SDK's", f"{result['parity']['different']} of {result['parity']['values']:,}"),
    ]


def _trainer(result: Result) -> list[Row]:
    through, sizes = result["throughput"], result["by_size"]
    flat = max(s["step_ms"]["median"] for s in sizes) / min(s["step_ms"]["median"] for s in sizes)
    ends = f"{min(s['rows'] for s in sizes):,} to {max(s['rows'] for s in sizes):,} rows"
    return [
        _least(
            f"ours against dense Adam at {through['rows']:,} rows of {through['dim']}",
            through["ours_over_dense_adam"],
            10,
        ),
        _least("ours against sparse Adam", through["ours_over_sparse_adam"], 1),
        Row("ours as a share of the floor", f"{through['ours_over_floor']:.3g}x"),
        _most(f"slowest over fastest step, {ends}", flat, 1.1),
    ]


def _streams(result: Result) -> list[Row]:
    per_second = result["events_per_second"]
    return [
        _least("ours against the stock agent", result["times_faster_than_stock"]["median"], 10),
        Row("ours as a share of a bare consume-and-parse loop", f"{result['share_of_floor']['median']:.3g}x"),
        Row("ours, events/s", f"{per_second['ours']['median']:,.0f}"),
        Row("stock agent, events/s", f"{per_second['stock']['median']:,.0f}"),
        Row("counts that differ", f"{result['parity']['different']} of {result['parity']['values']:,}"),
    ]


def _rank(result: Result) -> list[Row]:
    p50 = result["closed_loop_ms"]["rank"]["p50"]
    found = [
        _most("p50 over the sum of measured floors", result["times_the_floors"], 2.5),
        Row("p50, one caller at a time", f"{p50:.3g} ms"),
        Row("sum of the floors", f"{result['sum_of_floors_ms']:.3g} ms"),
        Row("capacity, eight callers", f"{result['capacity_qps']:.3g} calls/s"),
    ]
    for name, open_loop in result["open_loop_ms"].items():
        found.append(_most(f"p99 over p50 at half capacity, {name}", open_loop["p99"] / open_loop["p50"], 4))
        found.append(Row("the same p99 over the p50 of one caller", f"{open_loop['p99'] / p50:.3g}x"))
    decisions = ", ".join(f"{count} {name}" for name, count in result.get("decisions_at_work", {}).items())
    found.append(Row("releases meanwhile, trainer at work", decisions or "none"))
    checked = result["parity"]
    worst = f"{checked['worst']:.1e} of {checked['scores']:,} scores"
    found.append(Row("largest difference to onnxruntime", worst))
    found.append(Row("the same against other items' scores", f"{checked['worst_of_other_items']:.1e}"))
    return found


def _search(result: Result) -> list[Row]:
    call, checked = result["closed_loop_ms"]["search"], result["parity"]
    processes = ", ".join(f"{mib:.0f}" for mib in sorted(result["gateway_mib"].values(), reverse=True))
    return [
        _most("p50 over the sum of measured floors", result["times_the_floors"], 2.5),
        Row(f"p50 and p99, {result['items']:,} items", f"{call['p50']:.3g} and {call['p99']:.3g} ms"),
        Row("sum of the floors", f"{result['sum_of_floors_ms']:.3g} ms"),
        *_by_meaning(result),
        _most("a changed item is found, p99", result["visible_ms"]["p99"], 1000, " ms"),
        Row("the index of words on disk", f"{result['index_mib']:.3g} MiB"),
        Row("memory of the gateway's processes", f"{processes} MiB"),
        Row("largest difference to onnxruntime", f"{checked['worst']:.1e} of {checked['scores']:,} scores"),
        Row("the same against other items' scores", f"{checked['worst_of_other_items']:.1e}"),
    ]


def _by_meaning(result: Result) -> list[Row]:
    if "recall_at_100" not in result:
        return []
    again, rate = result["closed_loop_ms"]["repeated"], result["items"] / result["vectors_s"]
    return [
        Row("the same for a repeated query", f"{again['p50']:.3g} and {again['p99']:.3g} ms"),
        _least("of the 100 nearest found", result["recall_at_100"], 0.95, ""),
        _most("a text's new meaning is found, p99", result["visible_by_meaning_ms"]["p99"], 1000, " ms"),
        Row("vectors of all items", f"{result['vectors_s']:.0f} s, {rate:.0f} a second; titles: {result['titles']}"),
        Row("the index of vectors on disk", f"{result['vectors_mib']:.3g} MiB"),
    ]


def _freshness(result: Result) -> list[Row]:
    seconds = result["seconds"]
    return [
        Row(
            "events/s sent, acknowledged",
            f"{result['events_per_second']:.0f} of {result['asked_per_second']:.0f} asked",
        ),
        *[
            _most(f"acknowledged to {name}, p{share}", seconds[name][f"p{share}"], bar, " s")
            for name, share, bar in (("feature", 99, 1), ("row", 99, 5), ("release", 95, 60))
            if name in seconds
        ],
        *[
            Row(f"row delta written to visible in scores, p{share}", f"{seconds['delta'][f'p{share}']:.3g} s")
            for share in (50, 99)
            if "delta" in seconds
        ],
        Row("probes that saw no change in time", str(result["missed"])),
    ]


def _releases(result: Result) -> list[Row]:
    calls, failed = result["calls"], sum(result["failed"].values())
    routed = result["decisions"].get("promoted", 0)
    return [
        Row("releases routed", f"{routed}", f"{result['wanted']}", routed >= result["wanted"]),
        Row("calls that failed", f"{failed} of {calls:,}", "0", failed == 0),
        _most("p99 while releasing over p99 while frozen", result["p99_over_quiet"], 1.5),
        Row("calls/s asked, half of the capacity", f"{result['asked_per_second']:.3g}"),
    ]


def _by_size(result: Result) -> str:
    lines = ["| rows | step ms | p99 | with deltas ms | checkpoint s | RSS MiB |", "|" + " --- |" * 6]
    for one in result["by_size"]:
        lines.append(
            f"| {one['rows']:,} | {one['step_ms']['median']:.3g} | {one['step_ms']['p99']:.3g} | "
            f"{one['step_and_delta_ms_mean']:.3g} | {one['checkpoint_s'] or float('nan'):.3g} | {one['rss_mib']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


_ROWS: dict[str, Callable[[Result], list[Row]]] = {
    "feast_read": _feast_read,
    "feast_write": _feast_write,
    "trainer": _trainer,
    "streams": _streams,
    "rank": _rank,
    "search.latency": _search,
    "freshness": _freshness,
    "releases": _releases,
}
_CORRECT: dict[str, Callable[[Result], object]] = {
    "feast_read": lambda r: r["parity"]["different"] == 0 < r["parity"]["values"],
    "feast_write": lambda r: r["parity"]["different"] == 0 < r["parity"]["values"],
    "trainer": lambda r: bool(r["correct"]),
    "streams": lambda r: r["parity"]["different"] == 0 < r["parity"]["values"],
    "rank": lambda r: r["parity"]["worst"] <= r["parity"]["tolerance"] < r["parity"]["worst_of_other_items"],
    "search.latency": lambda r: r["parity"]["worst"] <= r["parity"]["tolerance"] < r["parity"]["worst_of_other_items"],
    "freshness": lambda r: all(figures["n"] > 0 for figures in r["seconds"].values()) and bool(r["seconds"]),
    "releases": lambda r: not r["failed"] and r["releases_in_answers"] > 1,
}
_FLOOR: dict[str, Callable[[Result], Mapping[str, float] | None]] = {
    "feast_read": lambda r: r["wall_ms"]["floor_hand_packed"],
    "feast_write": lambda r: r["rows_per_second"]["raw_hset"],
    "trainer": lambda r: r["throughput"]["samples_per_cpu_second"]["floor"],
    "streams": lambda r: r["events_per_second"]["floor"],
    "rank": lambda r: r["echo_p50_ms"],
    "search.latency": lambda r: r["echo_p50_ms"],
    "freshness": lambda r: None,
    "releases": lambda r: None,
}
_DETAIL: dict[str, Callable[[Result], str]] = {
    "feast_read": lambda r: _ways(r["wall_ms"], "ms"),
    "feast_write": lambda r: _ways(r["rows_per_second"], "rows/s"),
    "trainer": lambda r: (
        _ways(r["throughput"]["samples_per_cpu_second"], "samples per CPU second") + "\n" + _by_size(r)
    ),
    "streams": lambda r: _ways(r["events_per_second"], "events/s"),
    "rank": lambda r: _shares(r["closed_loop_ms"] | {f"open loop, {k}": v for k, v in r["open_loop_ms"].items()}, "ms"),
    "search.latency": lambda r: _shares(r["closed_loop_ms"] | {"a changed item is found": r["visible_ms"]}, "ms"),
    "freshness": lambda r: _shares(r["seconds"], "s") if r["seconds"] else "",
    "releases": lambda r: _shares({"frozen": r["quiet_ms"], "releasing": r["releasing_ms"]}, "ms"),
}
_TEXT = {
    "feast_read": "One user and 100 items of 20 features each, read from Feast's own Redis layout.",
    "feast_write": "Items of 20 features written into Feast's own Redis layout; ours compares the order of each row "
    "inside Redis, raw HSET does not.",
    "trainer": "Samples a second of one thread: the same ranker on the same examples. The floor has no embeddings.",
    "streams": "The same events on one real broker, one record each, into one real Redis. Ours: ingest and features as "
    "processes, all features of all views. Stock: one Faust agent that keeps four counts per user in a dict and calls "
    "Feast's `store.push` per event, Feast's own Redis store. The floor consumes and parses and does nothing else.",
    "search.latency": "Searches by words, each for something else, over a large catalogue of the simulated shop; 200 "
    "candidates are ranked by a release that the loop made itself, ten answered. Floors in turn in the same run: a "
    "gRPC echo of the same sizes, the index asked in this process, the read of the shopper's keys, Triton with "
    "onnxruntime inside.",
    "rank": "100 candidates through gateway, Redis and Triton with a release that the loop made itself. The floors are "
    "measured in turn in the same run: a gRPC echo of the same sizes between two processes, the read of the shopper's "
    "keys, onnxruntime in this process, and what Triton adds to it. Open loop: Poisson arrivals at half the measured "
    "capacity, latency from the intended time of sending; one answer in ten is clicked, a candidate comes every "
    "30 s, and the gate's bounds on quality are wide.",
    "freshness": "Probe shoppers click and ask again until the answer's ages say that the click is in it, beside "
    "traffic at the stated rate; label windows by default. Releases are judged by labels of 30 s and the newest 400 "
    "impressions, and the bound on how far scores may move is ten times the default, as a shop of minutes needs.",
    "releases": "A candidate every 12 s (by default 30) is exported, examined, loaded, warmed, routed, watched, "
    "drained and unloaded, while Poisson arrivals ask for 100 candidates at half the capacity; in turn with windows in "
    "which releases are frozen. The gate's bounds on quality are wide: this is about the way of a release.",
}
