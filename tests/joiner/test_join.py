"""From impressions and actions to examples."""

import pytest
from freshrank.v1.events_pb2 import Degradation, Impression

from services.common.records import BOT, CLOSED, FLIP, FORGET, INITIAL, Message
from services.common.tokens import Tokens
from services.joiner.sample import Sampling
from tests.joiner.makers import (
    BUY,
    CART,
    CLICK,
    DAY,
    HOUR,
    MINUTE,
    PLAY,
    SECOND,
    T0,
    VIEW,
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


def test_an_impression_is_an_example_without_labels_at_once() -> None:
    (row,) = examples(run([shown()]))
    assert (row["kind"], row["items"], row["labels"], row["weights"]) == (INITIAL, [0, 1, 2], [0, 0, 0], [1, 1, 1])
    assert (row["impression_id"], row["user"], row["event_time_us"]) == (impression_id(0), "ada", T0)
    assert len(Impression.FromString(row["impression"]).items) == 3


def test_a_click_flips_its_item_alone() -> None:
    (row,) = of_kind(FLIP, run([shown(), action(item=1)]))
    assert (row["items"], row["labels"], row["weights"], items_of(row)) == ([0], [1], [1], ["item-1"])
    assert (row["event_time_us"], row["received_us"]) == (T0 + SECOND, T0 + SECOND)
    assert list(Impression.FromString(row["impression"]).user_features) == [1.0]


def test_each_head_has_its_bit_and_flips_once() -> None:
    rows = [shown(), *(action(kind) for kind in (CLICK, CART, BUY) for _ in range(2))]
    out = run(rows)
    assert [row["labels"] for row in of_kind(FLIP, out)] == [[1], [2], [4]]
    assert (out.actions["flipped"], out.actions["repeated"]) == (3, 3)


def test_the_end_of_the_click_window_gives_the_final_labels() -> None:
    rows = [shown(), action(CLICK, item=1), action(CART, item=1), action(CART, item=2)]
    (row,) = of_kind(CLOSED, run([*rows, tick(T0 + 10 * MINUTE)]))
    assert (row["items"], row["labels"], row["weights"]) == ([0, 1, 2], [0, 3, 2], [0, 0, 0])
    assert (row["time_us"], row["event_time_us"]) == (T0 + 10 * MINUTE, T0)


@pytest.mark.parametrize(("at_us", "flips"), [(10 * MINUTE - 1, 1), (10 * MINUTE, 0)])
def test_a_window_ends_exactly_when_the_clock_reaches_it(at_us: int, flips: int) -> None:
    assert len(of_kind(FLIP, run([shown(), action(at_us=T0 + at_us)]))) == flips


@pytest.mark.parametrize(
    ("kind", "after_us", "flips"),
    [(CART, DAY - 1, 1), (CART, DAY, 0), (BUY, 7 * DAY - 1, 1), (BUY, 7 * DAY, 0), (CLICK, 11 * MINUTE, 0)],
)
def test_a_clicked_item_waits_for_the_slower_heads(kind: int, after_us: int, flips: int) -> None:
    out = run([shown(), action(CLICK), tick(T0 + HOUR), action(kind, T0 + after_us)])
    assert len(of_kind(FLIP, out)) == 1 + flips
    assert len(of_kind(CLOSED, out)) == 1


def test_what_was_not_clicked_waits_for_nothing() -> None:
    out = run([shown(), action(CLICK, item=0), tick(T0 + HOUR), action(BUY, T0 + 2 * HOUR, item=1)])
    assert out.actions["after_window"] == 1
    assert out.spilled_rows == 1
    assert not letters(out)


def test_a_slow_head_flips_once_even_on_disk() -> None:
    late = [action(CART, T0 + HOUR), action(CART, T0 + 2 * HOUR), action(BUY, T0 + 3 * HOUR)]
    out = run([shown(), action(CLICK), *late])
    assert [row["labels"] for row in of_kind(FLIP, out)] == [[1], [2], [4]]
    assert out.actions["repeated"] == 1


def test_all_heads_done_before_the_close_leave_nothing_on_disk() -> None:
    out = run([shown(), action(CLICK), action(CART), action(BUY), tick(T0 + HOUR)])
    assert out.spilled_rows == 0


def test_a_play_counts_from_the_share_that_is_set() -> None:
    plays = [action(PLAY, play_share=share, item=n) for n, share in enumerate([0.29, 0.3, None])]
    out = run([shown(), *plays])
    assert [items_of(row) for row in of_kind(FLIP, out)] == [["item-1"]]
    assert out.actions["below_condition"] == 2


def test_heads_of_another_domain_are_a_setting() -> None:
    on = fold(rules("like=RATE:rating>=4,LIKE@1h"))
    out = run([shown(), action(5, rating=3.5), action(5, rating=4.0, item=1), action(7, item=2)], on)
    assert [items_of(row) for row in of_kind(FLIP, out)] == [["item-1"], ["item-2"]]


def test_events_that_are_no_action_and_actions_without_a_token_train_nothing() -> None:
    bare = {"kind": CLICK, "time_us": T0 + SECOND, "user": "ada", "item": "item-0"}
    out = run([shown(), action(VIEW), bare])
    assert [row["kind"] for row in examples(out)] == [INITIAL]
    assert dict(out.actions) == {"no_token": 1}


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"token": "nonsense"}, id="no token"),
        pytest.param({"issued_to": "eve"}, id="of another shopper"),
        pytest.param({"issued_us": T0 + HOUR}, id="from the future"),
        pytest.param({"issued_us": T0 - 36 * DAY}, id="expired"),
    ],
)
def test_a_bad_token_trains_nothing_and_is_one_dead_letter(bad: dict[str, object]) -> None:
    out = run([shown(), action(**bad), action(item=1)])
    (letter,) = letters(out)
    assert (letter.stage, letter.reason, letter.field) == ("joiner", "bad_token", "attribution_token")
    assert (letter.topic, letter.offset, letter.index) == ("interactions", 1, 0)
    assert [items_of(row) for row in of_kind(FLIP, out)] == [["item-1"]]


def test_a_token_of_a_key_that_is_gone_is_bad() -> None:
    out = run([shown(), action()], fold(rules(tokens=Tokens({2: b"x" * 16}, 2))))
    assert [letter.reason for letter in letters(out)] == ["bad_token"]


def test_an_item_that_was_not_shown_is_not_flipped() -> None:
    out = run([shown(items=2, unshown=2), action(item=3), action(item=9)])
    assert not of_kind(FLIP, out)
    assert out.actions["not_shown"] == 2


def test_unshown_candidates_are_at_most_as_many_as_set_and_weigh_what_is_set() -> None:
    on = rules(sampling=Sampling(unshown=2, unshown_weight=0.5))
    (row,) = examples(run([shown(items=2, unshown=5)], fold(on)))
    assert (row["items"], row["weights"]) == ([0, 1, 2, 3], [1, 1, 0.5, 0.5])


@pytest.mark.parametrize(
    ("degradation", "weight"),
    [
        (Degradation.DEGRADATION_NONE, 1),
        (Degradation.DEGRADATION_STALE_FEATURES, 1),
        (Degradation.DEGRADATION_NO_USER_FEATURES, 0),
        (Degradation.DEGRADATION_LAST_RELEASE, 0),
        (Degradation.DEGRADATION_POPULAR, 0),
    ],
)
def test_degraded_answers_are_joined_and_not_trained(degradation: int, weight: float) -> None:
    out = run([shown(degradation=degradation), action()])
    assert [set(row["weights"]) for row in examples(out)] == [{weight}, {weight}]


def test_what_bots_see_and_do_trains_nothing() -> None:
    out = run([shown(0, verdict=BOT), action(), shown(1), action(answers=1, verdict=BOT)])
    assert [set(row["weights"]) for row in of_kind(INITIAL, out)] == [{0.0}, {1.0}]
    assert [row["weights"] for row in of_kind(FLIP, out)] == [[0]]
    assert out.actions["bot"] == 1


def test_sampling_keeps_and_flips_the_same_pairs_and_weighs_them_back() -> None:
    on = rules(sampling=Sampling(rate=0.25))
    rows = [row for n in range(40) for row in (shown(n, T0 + n), *(action(answers=n, item=m) for m in range(3)))]
    out = run([*rows, tick(T0 + HOUR)], fold(on))
    kept = {(row["impression_id"], item) for row in of_kind(INITIAL, out) for item in items_of(row)}
    flipped = {(row["impression_id"], item) for row in of_kind(FLIP, out) for item in items_of(row)}
    assert kept == flipped
    assert 10 < len(kept) < 60
    assert {w for row in of_kind(INITIAL, out) for w in row["weights"]} == {4.0}
    assert out.actions["not_sampled"] == 120 - len(kept)
    assert [row["labels"] for row in of_kind(CLOSED, out)] == [[1, 1, 1]] * 40
    assert out.spilled_rows == len(kept)


def test_an_action_that_comes_before_its_impression_is_joined_when_that_comes() -> None:
    out = run([action(at_us=T0), shown(at_us=T0 + SECOND)])
    assert [row["kind"] for row in examples(out)] == [INITIAL, FLIP]
    assert (out.actions["held"], out.actions["flipped"], out.held_actions) == (1, 1, 0)


def test_an_action_whose_impression_never_comes_is_one_dead_letter() -> None:
    out = run([action(at_us=T0), tick(T0 + 10 * SECOND - 1), tick(T0 + 10 * SECOND), tick(T0 + HOUR)])
    (letter,) = letters(out)
    assert (letter.reason, letter.offset) == ("unknown_impression", 0)
    assert letter.payload == log([action(at_us=T0)])[0].value


def test_a_late_impression_is_opened_and_closed_by_one_row() -> None:
    out = run([tick(T0 + HOUR), shown()])
    assert [row["kind"] for row in examples(out)] == [INITIAL, CLOSED]


def test_a_late_action_counts_while_the_clock_has_not_passed_its_window() -> None:
    assert of_kind(FLIP, run([shown(), tick(T0 + 9 * MINUTE), action(at_us=T0 + SECOND)]))
    assert not of_kind(FLIP, run([shown(), tick(T0 + 10 * MINUTE), action(at_us=T0 + SECOND)]))


def test_forgetting_drops_open_impressions_clicked_rows_and_held_actions() -> None:
    rows = [
        shown(0),
        action(answers=0),
        tick(T0 + HOUR),
        shown(1, T0 + HOUR),
        action(answers=7, at_us=T0 + HOUR, issued_us=T0 + HOUR),
        shown(2, T0 + HOUR, user="bob"),
        forget("ada", T0 + HOUR + 1),
    ]
    on = fold()
    out = run(rows, on)
    assert (out.open_impressions, out.spilled_rows, out.held_actions) == (1, 0, 0)
    assert [(row["user"], row["event_time_us"]) for row in of_kind(FORGET, out)] == [("ada", T0 + HOUR + 1)]
    after = on.apply(log([*rows, action(BUY, answers=0, at_us=T0 + HOUR + 2), tick(T0 + DAY)]))
    assert [row["user"] for row in examples(after)] == ["bob"]


def test_forgetting_leaves_what_is_newer() -> None:
    out = run([shown(0), shown(1, T0 + MINUTE), forget("ada", T0 + MINUTE), tick(T0 + HOUR)])
    assert [row["impression_id"] for row in of_kind(CLOSED, out)] == [impression_id(1)]


def test_repeated_rows_are_dropped_whatever_message_they_come_in() -> None:
    rows = [shown(), action(), shown(1)]
    on = fold()
    first, again = (
        log(rows, per_message=3)[0],
        encoded([{"src_offset": 9, "src_index": 0, "received_us": 0, "verdict": 0, **tick(T0)}]),
    )
    out = [on.apply([first]), on.apply([Message(1, first.value), Message(2, again)])]
    assert len(examples(*out)) == 3
    assert out[1].others["repeated_row"] == 3


def test_places_of_examples_only_grow() -> None:
    rows = [row for n in range(20) for row in (shown(n, T0 + n * MINUTE), action(answers=n, at_us=T0 + n * MINUTE))]
    out = run(rows, per_message=7)
    places = [(row["src_offset"], row["src_index"]) for row in examples(out)]
    assert places == sorted(set(places))
    assert max(index for _, index in places) > 7


def test_too_many_open_impressions_close_the_oldest_early() -> None:
    out = run([shown(n, T0 + n) for n in range(5)], fold(rules(open_impressions=2)))
    assert [row["impression_id"] for row in of_kind(CLOSED, out)] == [impression_id(n) for n in range(3)]
    assert (out.others["closed_early"], out.open_impressions) == (3, 2)


def test_too_many_clicked_rows_push_out_those_that_end_first() -> None:
    on = fold(rules(clicked_rows=2))
    rows = [row for n in range(5) for row in (shown(n, T0 + n), action(answers=n, at_us=T0 + n))]
    out = run([*rows, tick(T0 + HOUR), action(BUY, T0 + HOUR, answers=0), action(BUY, T0 + HOUR, answers=4)], on)
    assert (out.others["evicted"], out.spilled_rows) == (3, 2)
    assert [row["impression_id"] for row in of_kind(FLIP, out)][5:] == [impression_id(4)]


def test_clicked_rows_expire_with_their_last_window() -> None:
    out = run([shown(), action(), tick(T0 + HOUR), tick(T0 + 8 * DAY)])
    assert out.spilled_rows == 0


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(None, id="no value"),
        pytest.param(b"\x01\x01garbage", id="no batch"),
        pytest.param(b"\x03\x01" + b"\0" * 64, id="other columns"),
        pytest.param(encoded([shown()])[:-40], id="cut short"),
        pytest.param(encoded([{**shown(), "time_us": None}]), id="without time"),
    ],
)
def test_a_broken_message_is_one_dead_letter_and_the_next_goes_on(value: bytes | None) -> None:
    on = fold()
    out = on.apply([Message(0, value), Message(1, log([shown()])[0].value)])  # type: ignore[arg-type]
    assert [(letter.reason, letter.offset) for letter in letters(out)] in (
        [("malformed", 0)],
        [("missing_field", 0)],
    )
    assert len(examples(out)) == 1


def test_an_impression_that_cannot_be_read_is_one_dead_letter() -> None:
    out = run([{**shown(), "impression": b"\xff"}, {**shown(1), "impression": None}, shown(2)])
    assert [(x.reason, x.offset) for x in letters(out)] == [("malformed", 0), ("malformed", 1)]
    assert len(examples(out)) == 1
