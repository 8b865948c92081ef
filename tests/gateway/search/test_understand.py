"""From what was typed to what is looked for."""

from pathlib import Path

import pytest

from services.common.errors import InvalidInput
from services.gateway.search.rewrite import rewrite_of
from services.gateway.search.spelling import Speller
from services.gateway.search.suggest import completed
from services.gateway.search.understand import Synonyms, understand
from services.gateway.search.words import words

NONE = Synonyms([])
VOCABULARY = [("drill", 9), ("drills", 2), ("grill", 30), ("cordless", 4), ("18v", 3)]


def frequency(word: str) -> int:
    return dict(VOCABULARY).get(word, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Strong-Tie 12-Gauge", ["strong", "tie", "12", "gauge"]),
        ("Ångström ÉCLAIR", ["angstrom", "eclair"]),
        ("ﬁne Ｗｉｄｅ", ["fine", "wide"]),
        ("3.5mm 1/2in", ["3.5", "mm", "1", "2", "in"]),
        ("コーヒー", ["コー", "ーヒ", "ヒー"]),
        ("हिन्दी", words("हिन्दी")),
        ("👟", []),
        ("x" * 100, ["x" * 64]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_a_query_and_a_title_have_the_same_words_however_they_are_written() -> None:
    assert words("CRÈME 10ft") == words("creme 10 ft") == words("Cre\u0300me 10FT")


@pytest.mark.parametrize(
    ("word", "meant"),
    [("dril", "drill"), ("drlil", "drill"), ("gril", "grill"), ("cordlss", "cordless"), ("crodlesss", "cordless")],
)
def test_a_word_nobody_has_is_corrected_to_the_nearest(word: str, meant: str) -> None:
    assert Speller(VOCABULARY).correct(word) == meant


def test_of_words_equally_near_the_one_that_more_shoppers_search_for_is_meant() -> None:
    known = Speller([("drill", 9), ("grill", 30), ("brill", 1)])
    assert known.correct("trill") == "grill"
    assert known.told({"drill": 5, "grill": 4}).correct("trill") == "drill"
    assert known.told({"brill": 50}).correct("drilll") == "drill"
    assert known.told({"brill": 50}).correct("grlil") == "grill"


def test_a_word_that_stands_for_another_is_not_corrected() -> None:
    couch = Synonyms([["couch", "sofa"]])
    catalogue = [("coach", 5), ("sofa", 4)]
    query = understand("couch", lambda word: dict(catalogue).get(word, 0), Speller(catalogue).correct, couch)
    assert query.corrected == ""
    assert query.wish.words == [["couch", "sofa"]]


@pytest.mark.parametrize("word", ["cat", "17v", "banana", "18x"])
def test_short_ones_numbers_and_far_ones_are_not(word: str) -> None:
    assert Speller(VOCABULARY).correct(word) is None


def test_what_was_looked_for_instead_is_said() -> None:
    query = understand("  Cordless DRIL ", frequency, Speller(VOCABULARY).correct, NONE)
    assert (query.text, query.corrected) == ("cordless dril", "cordless drill")
    assert query.wish.words == [["cordless"], ["drill"]]
    assert understand("cordless drill", frequency, Speller(VOCABULARY).correct, NONE).corrected == ""


@pytest.mark.parametrize("text", ["", "  ", "?!", "\u200b", "👟"])
def test_a_query_without_a_word_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as error:
        understand(text, frequency, lambda word: None, NONE)
    assert error.value.field == "query"


def test_synonyms_stand_beside_the_words(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_text("tv, television # the screen\n\nliving room, lounge\n")
    query = understand("living room tv", lambda word: 1, lambda word: None, Synonyms.read(path))
    assert query.wish.words == [["living"], ["room"], ["tv", "television"]]
    assert query.wish.optional == ["lounge"]


@pytest.mark.parametrize("content", [b"alone\n", b"\xff\xfe"])
def test_a_bad_file_of_synonyms_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"synonyms"):
        Synonyms.read(path)


def test_the_shop_may_rewrite_queries() -> None:
    query = understand("tv", lambda word: 1, lambda word: None, NONE, rewrite=lambda text: f"{text} stand")
    assert query.wish.words == [["tv"], ["stand"]]


def test_a_step_that_fails_leaves_the_query_as_it_is() -> None:
    assert rewrite_of("math:sqrt")("tv") == "tv"
    assert rewrite_of("builtins:len")("tv") == "tv"


@pytest.mark.parametrize("name", ["math", "no.such.module:f", "math:nothing", "math:pi", ":x"])
def test_a_step_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as error:
        rewrite_of(name)
    assert error.value.field == "search_rewrite"


def test_of_a_conversation_the_words_that_fewest_items_have_are_looked_for() -> None:
    told = "hello i have a cordless drill and it does not turn any more what can i do " * 10 + "grill"
    query = understand(told, frequency, lambda word: None, NONE)
    assert [word for (word,) in query.wish.words] == ["cordless", "drill", "grill"]


def test_a_long_query_is_cut() -> None:
    typed = " ".join(f"word{n}" for n in range(100))
    assert understand(typed, lambda word: 1, lambda word: None, NONE).size == 32


def test_words_of_the_catalogue_complete_what_is_left() -> None:
    def beginning(prefix: str, count: int) -> list[tuple[str, int]]:
        return [(word, n) for word, n in VOCABULARY if word.startswith(prefix)][:count]

    assert completed("cordless dr", 3, ["cordless drill 18v"], beginning, words) == [
        "cordless drill 18v",
        "cordless drill",
        "cordless drills",
    ]
    assert completed("cordless ", 3, [], beginning, words) == []


def test_words_that_say_nothing_are_passed_over_unless_there_are_no_others() -> None:
    def asked(text: str) -> list[str]:
        query = understand(text, lambda word: 1, lambda word: None, NONE, tells=lambda word: word not in ("the", "of"))
        return [words[0] for words in query.wish.words]

    assert asked("the lord of the rings") == ["lord", "rings"]
    assert asked("of the") == ["of", "the"]


def test_phrases_of_synonyms_may_have_words_that_say_nothing() -> None:
    groups = Synonyms([["bed of nails", "spikes"]])
    query = understand("bed of nails", lambda word: 1, lambda word: None, groups, tells=lambda word: word != "of")
    assert [words[0] for words in query.wish.words] == ["bed", "nails"]
    assert list(query.wish.optional) == ["spikes"]
