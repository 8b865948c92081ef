"""Records find their user's partition, each exactly once."""

from freshrank.v1.events_pb2 import Event, EventBatch, Forget, Inbound

from services.common.ids import partition_of
from services.ingest.fold import IngestFold
from services.ingest.outputs import Outputs
from tests.ingest.makers import HOUR, SECOND, T0, event, fold, impression, inbound, letters, message, rows

PARTITIONS = 3
USERS = [f"user-{n}" for n in range(12)]


def home(partition: int, log_time: bool = False) -> IngestFold:
    return fold(partition=partition, partitions=PARTITIONS, log_time=log_time)


def of(partition: int) -> list[str]:
    return [user for user in USERS if partition_of(user, PARTITIONS) == partition]


def pass_on(out: Outputs, folds: dict[int, IngestFold]) -> list[dict[str, object]]:
    """Apply what was sent on, as the log would bring it; returns the rows."""
    taken = []
    for to, key, value in out.forwards:
        on = folds[to]
        assert partition_of(key.decode(), PARTITIONS) == to
        taken.append(on.apply([message(on.next_offset, value, (T0 + HOUR) // 1000)]))
    return rows(*taken)


def test_a_record_of_another_partition_is_sent_on_and_becomes_a_row_there() -> None:
    folds = {p: home(p) for p in range(PARTITIONS)}
    stranger = of(1)[0]
    out = folds[0].apply([message(0, inbound(event(user_id=stranger)))])
    assert rows(out) == []
    (row,) = pass_on(out, folds)
    assert (row["user"], row["received_us"], row["src_offset"]) == (stranger, T0, 0)


def test_a_batch_of_many_users_is_split_and_nothing_is_lost() -> None:
    folds = {p: home(p) for p in range(PARTITIONS)}
    events = [event(n, user_id=user, event_time_us=T0) for n, user in enumerate(USERS * 3)]
    out = folds[0].apply([message(0, Inbound(batch=EventBatch(events=events), received_us=T0))])
    here, there = rows(out), pass_on(out, folds)
    assert [r["user"] for r in here] == [u for u in USERS * 3 if u in of(0)]
    assert sorted(r["event_id"] for r in [*here, *there]) == sorted(e.event_id for e in events)


def test_impressions_and_forgets_are_sent_on_too() -> None:
    folds = {p: home(p) for p in range(PARTITIONS)}
    user = of(2)[0]
    records = [inbound(impression(user_id=user)), Inbound(forget=Forget(user_id=user), received_us=T0)]
    out = folds[0].apply([message(n, record) for n, record in enumerate(records)])
    assert [r["user"] for r in pass_on(out, folds)] == [user, user]


def test_records_sent_on_again_after_a_restart_are_taken_once() -> None:
    source, target = home(0), home(1)
    users = of(1)
    log = [message(n, inbound(event(n, user_id=users[n % len(users)]))) for n in range(6)]
    first = source.apply(log)
    again = home(0).apply(log)
    assert first.forwards == again.forwards
    order = [*first.forwards[:4], *again.forwards[1:], *first.forwards[4:]]
    out = target.apply([message(n, value) for n, (_, _, value) in enumerate(order)])
    assert [r["event_id"] for r in rows(out)] == [f"event-{n}" for n in range(6)]
    assert out.outcomes["redelivered"] == len(order) - 6
    assert not letters(out)


def test_what_was_taken_is_known_after_a_restart() -> None:
    out = home(0).apply([message(3, inbound(event(user_id=of(1)[0], event_id="a")))])
    forwarded = out.forwards[0][2]
    # Another event of the same place: only the place says that it was taken.
    changed = Inbound.FromString(forwarded)
    changed.forwarded.inbound.event.event_id = "b"
    target = home(1)
    target.apply([message(0, forwarded)])
    again = fold(partition=1, partitions=PARTITIONS, snapshot=target.snapshot())
    assert again.apply([message(1, changed)]).outcomes == {"redelivered": 1}


def test_records_from_two_partitions_do_not_hide_each_other() -> None:
    user = of(1)[0]
    parts = [home(p).apply([message(5, inbound(event(p, user_id=user)))]) for p in (0, 2)]
    values = [value for out in parts for _, _, value in out.forwards]
    out = home(1).apply([message(n, value) for n, value in enumerate(values)])
    assert len(rows(out)) == 2


def test_a_record_sent_to_a_partition_that_is_not_its_own_any_more_finds_it() -> None:
    folds = {p: home(p) for p in range(PARTITIONS)}
    user = of(1)[0]
    (forward,) = home(0).apply([message(0, inbound(event(user_id=user)))]).forwards
    out = folds[2].apply([message(4, forward[2])])
    (row,) = pass_on(out, folds)
    assert (row["user"], row["received_us"]) == (user, T0)
    assert not letters(out)


def test_the_arrival_travels_with_a_record_that_is_sent_on() -> None:
    user = of(1)[0]
    source, target = home(0), home(1)
    out = source.apply([message(0, Inbound(event=event(user_id=user, event_time_us=0)), T0 // 1000)])
    later_ms = (T0 + 5 * SECOND) // 1000
    (row,) = rows(target.apply([message(0, out.forwards[0][2], later_ms)]))
    assert (row["time_us"], row["received_us"]) == (T0, T0)


def test_an_unusable_user_is_refused_where_it_arrived() -> None:
    bad = next(u for u in (f"a\n{n}" for n in range(99)) if partition_of(u, PARTITIONS) == 1)
    out = home(0).apply([message(0, inbound(Event(event_id="e", user_id=bad)))])
    assert [(x.reason, x.field) for x in letters(out)] == [("malformed", "user_id")]
    assert out.forwards == []
