"""The table of techniques names what there is."""

from collections.abc import Iterator

import pytest

from docs.families import ADVICE
from docs.techniques import FAMILIES, ROOT, Technique, every, exists
from services.trainer.settings import TrainerSettings
from services.trainer.strategies import expression

EVERY = list(every())


@pytest.mark.parametrize("one", EVERY, ids=[one.name for one in EVERY])
def test_its_module_and_its_test_exist(one: Technique) -> None:
    assert (ROOT / one.module).is_file()
    assert exists(one.test), one.test


@pytest.mark.parametrize("one", EVERY, ids=[one.name for one in EVERY])
def test_its_setting_is_accepted_or_it_says_how_it_is_chosen(one: Technique) -> None:
    assert bool(one.settings) != bool(one.how)
    TrainerSettings(**one.settings)


def _called(setting: str) -> Iterator[str]:
    for one in EVERY:
        line = str(one.settings.get(setting, ""))
        yield from (name for name in [*expression.PARTS, *expression.LOSSES] if f"{name}(" in line)


def test_every_part_and_every_loss_has_its_row() -> None:
    assert set(expression.PARTS) <= set(_called("strategy"))
    assert set(expression.LOSSES) - {"cross_entropy"} <= set(_called("loss"))


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert not exists("tests/trainer/test_loop.py::test_of_nothing")
    assert not exists("tests/nowhere.py::")


def test_every_family_has_its_page_and_no_page_is_left_over() -> None:
    assert set(ADVICE) == set(FAMILIES)
    written = {path.name for path in (ROOT / "docs" / "families").glob("*.md")}
    assert written == {f"{advice.page}.md" for advice in ADVICE.values()}
