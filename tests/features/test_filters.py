"""The filter language reads what it says and refuses the rest."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from services.common.errors import InvalidInput
from services.common.filters import parse
from services.common.records import decode
from services.features.rows import Rows, user_rows
from tests.features.makers import START, event, exploded, message, passes

ROWS = [
    event(START, 2, item="i1", category="shoes", price=10.5, rating=None, query="red"),
    event(START + 5, 1, item="i2", category=None, price=0.1, rating=3.0, query=None),
    event(START + 9, 4, item=None, category="hats", price=None, rating=5.0, query="it's"),
]


def rows() -> Rows:
    """The rows as columns."""
    table = pa.Table.from_batches([decode(message(0, ROWS).value)])
    return user_rows(table, np.ones(table.num_rows, np.bool_))


@pytest.mark.parametrize(
    "text",
    [
        "kind == 'click'",
        "kind != 'click'",
        "kind in ('click', 'purchase')",
        "price > 5",
        "price <= 10.5 and price >= 10.5",
        "price == 10.5 or rating == 5",
        "price is null",
        "item is not null and not (category == 'shoes')",
        "not price > 5",
        "category != 'shoes'",
        "category not in ('shoes', 'hats')",
        'query == "it\'s"',
        "rating in (3, 5) and (kind == 'view' or kind == 'purchase')",
        "time_us > 1700000000000000",
        "not not kind == 'click'",
        "kind == 'click' or kind == 'view' and price < 1",
    ],
)
def test_a_filter_in_columns_keeps_what_it_keeps_row_by_row(text: str) -> None:
    assert rows().mask((str(parse(text)),)).tolist() == [passes(parse(text), row) for row in exploded(ROWS)]


@pytest.mark.parametrize("text", ["kind=='click'  and (price>1.0)", "(kind == 'click') and price > 1"])
def test_spelling_does_not_change_what_a_filter_is(text: str) -> None:
    assert str(parse(text)) == "kind == 'click' and price > 1.0"


def test_a_number_is_compared_as_the_column_stores_it() -> None:
    assert rows().mask(("price == 0.1",)).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("text", "reason", "says"),
    [
        pytest.param("", "bad_filter", "column name", id="empty"),
        pytest.param("kind", "bad_filter", "comparison", id="column alone"),
        pytest.param("kind == click", "bad_filter", "quotes", id="kind without quotes"),
        pytest.param("kind == 'clik'", "bad_filter", "no kind", id="unknown kind"),
        pytest.param("kind > 'click'", "bad_filter", "== and !=", id="order of kinds"),
        pytest.param("prise > 1", "unknown_column", "prise", id="unknown column"),
        pytest.param("price > 'ten'", "bad_filter", "number", id="text for a number"),
        pytest.param("category == 5", "bad_filter", "quotes", id="number for a text"),
        pytest.param("price > 1 price < 2", "bad_filter", "one too many", id="two comparisons"),
        pytest.param("(price > 1", "bad_filter", "missing", id="parenthesis open"),
        pytest.param("price in ()", "bad_filter", "number", id="empty list"),
        pytest.param("price is 5", "bad_filter", "comparison", id="is without null"),
        pytest.param("price > 1; drop", "bad_filter", "cannot read", id="strange sign"),
        pytest.param("and price > 1", "bad_filter", "column name", id="begins with and"),
        pytest.param("verdict == 1", "unknown_column", "verdict", id="column not for features"),
    ],
)
def test_a_bad_filter_is_refused_with_a_sentence(text: str, reason: str, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(text)
    assert refused.value.reason == reason
    assert says in refused.value.detail


def test_a_missing_list_of_categories_is_null() -> None:
    shown: dict[str, Any] = event(START, 100, impression_items=["a", "b"], impression_categories=["c"])
    table = pa.Table.from_batches([decode(message(0, [shown, event(START, item="d", category="e")]).value)])
    found = user_rows(table, np.ones(2, np.bool_))
    codes, words = found.text("category")
    assert [words[code] if code >= 0 else None for code in codes] == ["c", None, "e"]
    assert [found.text("item")[1][code] for code in found.text("item")[0]] == ["a", "b", "d"]
