"""Forms of queries that another person might have typed."""

import numpy as np
import pytest

from services.trainer.text.variations import Varied, vary


def forms(query: str, count: int = 400) -> set[str]:
    return {vary(query, np.random.default_rng(seed)) for seed in range(count)}


def test_a_form_has_a_word_less_or_two_changed_about_or_one_wrong_letter() -> None:
    found = forms("oak table")
    assert {"oak", "table", "table oak", "oak tble", "oak taable", "oak atble"} <= found
    assert all(len(form) >= 3 for form in found)


@pytest.mark.parametrize("query", ["", "tv", "m8", "20x30"])
def test_what_is_short_or_a_size_is_left_as_it_is(query: str) -> None:
    assert forms(query) == {query}


def test_sizes_beside_words_are_never_mistyped() -> None:
    assert all(not word.isalpha() or word == "screw" or len(word) in (4, 6) or sorted(word) == sorted("screw")
               for form in forms("screw m8x40") for word in form.split())  # fmt: skip
    assert {form for form in forms("screw m8x40") if "m8x40" not in form} == {"screw"}


def test_about_the_share_of_the_queries_is_varied() -> None:
    queries = [f"garden chair number {n}" for n in range(2_000)]
    found = Varied(0.3).forms(queries, np.random.default_rng(1))
    assert 500 < sum(one != other for one, other in zip(queries, found, strict=True)) < 700
