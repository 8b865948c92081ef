"""From interactions to the records of the loop, and through the real folds of ingest and joiner."""

from collections import Counter

from freshrank.v1.events_pb2 import Inbound

from services.cli.history.batches import MOST_US, Batches, Record
from services.cli.history.events import SHOWN, Interaction
from services.common import records
from services.common.ids import partition_of
from services.common.records import CLOSED, FLIP, INITIAL, Message
from services.common.tokens import impression_of
from services.ingest.clean import Rules
from services.ingest.fold import IngestFold
from services.joiner.fold import JoinerFold
from services.joiner.fold import Rules as JoinerRules
from services.joiner.join import JoinRules
from services.joiner.labels import DEFAULT, Heads
from services.joiner.spill import Spill
from tests.cli.past import BUY, CART, CLICK, DAY, MINUTE, SECOND, T0, TOKENS, VIEW, interaction, synthesis


def test_a_click_answers_an_impression_of_its_item_among_popular_ones() -> None:
    shown, event = synthesis(negatives=5).take(interaction(item="item-45"))
    assert shown is not None
    assert event is not None
    items = [item.item_id for item in shown.items]
    assert len(set(items)) == 6
    assert "item-45" in items
    assert all(item.shown for item in shown.items)
    assert (shown.release, shown.placement, shown.time_us) == ("import", "import", T0 - SECOND)
    assert TOKENS.check(event.attribution_token, "ada", T0) == shown.impression_id


def test_popular_items_are_drawn_as_often_as_they_are_touched() -> None:
    made = synthesis(negatives=1, window=40)
    for number in range(20):
        made.take(interaction(number, VIEW, "item-0", "bob"))
    drawn: Counter[str] = Counter()
    for number in range(20, 60):
        shown, _ = made.take(interaction(number, CLICK, f"new-{number % 2}", shown=()))
        assert shown is not None
        drawn.update(item.item_id for item in shown.items)
    assert drawn["item-0"] > 3


def test_what_is_drawn_carries_its_probability_and_its_content() -> None:
    shown, _ = synthesis(negatives=5).take(interaction(item="item-45"))
    assert shown is not None
    assert {round(item.propensity, 4) for item in shown.items if item.item_id != "item-45"} == {1 / 40}
    assert all(item.content and item.category == "shoes" for item in shown.items)


def test_the_shoppers_own_past_travels_newest_first_without_the_action_itself() -> None:
    made = synthesis()
    for number, item in enumerate(("item-1", "item-2")):
        made.take(interaction(number, VIEW, item))
    shown, _ = made.take(interaction(2, CLICK, "item-3"))
    assert shown is not None
    assert [entry.item_id for entry in shown.history] == ["item-2", "item-1"]


def test_views_answer_nothing() -> None:
    shown, event = synthesis().take(interaction(kind=VIEW))
    assert shown is None
    assert event is not None
    assert event.attribution_token == ""


def test_a_cart_after_a_click_answers_the_same_impression() -> None:
    made = synthesis()
    clicked, _ = made.take(interaction(0))
    carted, event = made.take(interaction(1, CART))
    assert clicked is not None
    assert carted is None
    assert event is not None
    assert impression_of(event.attribution_token) == clicked.impression_id


def test_a_purchase_two_days_after_the_click_answers_one_of_its_own() -> None:
    made = synthesis()
    made.take(interaction(0))
    own, _ = made.take(interaction(kind=BUY, time_us=T0 + 2 * DAY))
    assert own is not None


def test_the_list_that_was_shown_is_taken_as_it_was() -> None:
    shown, _ = synthesis().take(interaction(item="b", shown=("a", "b", "c")))
    assert shown is not None
    assert [(item.item_id, item.position, item.propensity) for item in shown.items] == [
        ("a", 0, 0.0),
        ("b", 1, 0.0),
        ("c", 2, 0.0),
    ]


def test_a_list_that_nobody_acted_on_is_an_impression_alone() -> None:
    made = synthesis()
    shown, event = made.take(interaction(kind=SHOWN, item="", shown=("a", "b")))
    assert shown is not None
    assert event is None
    assert (made.counts["impressions"], made.counts["positives"]) == (1, 0)


def test_the_same_past_and_seed_give_the_same_records() -> None:
    def made() -> list[Record]:
        return log([interaction(n, item=f"item-{n % 9}") for n in range(20)])

    assert made() == made()


def test_records_lie_on_their_shoppers_partition_with_the_impression_first() -> None:
    found = log([interaction(n, user=f"user-{n}") for n in range(30)], partitions=4)
    for record in found[:-4]:
        assert record.partition == partition_of(record.key.decode(), 4)
    kinds = [Inbound.FromString(r.value).WhichOneof("record") for r in found if r.partition == 1]
    assert kinds[0] == "impression"
    assert kinds[-1] == "tick"


def test_events_of_a_moment_travel_together_and_no_longer_ones() -> None:
    rows = [interaction(0, VIEW, event_id=f"e{n}", time_us=T0 + n * MOST_US // 2) for n in range(4)]
    batches = [Inbound.FromString(r.value) for r in log(rows)]
    sizes = [len(b.batch.events) for b in batches if b.HasField("batch")]
    assert sizes == [3, 1]
    assert batches[0].received_us == T0 + MOST_US


def test_every_positive_flips_exactly_once_through_ingest_and_joiner() -> None:
    rows = [interaction(n, CLICK, f"item-{n % 30}", user=f"user-{n % 7}") for n in range(200)]
    rows += [interaction(200 + n, BUY, f"item-{n % 30}", user=f"user-{n % 7}", event_id=f"buy-{n}") for n in range(20)]
    ingest = IngestFold(0, 1, Rules(), lambda item: ("shoes", 1.0))
    joiner = JoinerFold(0, JoinerRules(JoinRules(Heads.parse(DEFAULT)), TOKENS), Spill(None))
    clean = ingest.apply([Message(offset, r.value) for offset, r in enumerate(log(rows, partitions=1))])
    out = joiner.apply([Message(offset, value) for offset, value in enumerate(clean.messages)])
    assert (clean.dead_letters, out.dead_letters) == ([], [])
    assert out.actions == {"flipped": 220}
    assert out.examples[FLIP] == 220
    assert out.examples[INITIAL] == out.examples[CLOSED] >= 200
    kinds = [row["kind"] for value in out.messages for row in records.decode(value).to_pylist()]
    assert len(kinds) == out.examples[FLIP] + 2 * out.examples[INITIAL]


def log(rows: list[Interaction], partitions: int = 1) -> list[Record]:
    """The records of some rows, with ticks an hour later."""
    made, batches = synthesis(), Batches(partitions)
    found = [record for row in rows for record in batches.add(row.user, row.time_us, *made.take(row))]
    return [*found, *batches.rest(), *batches.ticks(rows[-1].time_us + 60 * MINUTE)]
