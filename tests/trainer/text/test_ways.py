"""Updates of an encoder: what moves, what does not, and what is released."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from services.common.errors import InvalidInput
from services.text.folder import INPUTS, OUTPUT
from services.trainer.text import export as exports
from services.trainer.text.learner import Learner, Objective
from services.trainer.text.load import load
from services.trainer.text.model import Text
from services.trainer.text.replay import Pairs, Replay
from services.trainer.text.ways import parse
from tests.trainer.text import tiny

COLOURS, THINGS = ("red", "blue", "green", "black"), ("shoe", "lamp", "table", "chair")
PAIRS = Pairs(
    [f"{colour} {thing}" for colour in COLOURS for thing in THINGS],
    [f"new {thing} {colour} wood" for colour in COLOURS for thing in THINGS],
)
MOVING = ("full(0.001)", "top(1, 0.001)", "lora(4, 8, 0.01)", "adalora(4, 0.5, 0.01, 20)")
EVERY = ("frozen()", *MOVING)
Weights = dict[str, torch.Tensor]


@pytest.fixture
def text(tmp_path: Path) -> Text:
    return load(str(tiny.folder(tmp_path / "model")))


def weights(text: Text) -> Weights:
    """By the names of the plain encoder."""
    named = text.model.state_dict().items()
    return {
        name.replace("base_model.model.", "").replace("base_layer.", ""): value.clone()
        for name, value in named
        if "lora_" not in name and "ranknum" not in name
    }


def changed(before: Weights, after: Weights) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def learned(text: Text, way: str, steps: int = 3, seed: int = 0) -> Learner:
    learner = Learner(text, way, seed=seed)
    for _ in range(steps):
        learner.learn(PAIRS)
    return learner


def test_frozen_is_equal_bit_for_bit(text: Text) -> None:
    before, name = weights(text), text.about.source
    learner = learned(text, "frozen()")
    assert learner.moving == 0
    assert not changed(before, weights(learner.released()))
    assert learner.released().about.source == name


def test_full_moves_every_block(text: Text) -> None:
    before = weights(text)
    after = changed(before, weights(learned(text, "full(0.001)").released()))
    assert {f"body.encoder.layer.{n}.output.dense.weight" for n in range(3)} <= after
    assert "body.embeddings.word_embeddings.weight" in after


def test_top_layers_leave_what_is_below_untouched(text: Text) -> None:
    before = weights(text)
    after = changed(before, weights(learned(text, "top(1, 0.001)").released()))
    assert after
    assert all(name.startswith("body.encoder.layer.2.") for name in after)


@pytest.mark.parametrize("way", ["lora(4, 8, 0.01)", "adalora(4, 0.5, 0.01, 20)"])
def test_adapters_leave_the_base_untouched_and_are_released_merged(text: Text, way: str, tmp_path: Path) -> None:
    before = weights(text)
    learner = learned(text, way)
    assert not changed(before, weights(learner.text))
    released = learner.released()
    after = changed(before, weights(released))
    assert after
    assert all(".layer." in name and name.endswith("weight") for name in after)
    np.testing.assert_allclose(released.items(PAIRS.items), text.items(PAIRS.items), atol=1e-5)
    exports.export(released, tmp_path / "out")
    runtime = onnxruntime.InferenceSession(tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"])
    found = runtime.run([OUTPUT], dict(zip(INPUTS, text.tokens.items(PAIRS.items), strict=True)))[0]
    np.testing.assert_allclose(found, text.items(PAIRS.items), atol=1e-4)


def test_adapters_begin_as_the_encoder_that_they_stand_beside(text: Text) -> None:
    before = text.items(PAIRS.items)
    for way in MOVING[2:]:
        np.testing.assert_allclose(Learner(load_again(text), way).text.items(PAIRS.items), before, atol=1e-6)


def load_again(text: Text) -> Text:
    """A copy that learns apart."""
    return Learner(text, "frozen()").released()


def test_adalora_ends_with_its_share_of_directions(text: Text) -> None:
    learner = learned(text, "adalora(4, 0.5, 0.01, 20)", steps=15)
    scales = [value for name, value in learner.text.model.named_parameters() if "lora_E" in name]
    kept = sum(int((value != 0).sum()) for value in scales)
    every = sum(value.numel() for value in scales)
    assert kept == every // 2
    assert len({int((value != 0).sum()) for value in scales}) > 1


@pytest.mark.parametrize("way", MOVING)
def test_what_is_clicked_comes_nearer(text: Text, way: str) -> None:
    def right() -> float:
        scores = text.queries(PAIRS.queries) @ text.items(PAIRS.items).T
        return float((np.diag(scores) - scores.mean(1)).mean())

    before = right()
    learned(text, way, steps=12)
    assert right() > before + 0.02


@pytest.mark.parametrize("way", [*EVERY, "lora(4, 8, 0.01), replay(8, 0.5)"])
def test_the_same_seed_and_pairs_give_the_same_bits(text: Text, way: str) -> None:
    one, two, other = (learned(load_again(text), way, seed=seed) for seed in (1, 1, 2))
    assert not changed(weights(one.released()), weights(two.released()))
    moved = changed(weights(one.released()), weights(other.released()))
    assert bool(moved) == (way != "frozen()")


@pytest.mark.parametrize("way", [*EVERY, "lora(4, 8, 0.01), replay(8, 0.5)"])
def test_a_restart_goes_on_bit_for_bit(text: Text, way: str) -> None:
    through = learned(load_again(text), way, steps=6)
    first = learned(load_again(text), way, steps=3)
    second = Learner(load_again(text), way)
    second.load(first.state())
    for _ in range(3):
        second.learn(PAIRS)
    assert second.steps == 6
    assert not changed(weights(through.released()), weights(second.released()))
    assert torch.equal(through.line, second.line)


def test_numbers_of_chance_outside_go_on_as_if_nothing_had_been(text: Text) -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    learned(text, "full(0.001)", steps=1)
    assert torch.equal(torch.rand(3), wanted)


def test_grades_are_learned_as_a_line_of_the_cosine(text: Text) -> None:
    items = [*PAIRS.items, *reversed(PAIRS.items)]
    grades = [1.0] * 16 + [0.0] * 16
    graded = Pairs([*PAIRS.queries, *PAIRS.queries], items, grades)
    learner = Learner(text, "full(0.001)", Objective(contrastive=0.0))
    losses = [learner.learn(graded) for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_hard_negative_is_pushed_away(text: Text) -> None:
    def apart(learner: Learner) -> float:
        query, own, other = (encode([t])[0] for encode, t in zip(
            (learner.text.queries, learner.text.items, learner.text.items),
            (PAIRS.queries[0], PAIRS.items[0], "old glass lamp"), strict=True,
        ))  # fmt: skip
        return float(query @ own - query @ other)

    given = Pairs(PAIRS.queries[:1], PAIRS.items[:1], negatives=["old glass lamp"])
    learner = Learner(text, "full(0.001)")
    before = apart(learner)
    for _ in range(5):
        learner.learn(given)
    assert apart(learner) > before + 0.05


def test_a_batch_of_one_item_only_teaches_nothing(text: Text) -> None:
    learner = Learner(text, "full(0.001)")
    assert learner.loss(Pairs(["red shoe"], ["new shoe red"])).item() == 0
    same = Pairs(["red shoe", "blue lamp"], ["new shoe red", "new shoe red"])
    assert learner.loss(same).item() == 0
    assert learner.loss(PAIRS).item() > 0


def test_a_gradient_that_is_not_finite_moves_nothing(text: Text) -> None:
    learner = Learner(text, "full(0.001)")
    with torch.no_grad():
        learner.line.fill_(float("nan"))
    before = weights(text)
    assert np.isnan(learner.learn(Pairs(PAIRS.queries, PAIRS.items, [0.5] * 16)))
    assert not changed(before, weights(text))
    assert learner.learn(PAIRS) > 0
    assert changed(before, weights(text))


def test_no_pairs_are_no_step(text: Text) -> None:
    learner = Learner(text, "full(0.001)")
    assert learner.learn(Pairs([], [])) == 0
    assert learner.steps == 0


@pytest.mark.parametrize(
    ("items", "grades", "field"),
    [(["a"], (), "items"), (["a", "b"], [0.5], "grades"), (["a", "b"], [0.5, 1.1], "grades"),
     (["a", "b"], [0.5, float("nan")], "grades")],
)  # fmt: skip
def test_pairs_that_do_not_fit_are_refused_by_field(items: list[str], grades: list[float], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        Pairs(["q", "r"], items, grades)
    assert raised.value.field == field


def test_replay_brings_back_pairs_with_the_same_chance() -> None:
    counts = np.zeros(40)
    for seed in range(400):
        replay = Replay(10, 0.5, seed)
        for number in range(40):
            replay.mixed(Pairs([f"q{number}"], ["i"]))
        drawn = replay.mixed(Pairs(["new"] * 10, ["i"] * 10))
        assert list(drawn.queries[:10]) == ["new"] * 10
        for query in drawn.queries[10:]:
            counts[int(query[1:])] += 1
    assert counts.sum() == 4000
    assert abs(counts[:20].sum() - counts[20:].sum()) < 4 * np.sqrt(4000)


@pytest.mark.parametrize(
    ("line", "told"),
    [("lora(8), full()", "one way"), ("replay(3)", "one way"), ("magic()", "none of"), ("lora(0)", "from 1 to 256")],
)
def test_a_line_that_is_no_way_is_refused(line: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(line)


def test_varied_queries_are_learned_in_other_forms_of_a_seed(text: Text, tmp_path: Path) -> None:
    def after(line: str, seed: int = 0) -> Weights:
        return weights(learned(load(str(tmp_path / "model")), line, seed=seed).text)

    plain, other = after("full(0.001)"), after("full(0.001), varied(1)")
    assert changed(plain, other)
    assert not changed(other, after("full(0.001), varied(1)"))
    assert changed(other, after("full(0.001), varied(1)", seed=1))


def test_forms_of_one_query_are_not_wrong_answers_of_each_other(text: Text) -> None:
    same = Pairs(["red garden chair"] * 8, [f"chair {n}" for n in range(8)])
    learner = Learner(text, "full(0.001), varied(1)")
    assert float(learner.loss(same, [f"garden chair {n}" for n in range(8)]).detach()) == 0
