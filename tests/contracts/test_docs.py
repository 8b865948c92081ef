"""The tables of the docs equal the code they are about."""

import pytest

from docs.generate import fill, pages


def test_every_page_is_as_its_sources_say() -> None:
    stale = [path.name for path, content in pages() if path.read_text() != content]
    assert stale == [], "run `make docs`"


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(LookupError, match="topics"):
        fill("nothing here", {"topics": "| a |"})
