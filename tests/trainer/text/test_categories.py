"""Which category a query asks for, learned from what was chosen."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from services.trainer.text.categories import LEAST, RARE, Asked, asked, fitted
from services.trainer.text.searches import Search

KINDS = ("shoes", "hats", "lamps")
DIRECTIONS = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)


def encode(queries: Sequence[str]) -> NDArray[np.float32]:
    """Length 1; a query of a kind lies near that kind's direction."""
    out = np.zeros((len(queries), 8), np.float32)
    for row, query in zip(out, queries, strict=True):
        kind, number = query.split()
        row += DIRECTIONS[KINDS.index(kind)] + np.random.default_rng(int(number)).normal(0, 0.2, 8)
        row /= np.linalg.norm(row)
    return out


def searches(count: int, chance: np.random.Generator, right: float = 0.9) -> list[Asked]:
    """Queries of a kind; what is chosen is of that kind so often, else of any."""
    found = []
    for number in range(count):
        kind = KINDS[chance.integers(3)]
        chosen = kind if chance.random() < right else KINDS[chance.integers(3)]
        found.append(Asked(f"{kind} {number}", number, chosen))
    return found


def test_what_is_asked_for_is_told_better_than_by_frequency() -> None:
    found, figures = fitted(searches(600, np.random.default_rng(1)), encode)
    assert found is not None
    assert found.names[0] == ""
    assert set(found.names) == {"", *KINDS}
    assert (figures["category_searches"], figures["category_names"], figures["category_used"]) == (120, 3, 1)
    assert figures["category_hits"] > 0.85
    assert figures["category_log_loss"] < figures["category_prior_log_loss"] - 0.4
    told = found.of(encode(["hats 9000"])[0])
    assert next(iter(told)) == "hats"
    assert list(told.values()) == sorted(told.values(), reverse=True)


def test_probabilities_are_as_sure_as_choices_are() -> None:
    found, _ = fitted(searches(3_000, np.random.default_rng(2), right=0.7), encode)
    assert found is not None
    later = searches(2_000, np.random.default_rng(3), right=0.7)
    sure = found.probabilities(encode([one.query for one in later]))
    hits = np.array([found.names[place] for place in sure.argmax(1)]) == [one.category for one in later]
    assert sure.max(1).mean() == pytest.approx(hits.mean(), abs=0.03)


def test_a_fit_that_tells_nothing_is_left_out_and_says_so() -> None:
    found, figures = fitted(searches(600, np.random.default_rng(4), right=0.0), encode)
    assert found is None
    assert figures["category_used"] == 0
    assert figures["category_log_loss"] > 0


def test_of_one_category_there_is_nothing_to_tell() -> None:
    kept = [Asked(f"hats {number}", 0, "hats") for number in range(300)]
    found, figures = fitted(kept, encode)
    assert (found, figures["category_used"]) == (None, 0)


def test_few_searches_fit_nothing() -> None:
    found, figures = fitted(searches(LEAST - 1, np.random.default_rng(5)), encode)
    assert (found, figures) == (None, {"category_searches": LEAST - 1, "category_used": 0})


def test_rare_categories_are_counted_without_a_name() -> None:
    kept = searches(400, np.random.default_rng(6))
    kept[: RARE - 1] = [Asked(one.query, one.owner, "odd") for one in kept[: RARE - 1]]
    found, _ = fitted(kept, encode)
    assert found is not None
    assert "odd" not in found.names
    assert sum(found.of(encode(["hats 9000"])[0]).values()) < 1


def test_the_same_searches_give_the_same_bits() -> None:
    kept = searches(300, np.random.default_rng(7))
    one, other = (fitted(kept, encode)[0] for _ in range(2))
    assert one is not None
    assert other is not None
    assert one.to_bytes() == other.to_bytes()


def test_a_search_asks_for_what_most_of_its_items_are_of() -> None:
    of = {"a": "hats", "b": "shoes", "c": "shoes", "d": ""}.__getitem__
    items = ("a", "b", "c", "d")
    assert asked(Search("q", 7, 0, items, (0, 1, 2)), of) == Asked("q", 7, "shoes")
    assert asked(Search("q", 7, 0, items, (0, 1)), of) == Asked("q", 7, "hats")
    assert asked(Search("q", 7, 0, items, (3,)), of) is None
