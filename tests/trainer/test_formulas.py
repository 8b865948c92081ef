"""Ranking models against their papers' formulas, computed another way."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from services.trainer.models.deepfm import pairs
from services.trainer.models.dlrm import DLRM, FIELDS
from services.trainer.models.matrix_factorisation import MatrixFactorisation
from services.trainer.models.transformer import TransformerRanker
from services.trainer.models.two_tower import TwoTowers
from tests.trainer.test_model import inputs, tensors
from tests.trainer.test_models import learned
from tests.trainer.world import SPEC

DIN = {
    "content.weight": (4, 32),
    "context.weight": (96, 4),
    "history_kind.weight": (16, 4),
    "attention.age": (4,),
    "attention.bias": (4,),
    "attention.query.weight": (16, 4),
    "attention.kind.weight": (16, 4),
    "shopper.weight": (4, 20),
    "shopper.bias": (4,),
    "from_shopper.weight": (19, 16),
    "from_item.weight": (19, 28),
    "from_item.bias": (19,),
    "deep.weight": (8, 16),
    "deep.bias": (8,),
    "out.weight": (3, 8),
    "out.bias": (3,),
}
"""What a checkpoint of din holds beside the blocks of numeric features."""


def test_weights_of_din_have_the_names_and_shapes_that_its_checkpoints_hold() -> None:
    found = {name: tuple(value.shape) for name, value in learned("din").state_dict().items()}
    blocks = {name for name in found if "_numeric.block.0." in name}
    assert {name.rsplit(".", 1)[1] for name in blocks} == {"weight", "center", "scale", "seen", "sums", "frozen_at"}
    assert {name: shape for name, shape in found.items() if name not in blocks} == DIN


def test_the_pairs_of_a_factorisation_machine_are_those_of_the_double_loop() -> None:
    fields = torch.randn(5, 6, 4, dtype=torch.float64)
    slow = torch.zeros(5, 4, dtype=torch.float64)
    for i in range(6):
        for j in range(i + 1, 6):
            slow += fields[:, i] * fields[:, j]
    torch.testing.assert_close(pairs(fields.sum(1), (fields * fields).sum(1)), slow)


def test_deepfm_adds_the_pairs_of_all_six_fields() -> None:
    model, x = learned("deepfm"), tensors(inputs())
    fields = deepfm_fields(model, x)
    with torch.no_grad():
        whole = model.logits(x)
        model.factors.zero_()
        without = model.logits(x)
    model = learned("deepfm")
    slow = sum((fields[i] * fields[j] for i, j in combinations(range(6), 2)), torch.zeros(()))
    torch.testing.assert_close(whole - without, (slow @ model.factors).detach(), atol=1e-4, rtol=1e-4)


def deepfm_fields(model: torch.nn.Module, x: dict[str, Tensor]) -> list[Tensor]:
    """Each field [B, N, D] on its own."""
    mask = x["history_mask"].unsqueeze(-1)
    with torch.no_grad():
        shopper = [
            model.user_numeric(x["user"])[:, : SPEC.row_dim],
            x["user_row"] * x["user_row_mask"],
            (model.history(x) * mask).sum(1) / mask.sum(1).clamp(min=1),
            model.context_field(model.contexts(x)),
        ]
        item = [model.item_numeric(x["item"])[..., : SPEC.row_dim], model.items(x)]
    return [*item, *(field.unsqueeze(1).expand_as(item[1]) for field in shopper)]


def test_dlrm_takes_the_dot_product_of_each_two_fields_once() -> None:
    model = learned("dlrm")
    assert isinstance(model, DLRM)
    fields = torch.randn(2, 3, FIELDS, 4)
    slow = [(fields[..., i, :] * fields[..., j, :]).sum(-1) for i, j in combinations(range(FIELDS), 2)]
    torch.testing.assert_close(model.dots(fields), torch.stack(slow, dim=-1))


def test_factorisation_is_the_formula_of_koren() -> None:
    model, x = learned("factorisation"), tensors(inputs())
    assert isinstance(model, MatrixFactorisation)
    w = {name: value.numpy() for name, value in model.state_dict().items()}
    a = {name: value.numpy() for name, value in x.items()}
    entries = a["history_content"] @ w["content.weight"].T + a["history_row"] * a["history_row_mask"]
    entries = entries + w["history_kind.weight"][a["history_kind"]]
    logits = model.logits(x).detach().numpy()
    numeric = model.item_numeric(x["item"]).detach().numpy(), model.user_numeric(x["user"]).detach().numpy()
    for b, n in ((0, 0), (1, 3), (2, 6)):
        there = entries[b][a["history_mask"][b] > 0]
        implicit = (there @ w["implicit.weight"].T).sum(0) / np.sqrt(len(there))
        context = np.concatenate([w["context.weight"][32 * k + a["context"][b, k]] for k in range(3)])
        p = a["user_row"][b] * a["user_row_mask"][b] + implicit
        p = p + w["attributes.weight"] @ context + w["attributes.bias"]
        q = w["content.weight"] @ a["content"][b, n] + a["row"][b, n] * a["row_mask"][b, n]
        biases = w["item_bias.bias"] + w["item_bias.weight"] @ q + w["user_bias.weight"] @ p
        expected = biases + numeric[0][b, n] + numeric[1][b] + (p * q) @ w["factors"]
        np.testing.assert_allclose(logits[b, n], expected, atol=1e-4)


def test_towers_meet_in_a_dot_product_only() -> None:
    model, x = learned("two_tower"), tensors(inputs())
    assert isinstance(model, TwoTowers)
    users, items = model.user_vectors(x), model.item_vectors(x)
    dots = torch.einsum("bhw,bnw->bnh", users, items) / 8**0.5 + model.bias
    torch.testing.assert_close(model.logits(x), dots)
    torch.testing.assert_close(model.user_vectors(x | {"content": x["content"] + 1}), users)
    torch.testing.assert_close(model.item_vectors(x | {"user_row": x["user_row"] + 1}), items)


@pytest.mark.parametrize("name", ["logistic", "embedding_sum"])
def test_in_a_linear_model_the_shopper_moves_all_candidates_alike(name: str) -> None:
    x, y = tensors(inputs()), tensors(inputs())
    y["user_row"], y["user"], y["context"] = y["user_row"] + 1, y["user"] * 2, y["context"] + 1
    moved = learned(name).logits(y) - learned(name).logits(x)
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), atol=1e-4, rtol=1e-4)
    assert moved.abs().min() > 1e-3


def test_the_encoder_is_a_masked_transformer_over_history_and_candidate() -> None:
    model, x = learned("transformer"), tensors(inputs())
    assert isinstance(model, TransformerRanker)
    history = model.history(x) + model.place + x["history_age"].unsqueeze(-1) * model.age
    items = model.items(x)
    found = model.encoded(items, x)
    for b, n in ((0, 0), (1, 3), (2, 6)):
        there = history[b][x["history_mask"][b] > 0]
        sequence = torch.cat([there, items[b, n : n + 1]])
        torch.testing.assert_close(found[b, n], encoder(model, sequence)[-1], atol=1e-4, rtol=1e-4)


def encoder(model: TransformerRanker, sequence: Tensor) -> Tensor:
    """One sequence [T, D] through all blocks; only its last place sees the last place."""
    length = len(sequence)
    seen = torch.ones(length, length, dtype=torch.bool)
    seen[:-1, -1] = False
    for block in model.block:
        normed = block.before(sequence)
        q, k, v = (
            part(normed).view(length, block.ways, -1).transpose(0, 1) for part in (block.query, block.key, block.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        sequence = sequence + block.back(mixed.transpose(0, 1).reshape(length, -1))
        sequence = sequence + block.narrow(torch.relu(block.wide(block.between(sequence))))
    return model.norm(sequence)
