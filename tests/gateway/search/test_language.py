"""Which language a query is in, where that is sure."""

from pathlib import Path

import pytest

from services.common.errors import InvalidInput
from services.gateway.search.language import teller_of
from services.gateway.search.searcher import Searcher, SearchPolicy
from tests.gateway.search.test_searcher import call
from tests.gateway.shop import Shop, budget

SPOKEN = ("en", "de", "fr", "es", "zh", "ru")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("couch for the living room", "en"),
        ("sofa für das wohnzimmer", "de"),
        ("canapé pour le salon", "fr"),
        ("zapatos rojos de mujer", "es"),
        ("红色连衣裙", "zh"),
        ("красные туфли", "ru"),
        ("usb-c", ""),
        ("iphone 15", ""),
        ("4711", ""),
        ("?", ""),
        ("", ""),
    ],
)
def test_the_language_is_told_where_it_is_sure(query: str, code: str) -> None:
    assert teller_of(SPOKEN)(query) == code


def test_nobody_is_told_who_did_not_ask() -> None:
    assert teller_of([])("sofa für das wohnzimmer") == ""


@pytest.mark.parametrize("codes", [["en", "klingon"], ["en"]])
def test_languages_that_cannot_be_told_are_refused(codes: list[str]) -> None:
    with pytest.raises(InvalidInput) as error:
        teller_of(codes)
    assert error.value.field == "query_languages"


async def test_an_answer_and_its_next_page_tell_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    policy = SearchPolicy(language=teller_of(SPOKEN))
    searcher = Searcher(shop.ranker, shop.pipeline, shop.words, shop.texts, policy)
    first = await searcher.search(call("things für das wohnzimmer", size=2), budget())
    assert first.ids
    second = await searcher.search(call("", size=2, page_token=first.next_page), budget())
    assert (first.language, second.language) == ("de", "de")
