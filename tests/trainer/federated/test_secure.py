"""Secure aggregation: the same model as in the open, and nobody's answer in sight."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage

from services.common.clock import ManualClock, WallClock
from services.common.errors import InvalidInput, TemporaryError
from services.trainer.federated.grid import LocalGrid
from services.trainer.federated.rounds import Ended, Plan, federate
from services.trainer.federated.shop import Place
from tests.trainer.federated.shops import coordinator, grid_of, place

ITEMS = tuple(f"item-{k}" for k in range(20))
OPEN = Plan(rounds=2, messages=20, least=2)
SECURE = Plan(rounds=2, messages=20, least=3, secure=True, catalogue=ITEMS, most=200)


def places(folder: Path, count: int = 3) -> list[Place]:
    return [place(folder, name, seed, 40 + 10 * seed) for seed, name in enumerate("abcd"[:count], 1)]


class Overheard(LocalGrid):
    """Keeps what shops send."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.heard: list[Message] = []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = list(super().pull_messages(message_ids))
        self.heard += found
        return found


class Leaving(LocalGrid):
    """The last node goes when the protocol has come to a stage."""

    stage = ""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        stages = {str(m.content.config_records.get(RECORD_KEY_CONFIGS, {}).get(Key.STAGE)) for m in sent}
        if self.stage in stages and max(self.get_node_ids()) == 5:
            self.leave(5)
        return super().push_messages(sent)


class LeavingWithKeys(Leaving):
    stage = Stage.COLLECT_MASKED_VECTORS


class LeavingBefore(Leaving):
    stage = Stage.SHARE_KEYS


def test_it_gives_the_model_that_answers_in_the_open_give(tmp_path: Path) -> None:
    plain, hidden = coordinator(tmp_path / "open"), coordinator(tmp_path / "hidden")
    federate(grid_of(*places(tmp_path / "open")), plain, OPEN, ManualClock())
    ended: list[Ended] = []
    federate(grid_of(*places(tmp_path / "hidden"), items=ITEMS), hidden, SECURE, ManualClock(), ended.append)
    for name, value in plain.weights.items():
        np.testing.assert_allclose(hidden.weights[name], value, atol=5e-6)
    rows = dict(zip(hidden.items.ids, hidden.items.rows, strict=True))
    assert set(rows) == set(plain.items.ids)
    for name, row in zip(plain.items.ids, plain.items.rows, strict=True):
        np.testing.assert_allclose(rows[name], row, atol=1e-5)
    squares = dict(zip(hidden.items.ids, hidden.items.squares, strict=True))
    for name, square in zip(plain.items.ids, plain.items.squares, strict=True):
        assert squares[name] == pytest.approx(square, rel=0.2)
    assert [e.answered for e in ended] == [["a", "b", "c"]] * 2
    assert ended[0].figures == {}


def test_without_a_catalogue_no_row_leaves_a_shop(tmp_path: Path) -> None:
    middle = coordinator(tmp_path)
    plan = Plan(rounds=1, messages=20, least=3, secure=True)
    federate(grid_of(*places(tmp_path)), middle, plan, ManualClock())
    assert len(middle.items) == 0


def test_what_a_shop_sends_is_noise_without_the_others(tmp_path: Path) -> None:
    middle = coordinator(tmp_path)
    grid = grid_of(*places(tmp_path), items=ITEMS, kind=Overheard)
    assert isinstance(grid, Overheard)
    plan = Plan(rounds=1, messages=20, least=3, secure=True, catalogue=ITEMS)
    federate(grid, middle, plan, ManualClock())
    masked = [m for m in grid.heard if Key.MASKED_PARAMETERS in m.content.config_records.get(RECORD_KEY_CONFIGS, {})]
    assert len(masked) == 3
    for message in masked:
        assert not any(len(record) for record in message.content.array_records.values())
        assert dict(message.content.metric_records["fitres.num_examples"]) == {"num_examples": 1}
        sent = message.content.config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
        values = np.concatenate([bytes_to_ndarray(data).ravel() for data in sent]) / 2**32
        # Uniform over the modulus: what is sent says nothing about where weights near 0 would lie.
        counts = np.histogram(values, 16, (0, 1))[0] / len(values)
        assert np.abs(counts - 1 / 16).max() < 0.01


@pytest.mark.parametrize("kind", [LeavingWithKeys, LeavingBefore])
def test_a_round_goes_on_without_a_shop_that_goes(tmp_path: Path, kind: type[LocalGrid]) -> None:
    plain, hidden, ended = coordinator(tmp_path / "open"), coordinator(tmp_path / "hidden"), list[Ended]()
    federate(grid_of(*places(tmp_path / "open")), plain, OPEN, ManualClock())
    grid = grid_of(*places(tmp_path / "hidden", 4), items=ITEMS, kind=kind)
    federate(grid, hidden, SECURE, ManualClock(), ended.append)
    assert [e.answered for e in ended] == [["a", "b", "c"]] * 2
    for name, value in plain.weights.items():
        np.testing.assert_allclose(hidden.weights[name], value, atol=5e-6)


class LeavingTwo(LocalGrid):
    """Of four shops two go when they have shared their keys."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        stages = {m.content.config_records.get(RECORD_KEY_CONFIGS, {}).get(Key.STAGE) for m in sent}
        assert Stage.UNMASK not in stages
        if Stage.COLLECT_MASKED_VECTORS in stages:
            self.leave(4)
            self.leave(5)
        return super().push_messages(sent)


def test_no_sum_of_two_is_seen(tmp_path: Path) -> None:
    grid = grid_of(*places(tmp_path, 4), items=ITEMS, kind=LeavingTwo)
    with pytest.raises(TemporaryError, match="2 shops are there, 3 are needed"):
        federate(grid, coordinator(tmp_path), replace(SECURE, wait_s=0.01), WallClock())


def test_two_shops_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="least"):
        Plan(rounds=1, messages=20, least=2, secure=True)


def test_another_catalogue_is_refused(tmp_path: Path) -> None:
    middle = coordinator(tmp_path)
    grid = grid_of(*places(tmp_path), items=ITEMS[:-1])
    with pytest.raises(TemporaryError, match="no end in 3 tries"):
        federate(grid, middle, SECURE, ManualClock())
