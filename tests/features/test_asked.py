"""Queries are told to gateways when several shoppers search for them, and taken back when that is over."""

from collections.abc import Sequence

from services.common.definitions import FeatureDefinition
from services.common.records import FORGET
from services.features.kafka import query_update
from tests.features.makers import HOUR, MINUTE, START, Row, event, feature, tick, view_of
from tests.features.test_reshard import Installation

SHOPPERS = feature(
    "count_distinct", "user", "INT64", HOUR, 5 * MINUTE, view="queries", name="shoppers", join_keys=("query",)
)
SHORT = feature("count_distinct", "user", "INT64", MINUTE, MINUTE, view="queries", name="short", join_keys=("query",))
BY_ITEM = feature("count_distinct", "user", "INT64", view="items", name="users", join_keys=("item_id",))


def searches(query: str, users: Sequence[str], at_us: int = START) -> list[Row]:
    return [event(at_us, 6, user, query=query) for user in users]


class Told(Installation):
    """Folds of all partitions, and what gateways have been told."""

    def __init__(self, partitions: int, *features: FeatureDefinition) -> None:
        self.told: dict[str, int] = {}
        self.messages: list[tuple[str, int]] = []
        super().__init__(partitions, [view_of(*features), view_of(BY_ITEM)])

    def _publish(self, out) -> None:  # type: ignore[no-untyped-def]
        super()._publish(out)
        for query, shoppers, _ in out.queries:
            self.messages.append((query, shoppers))
            self.told = {name: n for name, n in {**self.told, query: shoppers}.items() if n}


def test_a_query_is_told_once_three_shoppers_searched_for_it_and_when_their_number_changes() -> None:
    told = Told(2, SHORT, SHOPPERS)
    told.take(searches("red", ["a", "b", "a"]))
    assert told.messages == []
    told.take(searches("red", ["c"]))
    told.take(searches("red", ["a", "c"]))
    told.take(searches("red", ["d"]))
    assert told.messages == [("red", 3), ("red", 4)]


def test_it_is_taken_back_when_time_has_passed() -> None:
    told = Told(2, SHOPPERS)
    told.take(searches("red", ["a", "b", "c"]))
    told.take(searches("blue", ["a"]))
    told.take([tick(START + 2 * HOUR)])
    assert told.messages == [("red", 3), ("red", 0)]


def test_it_is_known_after_a_restart_and_a_reshard() -> None:
    told = Told(2, SHOPPERS)
    for query in ("red", "blue", "green"):
        told.take(searches(query, ["a", "b", "c"]))
    told.reshard(5)
    told.take([tick(START + MINUTE)])
    assert len(told.messages) == 3
    told.take([tick(START + 2 * HOUR)])
    assert sorted(told.messages[3:]) == [("blue", 0), ("green", 0), ("red", 0)]


def test_without_a_feature_that_counts_shoppers_nothing_is_told() -> None:
    told = Told(1, feature("count", value_type="INT64", view="queries", join_keys=("query",)))
    told.take(searches("red", ["a", "b", "c"]))
    assert told.messages == []


def test_a_forgotten_shopper_still_counts_until_the_window_is_over() -> None:
    told = Told(1, SHOPPERS)
    told.take(searches("red", ["a", "b", "c"]))
    told.take([{"kind": FORGET, "time_us": START + 1, "user": "a", "received_us": 0}])
    assert told.told == {"red": 3}


def test_a_record_says_how_many() -> None:
    key, value = query_update("red shoes", 4, START)
    assert (key, value is not None) == (b"q|red shoes", True)
