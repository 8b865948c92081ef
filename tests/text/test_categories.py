"""The file that tells which category a query asks for: what is written is read, what does not fit is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import CorruptState
from services.text.categories import FILE, Categories, read
from services.text.folder import Encoder

TOLD = Categories(["", "shoes", "Häuser"], np.eye(3, 4, dtype=np.float32), np.array([0.0, 1.0, 2.0], np.float32))
ABOUT = Encoder("small", 4, 8, "mean", "0" * 64, files={FILE: "checked elsewhere"})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(TOLD.to_bytes())
    found = read(tmp_path, ABOUT)
    assert found is not None
    assert found.names == TOLD.names
    np.testing.assert_array_equal(found.weights, TOLD.weights)
    vector = np.array([0, 3, 0, 0], np.float32)
    assert list(found.of(vector)) == ["shoes", "Häuser"]
    powers = np.exp([0, 4, 2])
    assert found.of(vector)["shoes"] == pytest.approx(powers[1] / powers.sum())


def test_an_encoder_may_have_none(tmp_path: Path) -> None:
    assert read(tmp_path, replace(ABOUT, files={})) is None


BROKEN = {
    "another width": replace(TOLD, weights=np.zeros((3, 5), np.float32)),
    "a class without a name": replace(TOLD, names=["", "shoes"]),
    "a name twice": replace(TOLD, names=["", "shoes", "shoes"]),
    "no number": replace(TOLD, bias=np.array([0, np.nan, 0], np.float32)),
    "no text": replace(TOLD, names=["", 3, "shoes"]),  # type: ignore[list-item]
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_what_does_not_fit_is_refused(tmp_path: Path, broken: Categories) -> None:
    (tmp_path / FILE).write_bytes(broken.to_bytes())
    with pytest.raises(CorruptState, match=FILE):
        read(tmp_path, ABOUT)


@pytest.mark.parametrize("cut", [0, 10, -4])
def test_what_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    (tmp_path / FILE).write_bytes(TOLD.to_bytes()[:cut])
    with pytest.raises(CorruptState, match=FILE):
        read(tmp_path, ABOUT)
