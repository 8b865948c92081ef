"""Orders, doubles and restarts: the examples are those of a run that never stopped, and of the plain definition."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.records import CLOSED, FLIP, FORGET, IMPRESSION, INITIAL, TICK, Message
from services.common.snapshots import pack, unpack
from services.common.stage import Snapshot
from services.common.tokens import impression_of
from services.joiner.fold import Rules
from services.joiner.sample import Sampling
from services.joiner.spill import Spill, open_spill
from tests.joiner.makers import (
    BUY,
    CART,
    CLICK,
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    T0,
    Row,
    action,
    encoded,
    examples,
    fold,
    forget,
    impression_id,
    items_of,
    letters,
    log,
    of_kind,
    rules,
    run,
    shown,
    tick,
)

WINDOWS = {CLICK: (1, 10 * MINUTE), CART: (2, DAY), BUY: (4, 7 * DAY)}
RULES = rules(sampling=Sampling(rate=0.7), open_impressions=2, clicked_rows=1)


def history(seed: int, impressions: int = 12, forgets: bool = True) -> list[Row]:
    """Rows of two shoppers in the order of the log: clicks before, in and after their windows, ticks, forgets."""
    noise = random.Random(seed)
    rows: list[tuple[int, Row]] = []
    for n in range(impressions):
        at, user = T0 + noise.randrange(40) * MINUTE, noise.choice(["ada", "bob"])
        rows.append((at, shown(n, at, user)))
        for _ in range(noise.randrange(5)):
            kind = noise.choice([CLICK, CLICK, CART, BUY])
            delay = noise.choice([-5 * SECOND, 0, SECOND, 9 * MINUTE, 10 * MINUTE, HOUR, DAY, 6 * DAY, 8 * DAY])
            event = action(kind, at + delay, n, noise.randrange(3), user=user, issued_us=at)
            rows.append((at + delay + noise.choice([0, 0, MINUTE]), event))
    rows += [(T0 + n * 7 * MINUTE, tick(T0 + n * 7 * MINUTE)) for n in range(8)]
    rows += [(T0 + n * DAY, tick(T0 + n * DAY)) for n in range(1, 10)]
    if forgets:
        at = T0 + noise.randrange(60) * MINUTE
        rows.append((at, forget("bob", at)))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def expected_labels(rows: list[Row]) -> dict[tuple[str, str], int]:
    """Labels by the definition alone, in quadratic time: no state, no order of evaluation, no spill."""
    clocks, clock = [], 0
    for row in rows:
        clock = max(clock, row["time_us"])
        clocks.append(clock)
    positions = {row["event_id"]: place for place, row in enumerate(rows) if row["kind"] == IMPRESSION}
    labels: dict[tuple[str, str], int] = {}
    closing: dict[tuple[str, str], int] = {}
    for place, row in enumerate(rows):
        if row["kind"] not in WINDOWS:
            continue
        impression = impression_of(row["token"])
        start, (bit, window) = positions[impression], WINDOWS[row["kind"]]
        held = place < start and all(c < clocks[place] + 10 * SECOND for c in clocks[place : start + 1])
        if place < start and not held:
            continue
        now = clocks[max(place, start)]
        age, pair = now - rows[start]["time_us"], (impression, row["item"])
        closed = now >= rows[start]["time_us"] + 10 * MINUTE
        # After the click window only what had a label by then waits, and it waits unless every head is done.
        waits = not closed or closing.get(pair, 0) not in (0, 7)
        if age < window and waits:
            labels[pair] = labels.get(pair, 0) | bit
            if not closed:
                closing[pair] = labels[pair]
    return labels


def loss(score: float, label: int) -> float:
    """Any loss of a score and a label; only that it differs matters."""
    return (score - label) ** 2 + 0.1 * label


@settings(max_examples=40)
@given(st.integers(0, 100_000), st.integers(1, 9), st.sampled_from([1.0, 0.5]))
def test_initial_and_flips_sum_to_the_loss_of_the_full_labels(seed: int, per_message: int, rate: float) -> None:
    rows = history(seed, forgets=False)
    sampling = Sampling(rate=rate)
    out = run(rows, fold(rules(sampling=sampling)), per_message)
    labels = expected_labels(rows)
    scores = {(impression_id(n), f"item-{m}"): 0.1 + 0.07 * (n + m) for n in range(12) for m in range(3)}
    summed: Counter[tuple[str, str]] = Counter()
    for row in examples(out):
        for item, bits, weight in zip(items_of(row), row["labels"], row["weights"], strict=True):
            pair = (row["impression_id"], item)
            for bit in (1, 2, 4):
                if row["kind"] == INITIAL:
                    summed[pair] += weight * loss(scores[pair], 0)
                elif row["kind"] == FLIP and bits & bit:
                    summed[pair] += weight * (loss(scores[pair], 1) - loss(scores[pair], 0))
    for pair, score in scores.items():
        kept = 1 / rate if sampling.keeps(*pair) else 0.0
        full = sum(kept * loss(score, int(bool(labels.get(pair, 0) & bit))) for bit in (1, 2, 4))
        assert summed[pair] == pytest.approx(full), (pair, labels.get(pair))


@settings(max_examples=30)
@given(st.integers(0, 100_000))
def test_each_impression_has_one_first_and_one_last_example_and_no_flip_twice(seed: int) -> None:
    out = run([*history(seed, forgets=False), tick(T0 + 30 * DAY)])
    for kind in (INITIAL, CLOSED):
        assert sorted(r["impression_id"] for r in of_kind(kind, out)) == sorted(map(impression_id, range(12)))
    flips = [(r["impression_id"], items_of(r)[0], r["labels"][0]) for r in of_kind(FLIP, out)]
    bits = [(i, item, bit) for i, item, label in flips for bit in (1, 2, 4) if label & bit]
    assert len(bits) == len(set(bits))


def stored(snapshot: Snapshot) -> Snapshot:
    """Through the bytes of a file and back."""
    return unpack(pack(snapshot))


def opened(path: Path, snapshot: Snapshot | None) -> tuple[Spill, bool]:
    """The spill as of a snapshot."""
    if snapshot is None:
        return open_spill(path, None, 0)
    return open_spill(path, snapshot.next_offset, len(snapshot.arrays["open.weights"]))


@pytest.mark.parametrize("ahead", [0, 1, 7, 10_000])
def test_from_a_snapshot_at_every_place_the_rest_is_the_same(tmp_path: Path, ahead: int) -> None:
    """`ahead`: messages that the worker had folded after its snapshot when it was killed."""
    messages = log(history(3), per_message=2)
    whole = fold(RULES)
    expected = [whole.apply([message]) for message in messages]
    assert {row["kind"] for row in examples(*expected)} == {INITIAL, FLIP, CLOSED, FORGET}
    assert sum(out.others["evicted"] + out.others["closed_early"] for out in expected)
    for place in range(len(messages) + 1):
        path = tmp_path / f"{place}.sqlite"
        first = fold(RULES, opened(path, None)[0])
        first.apply(messages[:place])
        snapshot = stored(first.snapshot())
        first.apply(messages[place : place + ahead])
        spill, fits = opened(path, snapshot)
        assert fits
        second = fold(RULES, spill, snapshot)
        rest = second.apply(messages)
        assert examples(rest) == examples(*expected[place:])
        assert letters(rest) == letters(*expected[place:])
        assert json.dumps(second.snapshot().meta) == json.dumps(whole.snapshot().meta)


@settings(max_examples=15)
@given(st.integers(0, 100_000), st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), max_size=8))
def test_kills_and_restarts_one_after_another_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, lives: list[tuple[int, int]]
) -> None:
    messages = log(history(seed), per_message=2)
    at_once = fold(RULES).apply(messages)
    path = tmp_path_factory.mktemp("spill") / "spill.sqlite"
    snapshot, outs = None, []
    for saved, unsaved in [*lives, (len(messages), 0)]:
        spill, fits = opened(path, snapshot)
        assert fits
        on = fold(RULES, spill, snapshot)
        outs.append(on.apply(messages[on.next_offset : on.next_offset + saved]))
        snapshot = stored(on.snapshot())
        on.apply(messages[on.next_offset : on.next_offset + unsaved])
    assert examples(*outs) == examples(at_once)
    assert letters(*outs) == letters(at_once)


def test_the_three_snapshots_before_the_newest_can_still_be_gone_back_to(tmp_path: Path) -> None:
    messages = log(history(5), per_message=2)
    path = tmp_path / "spill.sqlite"
    whole = fold(RULES, opened(path, None)[0])
    snapshots, expected = [], []
    for message in messages:
        expected.append(whole.apply([message]))
        snapshots.append(stored(whole.snapshot()))
    for snapshot in snapshots[-4:]:
        spill, fits = opened(path, snapshot)
        assert fits
        rest = fold(RULES, spill, snapshot).apply(messages)
        assert examples(rest) == examples(*expected[snapshot.next_offset :])
    assert not opened(path, snapshots[0])[1]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("on", [rules(), rules(clicked_rows=1)], ids=["roomy", "tight"])
def test_an_old_owner_that_is_ahead_changes_nothing_for_the_new_one(tmp_path: Path, seed: int, on: Rules) -> None:
    """Both write to one file: what the old one wrote for later places is not there yet for the new one."""
    messages = log(history(seed))
    path = tmp_path / "spill.sqlite"
    whole = fold(on).apply(messages)
    half = len(messages) // 3
    old = fold(on, opened(path, None)[0])
    outs = [old.apply(messages[:half])]
    snapshot = stored(old.snapshot())
    new = fold(on, opened(path, snapshot)[0], snapshot)
    for place in range(half, len(messages)):
        old.apply(messages[place : place + 15])
        outs.append(new.apply([messages[place]]))
    assert examples(*outs) == examples(whole)
    assert new.snapshot().meta["clicked_rows"] == whole.spilled_rows


def test_a_lost_or_broken_spill_file_means_reading_the_log_again(tmp_path: Path) -> None:
    path = tmp_path / "spill.sqlite"
    on = fold(RULES, opened(path, None)[0])
    on.apply(log(history(5)))
    snapshot = on.snapshot()
    path.write_bytes(b"this is no database" * 100)
    for name in ("spill.sqlite-wal", "spill.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    assert not opened(path, snapshot)[1]
    path.unlink()
    assert not opened(path, snapshot)[1]


def test_what_is_gone_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "spill.sqlite"
    on = fold(rules(), opened(path, None)[0])
    secret = "a-very-private-name"
    rows = [shown(0, user=secret), action(user=secret), tick(T0 + HOUR), forget(secret, T0 + HOUR)]
    on.apply(log(rows))
    for n in range(5):
        on.apply(log([*rows, *(tick(T0 + DAY + m) for m in range(n + 1))]))
        on.snapshot()
    reader = Spill(path)
    assert reader.holds() == {"impressions": 0, "clicked": 0, "flips": 0}


def test_broken_bytes_crash_nothing() -> None:
    noise = random.Random(1)
    seeds = [encoded(history(n)[:6]) for n in range(5)]
    on, dead = fold(), 0
    for offset in range(1000):
        data = bytearray(noise.choice(seeds))
        for _ in range(noise.randint(1, 6)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        dead += len(letters(on.apply([Message(offset, bytes(data))])))
    assert on.next_offset == 1000
    assert dead > 100


def test_every_kind_of_row_is_in_the_histories() -> None:
    kinds = {row["kind"] for row in history(3)}
    assert kinds == {IMPRESSION, CLICK, CART, BUY, TICK, FORGET}
