"""docs/search.md: what words and vectors find, from the JSON of benchmarks/results/search."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "search"

HEAD = """# Search: what words find, what vectors add, what an update costs

Written by `make docs` from `benchmarks/results/search/*.json`; edit neither by hand.
"""

_ROWS = """## {pairs:,} judged pairs of {queries:,} queries

Home Depot's relevance competition: people graded titles for queries from 1 (nothing to do with it) to 3 (exactly this).
Five folds by query; only the title and the query are read. The encoder is all-MiniLM-L6-v2.

    python -m benchmarks.search.homedepot --data <homedepot> --out homedepot.json

{about}

{table}

RMSE: a score that is no grade is read as the mean grade of its 30th part in the training folds. NDCG@10: over the
judged titles of a query with at least two that differ; gain 2^(grade - 1) - 1. Intervals of 95 %: bootstrap over
queries. `words` are {features} features without the encoder (BM25, overlaps of stems by rarity, typos corrected by the
catalogue's own words, numbers, places, lengths); `all` has the cosine too.{tuned}

Differences of NDCG@10, query by query:

{differences}

**What to take from it.** {lesson}
"""

_TUNED = """ `all + tuned` also has that of an encoder tuned on other
queries of the training folds: {pairs:,} pairs, once, by `{way}`, {seconds:.0f} s of processor time a fold. Its ranker
learns from {ranked:,} further pairs, because the cosine must be of queries that the encoder has not seen; `same pairs`
is the ranker without the tuned cosine on those same pairs."""

_STEPS = """## An encoder that keeps learning

The same judgments in {slices} slices of queries, {learned} pairs learned from and {judged} other pairs judged of each.
After an update on one slice the next is judged, and the first again. RMSE reads grades off the cosine by a line.
One seed; one process of one thread.

{table}

Forgotten: what slice 1 has lost at the end since right after it was learned; below zero it has gained.{retrain} No
interval: a mean over nine slices of some hundred queries each; the spread of single steps is in the JSON.

**What to take from it.** {lesson}
"""

_BESIDE = """## What is done beside tuning

One fold is asked ({queries:,} queries), the same {learned:,} pairs of the others are learned from in each row, once.
`varied` learns three of ten queries in another form: a word less, two changed about, a wrong letter. `catalogue read`:
masked-language pre-training on {read:,} titles, once, before. NDCG@10 by the cosine alone, on queries as they were
typed and with one wrong letter in each (the same kinds of typo as in learning, other places). One seed; one process of
one thread.

    python -m benchmarks.search.homedepot --data <homedepot> --out homedepot.json --only beside

{table}

{differences}

**What to take from it.** {lesson}
"""

_RERANKED = """## A cross-encoder on the first items

The same judgments: a ranker (trees on words and the frozen cosine) and a cross-encoder learn from {learned:,} pairs of
four folds, and are asked about {judged:,} pairs of {queries} queries of the fifth. No pretrained cross-encoder was at
hand: this one is all-MiniLM-L6-v2's Transformer with a new head, which saw {pairs:,} of those pairs once, in
{cpu_s:.0f} s of processor time. Published ones learn from hundreds of times as many, so the figures say what few
judgments are worth to one, not what cross-encoders can do.

    python -m benchmarks.search.cross --data <homedepot> --out cross.json {flags}

{about}

{table}

The number behind a sum is the part of the order that the reranker decides, `FRESHRANK_GATEWAY_SEARCH_RERANK_SHARE`. A
pair costs {whole:.1f} ms of one processor core as float32 and {small:.1f} ms in 8 bits, tokens and model, in the median
over queries, while others used the machine.

**What to take from it.** {lesson}
"""

_RERANKED_LESSON = """Nothing that {queries} queries can show: every interval holds zero, and a ranker of so few pairs
is itself no better than the frozen cosine. With few judgments a cross-encoder of one's own is no sure gain; bring a
trained one. On processors ten items in 8 bits are what an answer of 150 ms has time for."""

_LESSON = """Words and vectors see different things, and a small ranker that is told both is better than either:
RMSE .456 where lexical features alone give .467 and the best single score .487 (the aim was .48). Order gains less than
grades do: judged lists hold what an older search found, so any order of them has .875 and there is little room. Fusion
by rank, made for retrieval, knows no sizes: it is as good an order as the cosine's and a poor grade. So: the frozen
encoder first, its cosine among the ranker's features; network or trees makes no difference with all pairs.

One pass over 5,000 pairs tunes the encoder a little: the cosine alone gains .002 of NDCG@10 and .005 of RMSE on queries
it has not seen. The ranker gains .003 of RMSE by it on the same pairs (network), and no order that these queries can
show. But pairs are worth more to the ranker: 59,000 with the frozen cosine give .456, 8,000 with both .460.
With few judgments teach the ranker first. More pairs, more passes and the whole encoder were not tried."""

_RETRAIN = """ The full retrain
starts from the pretrained weights and sees slices 1 to 9 in one pass; it is judged on the last slice alone, so it
stands beside the last step of the others (`last`)."""

_BESIDE_LESSON = """Neither pays here. Reading the catalogue takes .005 from the frozen encoder, whose vectors were made
for being compared and not for naming words; tuning brings that back, and what is left of ten minutes of a core is
+.001, with zero inside its interval. Queries in other forms show nothing either way, on mistyped ones neither
(+.0006 [-.0007, +.0020]): a wrong letter costs every row about .005, for an encoder of parts of words reads most of
the word still. With some thousand pairs leave both off, as they are by default."""

_STEPS_LESSON = """An update gains little, and again and again: on queries of the next slice the cosine has .0026 more
of NDCG@10 by LoRA, .0032 by the whole encoder and by LoRA with replay (standard errors over nine slices .0014 to
.0017), and .007 to .008 less of RMSE (.001). Replay doubles the cost, and with it the first slice gains instead of
being forgotten (.002); without it LoRA forgets .0009 of it and the whole encoder .0018, both within chance. The top
layers are cheapest and gain grades alone, AdaLoRA gains half to two thirds of what LoRA does. A full retrain has
.8954 on the last slice, where the others lie between .894 and .902. So: LoRA with replay, which is the default (at
half the rate). The frozen row's seconds are those of looking at the pairs."""


def page() -> str:
    """The whole page; what was not measured is left out."""
    path = RESULTS / "homedepot.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    parts = [HEAD]
    if "rows" in found:
        parts.append(_judged(found))
    path = RESULTS / "cross.json"
    if path.exists():
        parts.append(_reranked(json.loads(path.read_text())))
    if "incremental" in found:
        parts.append(_steps(found["incremental"]))
    if "beside" in found:
        parts.append(_beside(found["beside"]))
    return "\n".join(parts)


def _judged(found: Mapping[str, Any]) -> str:
    rows = ["| row | RMSE | NDCG@10 |", "|---|---|---|"]
    for name, each in found["rows"].items():
        rows.append(f"| {name} | {_cell(each['rmse'])} | {_cell(each.get('ndcg10'))} |")
    changes = ["| | difference |", "|---|---|"]
    for name, each in found["differences"].items():
        changes.append(f"| {name} | {each['value']:+.4f} [{each['lower']:+.4f}, {each['upper']:+.4f}] |")
    told = {name: found[name] for name in ("pairs", "queries", "features")}
    tables = {"table": "\n".join(rows), "differences": "\n".join(changes), "tuned": _tuned(found.get("tuning"))}
    return _ROWS.format(**told, **tables, about=_about(found), lesson=_LESSON)


def _reranked(found: Mapping[str, Any]) -> str:
    rows = ["| row | NDCG@10 | less the ranker |", "|---|---|---|"]
    for name, each in found["rows"].items():
        change = found["differences"].get(f"{name} less ranker")
        gained = f"{change['value']:+.4f} [{change['lower']:+.4f}, {change['upper']:+.4f}]" if change else "-"
        rows.append(f"| {name} | {_cell(each['ndcg10'])} | {gained} |")
    told = {name: found[name] for name in ("learned", "judged", "queries")}
    told |= {name: found["training"][name] for name in ("pairs", "cpu_s")}
    costs = {name: each["median"] for name, each in found["cpu_ms_a_pair"].items()}
    forms = {"whole": costs["reranker"], "small": costs["reranker, 8 bits"]}
    asked = found["study"]
    flags = f"--pairs {asked['pairs']} --queries {asked['queries']} --seconds {asked['seconds']:g}"
    lesson = _RERANKED_LESSON.format(queries=found["queries"])
    tables = {"table": "\n".join(rows), "about": _about(found), "flags": flags, "lesson": lesson}
    return _RERANKED.format(**told, **forms, **tables)


def _tuned(tuning: Mapping[str, Any] | None) -> str:
    if tuning is None:
        return ""
    seconds = sum(tuning["train_cpu_s"]) / len(tuning["train_cpu_s"])
    return _TUNED.format(seconds=seconds, **{name: tuning[name] for name in ("pairs", "way", "ranked")})


def _steps(found: Mapping[str, Any]) -> str:
    head = ("way", "numbers that move", "next: NDCG@10", "next: RMSE", "last: NDCG@10", "forgotten: NDCG@10",
            "RMSE", "s an update (processor)")  # fmt: skip
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, each in found["ways"].items():
        several = len(each["steps"]) > 1
        after, forgotten = each["next"], each.get("forgotten")
        cells = (
            f"{name}, `{each['way']}`",
            f"{each['moving']:,}",
            f"{after['ndcg10']:.4f}" if several else "-",
            f"{after['rmse']:.4f}" if several else "-",
            f"{each['steps'][-1]['next']['ndcg10']:.4f}",
            f"{forgotten['ndcg10']:+.4f}" if forgotten else "-",
            f"{forgotten['rmse']:+.4f}" if forgotten else "-",
            f"{each['update_cpu_s']:.1f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    told = {name: found[name] for name in ("slices", "learned", "judged")}
    retrain = _RETRAIN if "full retrain" in found["ways"] else ""
    return _STEPS.format(**told, table="\n".join(rows), retrain=retrain, lesson=_STEPS_LESSON)


def _beside(found: Mapping[str, Any]) -> str:
    rows = ["| row | as typed | one wrong letter | s (processor) |", "|---|---|---|---|"]
    for name, each in found["rows"].items():
        spent = each["cpu_s"] + each["read_cpu_s"]
        cells = (f"{name}, `{each['way']}`", _cell(each["typed"]), _cell(each["mistyped"]), f"{spent:.0f}")
        rows.append(f"| {' | '.join(cells)} |")
    changes = ["| | as typed | one wrong letter |", "|---|---|---|"]
    for name, each in found["differences"].items():
        both = (f"{v['value']:+.4f} [{v['lower']:+.4f}, {v['upper']:+.4f}]" for v in (each["typed"], each["mistyped"]))
        changes.append(f"| {name} | {' | '.join(both)} |")
    told = {name: found[name] for name in ("queries", "learned", "read")}
    tables = {"table": "\n".join(rows), "differences": "\n".join(changes)}
    return _BESIDE.format(**told, **tables, lesson=_BESIDE_LESSON)


def _cell(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else f"{found['value']:.4f} [{found['lower']:.4f}, {found['upper']:.4f}]"


def _about(found: Mapping[str, Any]) -> str:
    return "Machine: " + ", ".join(f"{name.replace('_', ' ')} {v}" for name, v in found["machine"].items()) + "."
