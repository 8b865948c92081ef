"""The text of an item, its hash, and the names of encoders: what trainer and publisher must agree on."""

from pathlib import Path

import pytest
from freshrank.v1.models_pb2 import CatalogueItem

from services.text.item import MOST_CHARACTERS, item_text, text_hash
from services.text.names import ENCODER_ID, encoder_id, incoming, kept


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ({}, ""),
        ({"title": " Red \n shoe\t"}, "Red shoe"),
        ({"title": "LG phone", "brand": "lg"}, "LG phone"),
        ({"title": "Bulging vase", "brand": "LG"}, "Bulging vase. LG"),
        ({"categories": ["a", "b", "a", "d"], "brand": "x", "description": "long words"}, "x. a. b. long words"),
        ({"title": "", "description": "only this"}, "only this"),
        ({"title": "-", "brand": "!"}, "-"),
    ],
    ids=["nothing", "spaces", "brand in the title", "brand inside a word", "categories", "description", "signs alone"],
)
def test_an_item_is_told_by_what_matters_first(entry: dict[str, str], wanted: str) -> None:
    assert item_text(CatalogueItem(**entry)) == wanted


def test_a_long_description_is_bounded_and_comes_last() -> None:
    text = item_text(CatalogueItem(title="Shoe", description="word " * 9_000))
    assert text.startswith("Shoe. word")
    assert len(text) <= MOST_CHARACTERS


def test_what_the_encoder_does_not_read_changes_no_hash() -> None:
    hashes = {text_hash(item_text(CatalogueItem(title="Shoe", price=price, stock=3))) for price in (1.0, 2.0)}
    assert len(hashes) == 1
    assert 0 <= hashes.pop() < 2**63
    assert text_hash("Shoe") != text_hash("shoe")


def test_names_of_encoders_sort_by_time_and_are_names_of_models() -> None:
    names = [encoder_id(us, "c0ffee00" + "0" * 56) for us in (1_700_000_000_999_999, 1_700_000_001_000_000)]
    assert names == sorted(names)
    assert names[0] == "t20231114t221320-c0ffee00"
    assert all(ENCODER_ID.fullmatch(name) for name in names)
    assert incoming(Path("s")) != kept(Path("s"))
