"""Partitions added to events.in: each event is one row, wherever its copies lie."""

from collections.abc import Sequence

from freshrank.v1.events_pb2 import Event, Inbound
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.ids import partition_of
from services.common.records import BOT, Message
from services.common.snapshots import pack, unpack
from services.ingest.bots import BotRules
from services.ingest.clean import Rules
from services.ingest.fold import IngestFold
from services.ingest.outputs import Outputs
from services.ingest.reshard import resharded
from tests.ingest.makers import HOUR, SECOND, T0, event, fold, inbound, letters, rows

USERS = [f"user-{n}" for n in range(10)]


class Installation:
    """The folds of all partitions and the logs they read; what is sent on is written to the logs."""

    def __init__(self, partitions: int, rules: Rules | None = None) -> None:
        self.partitions, self.rules = partitions, rules or Rules()
        self.folds = [self.open(number) for number in range(partitions)]
        self.logs: list[list[bytes]] = [[] for _ in range(partitions)]
        self.outs: list[Outputs] = []

    def open(self, number: int) -> IngestFold:
        """An empty one."""
        return fold(self.rules, number, self.partitions)

    def send(self, record: Event, partition: int | None = None) -> None:
        """Write to the partition of the shopper, or to another as a foreign producer would."""
        at = partition_of(record.user_id, len(self.logs)) if partition is None else partition
        self.logs[at].append(inbound(record).SerializeToString())

    def read(self, only: Sequence[int] | None = None) -> None:
        """Take what the logs hold, until nothing is sent on any more."""
        for _ in range(9):
            for number in range(self.partitions) if only is None else only:
                on, log = self.folds[number], self.logs[number]
                out = on.apply([Message(at, log[at]) for at in range(on.next_offset, len(log))])
                for to, _, value in out.forwards:
                    self.logs[to].append(value)
                self.outs.append(out)

    def reshard(self, after: int) -> None:
        """Go on with so many partitions; what waits in the logs stays where it is."""
        old = {number: unpack(pack(on.snapshot())) for number, on in enumerate(self.folds) if on.next_offset}
        made = {number: unpack(pack(found)) for number, found in resharded(old, self.partitions, after)}
        assert len(made) == after or not old
        self.partitions = after
        self.logs += [[] for _ in range(after - len(self.logs))]
        self.folds = [fold(self.rules, number, after, snapshot=made.get(number)) for number in range(after)]

    def taken(self) -> list[tuple[str | None, str | None]]:
        """Shopper and id of each row, sorted."""
        return sorted((row["user"], row["event_id"]) for row in rows(*self.outs))


def mover(before: int, after: int) -> str:
    """A shopper whose partition changes."""
    return next(user for user in USERS if partition_of(user, before) != partition_of(user, after))


places = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 11), st.sampled_from([None, 0, 1])), max_size=15)
"""Shopper, number of the event (some come twice), and where a foreign producer puts it."""


@given(
    before=places, waiting=places, after=places, last=places, steps=st.sampled_from([(2, 3), (2, 5), (2, 4), (2, 3, 5)])
)
@settings(max_examples=60)
def test_every_event_is_counted_once_whatever_waits_and_whatever_is_sent_again(
    before: list[tuple[int, int, int | None]],
    waiting: list[tuple[int, int, int | None]],
    after: list[tuple[int, int, int | None]],
    last: list[tuple[int, int, int | None]],
    steps: tuple[int, ...],
) -> None:
    on = Installation(steps[0])

    def send(sent: list[tuple[int, int, int | None]]) -> None:
        for user, number, place in sent:
            on.send(event(number, user_id=USERS[user], event_id=f"{USERS[user]}-{number}"), place)

    send(before)
    on.read()
    send(waiting)
    on.read(only=[0])  # what it sends on waits on the other partition when ingest is stopped
    for partitions in steps[1:]:
        on.reshard(partitions)
        send(after)
        on.read(only=[1])
    send(last)
    on.read()
    ids = {(USERS[u], f"{USERS[u]}-{n}") for u, n, _ in [*before, *waiting, *after, *last]}
    assert on.taken() == sorted(ids)
    assert not letters(*on.outs)


def test_an_event_sent_again_after_the_reshard_is_known_on_the_new_partition() -> None:
    on, user = Installation(2), mover(2, 5)
    on.send(event(1, user_id=user))
    on.read()
    on.reshard(5)
    on.send(event(1, user_id=user))
    on.read()
    assert on.taken() == [(user, "event-1")]
    assert sum(out.outcomes["duplicate"] for out in on.outs) == 1


def test_ids_are_known_beyond_the_bound_until_their_hour_is_over() -> None:
    on = Installation(2, Rules(duplicates=64))
    movers = [user for user in (f"user-{n}" for n in range(99)) if partition_of(user, 3) == 2]
    users = [next(user for user in movers if partition_of(user, 2) == old) for old in (0, 1)]
    for _ in range(2):
        for number in range(50):
            for user in users:
                on.send(event(number, user_id=user))
        on.read()
        if on.partitions == 2:
            on.reshard(3)
    assert len(on.taken()) == 100
    on.send(event(0, user_id=users[0], event_id="later", event_time_us=T0 + 3 * HOUR))
    on.read()
    assert on.folds[2].snapshot().arrays["seen.sizes"].sum() == 1


def test_a_bot_stays_a_bot_on_its_new_partition() -> None:
    rules = Rules(bots=BotRules(per_minute=5))
    on, user = Installation(2, rules), mover(2, 3)
    for number in range(8):
        on.send(event(number, user_id=user, event_time_us=T0 + number))
    on.read()
    on.reshard(3)
    on.outs.clear()
    on.send(event(9, user_id=user, event_time_us=T0 + 2 * SECOND))
    on.read()
    assert [row["verdict"] for row in rows(*on.outs)] == [BOT]


def test_every_partition_has_a_state_although_nobody_of_it_has_come_yet() -> None:
    on, user = Installation(2), mover(2, 4)
    on.send(event(1, user_id=user))
    on.read()
    on.reshard(4)
    assert all(one.clock_us == T0 + SECOND for one in on.folds)
    for user in USERS:
        on.send(event(1, user_id=user))
    on.read()
    assert on.taken() == sorted((user, "event-1") for user in USERS)


def test_bounds_of_outliers_are_those_of_a_partition_that_shoppers_come_from() -> None:
    on = Installation(2, Rules(clip_every=10))
    for number in range(200):
        on.send(event(number, user_id=USERS[number % 10], value=10.0))
    on.read()
    bounds = {tuple(one.snapshot().meta["clip.bounds"].values()) for one in on.folds}
    on.reshard(4)
    assert {tuple(one.snapshot().meta["clip.bounds"].values()) for one in on.folds} == bounds


def test_a_record_that_is_sent_on_for_ever_ends_as_a_dead_letter() -> None:
    user = USERS[0]
    value = inbound(event(1, user_id=user)).SerializeToString()
    wrong = [fold(partition=9, partitions=10), fold(partition=8, partitions=9)]  # two that disagree
    outs = []
    for turn in range(6):
        on = wrong[turn % 2]
        out = on.apply([Message(on.next_offset, value)])
        outs.append(out)
        if out.forwards:
            value = out.forwards[0][2]
    assert [len(out.forwards) for out in outs] == [1, 1, 1, 1, 0, 0]
    assert letters(*outs)[0].field == "user_id"
    assert Inbound.FromString(value).forwarded.hops == 3
