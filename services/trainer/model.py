"""The ranker: what is learned. One small graph that scores all candidates of a request for every head.

- An item is `content · projection + mask × row`: without a row it is its content (design D3).
- Each candidate attends to the shopper's history (target attention after DIN, Zhou et al., 2018: sigmoid
  weights, not softmax, so that how much matches is kept), with a bias per kind of action and for its age.
- A wide part (linear in the numeric inputs) stands beside a deep one, after Cheng et al. (2016).
- Candidates are scored one by one: a score does not depend on who else is in the list, so an example that holds
  only some items of an impression trains the same function.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from services.common.errors import InvalidInput
from services.common.spec import CONTEXT_BUCKETS, ModelSpec, input_shapes
from services.trainer.inputs import COLUMNS, NumericInput, blocks_after

KINDS = 16
"""Rows of the table of action kinds; a kind beyond is read as 0."""

_FEW = 20_000
"""Values of a feature up to which every batch goes into its statistics."""

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Widths of the ranker."""

    hidden: tuple[int, int] = (64, 32)
    attention: int = 4
    """Ways of attending, each with its own query."""
    context: int = 4
    """Values per context field."""
    prior: float = -3.0
    """Logit every head starts from: about one click in twenty."""


class Attention(nn.Module):
    """History [B, L, D] as each candidate [B, N, D] sees it."""

    def __init__(self, dim: int, ways: int) -> None:
        super().__init__()
        self.ways, self.dim = ways, dim
        self.query = nn.Linear(dim, ways * dim, bias=False)
        self.kind = nn.Embedding(KINDS, ways)
        self.age = nn.Parameter(torch.full((ways,), -0.1))
        self.bias = nn.Parameter(torch.zeros(ways))
        self.outputs = ways * (dim + 1)
        nn.init.zeros_(self.kind.weight)

    def forward(self, items: Tensor, history: Tensor, kind: Tensor, age: Tensor, mask: Tensor) -> Tensor:
        """[B, N, ways × (D + 1)]: weighted sums of history and the sums of the weights."""
        b, n, length = items.shape[0], items.shape[1], history.shape[1]
        queries = self.query(items).reshape(b, n * self.ways, self.dim)
        match = torch.matmul(queries, history.transpose(1, 2)).reshape(b, n, self.ways, length) / math.sqrt(self.dim)
        known = torch.where(kind < KINDS, kind, torch.zeros_like(kind))
        bias = self.kind(known) + age.unsqueeze(-1) * self.age + self.bias
        weights = torch.sigmoid(match + bias.transpose(1, 2).unsqueeze(1)) * mask.unsqueeze(1).unsqueeze(1)
        sums = torch.matmul(weights.reshape(b, n * self.ways, length), history).reshape(b, n, self.ways * self.dim)
        return torch.cat([sums, weights.sum(-1)], dim=-1)


class Ranker(nn.Module):
    """Scores [B, N, heads]; inputs as `spec.input_shapes`."""

    def __init__(
        self,
        spec: ModelSpec,
        sizes: Sizes,
        user_blocks: Sequence[Sequence[int]] | None = None,
        item_blocks: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Blocks as `NumericInput.ids` gave them; None: one of all. Raises InvalidInput without any feature."""
        super().__init__()
        if not spec.user_features or not spec.item_features:
            raise InvalidInput("ranking", "no_features", "the model needs a feature of the shopper and one of the item")
        self.sizes, self.heads = sizes, len(spec.heads)
        self.names = tuple(input_shapes(spec))
        dim, deep = spec.row_dim, sizes.hidden[0]
        outputs = deep + self.heads
        users, items = ([ref.id for ref in refs] for refs in (spec.user_features, spec.item_features))
        self.user_numeric = NumericInput(user_blocks or [users], users, outputs)
        self.item_numeric = NumericInput(item_blocks or [items], items, outputs)
        self.content = nn.Linear(spec.content_dim, dim, bias=False)
        self.context = nn.Embedding(3 * CONTEXT_BUCKETS, sizes.context)
        self.history_kind = nn.Embedding(KINDS, dim)
        self.attention = Attention(dim, sizes.attention)
        self.shopper = nn.Linear(2 * dim + 3 * sizes.context, dim)
        self.from_shopper = nn.Linear(dim + 3 * sizes.context, outputs, bias=False)
        self.from_item = nn.Linear(2 * dim + self.attention.outputs, outputs)
        self.deep = nn.Linear(deep, sizes.hidden[1])
        self.out = nn.Linear(sizes.hidden[1], self.heads)
        self._initialise(deep)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Probabilities [B, N, heads]; inputs in the order of `names`; 0 where `mask` is 0."""
        named = dict(zip(self.names, inputs, strict=True))
        return torch.sigmoid(self.logits(named)) * named["mask"].unsqueeze(-1)

    def logits(self, x: Inputs) -> Tensor:
        """Logits [B, N, heads], of padding too."""
        items = self.content(x["content"]) + x["row"] * x["row_mask"]
        mask = x["history_mask"]
        history = self.content(x["history_content"]) + x["history_row"] * x["history_row_mask"]
        kinds = torch.where(x["history_kind"] < KINDS, x["history_kind"], torch.zeros_like(x["history_kind"]))
        history = history + self.history_kind(kinds)
        places = torch.arange(3, device=mask.device) * CONTEXT_BUCKETS
        context = self.context(x["context"] + places).flatten(1)
        mean = (history * mask.unsqueeze(-1)).sum(1) / torch.clamp(mask.sum(1, keepdim=True), min=1)
        shopper = self.shopper(torch.cat([x["user_row"] * x["user_row_mask"], mean, context], dim=-1))
        seen = self.attention(items, history, x["history_kind"], x["history_age"], mask)
        wide_user = self.user_numeric(x["user"]) + self.from_shopper(torch.cat([shopper, context], dim=-1))
        both = torch.cat([items, items * shopper.unsqueeze(1), seen], dim=-1)
        sums = self.item_numeric(x["item"]) + (wide_user.unsqueeze(1) + self.from_item(both))
        deep, wide = torch.split(sums, [self.sizes.hidden[0], self.heads], dim=-1)
        total: Tensor = self.out(torch.relu(self.deep(torch.relu(deep)))) + wide
        return total

    def observe(self, x: Inputs) -> None:
        """Take an encoded batch into the statistics of the numeric features."""
        self.user_numeric.observe(x["user"].cpu().numpy())
        self.item_numeric.observe(x["item"][x["mask"] > 0].cpu().numpy())

    def due(self, step: int) -> bool:
        """True when a step's batch should be observed: all while there are few values, every eighth later."""
        blocks = [*self.user_numeric.blocks, *self.item_numeric.blocks]
        return step % 8 == 0 or any(float(block.seen.max()) < _FEW for block in blocks)

    def adapted(self, spec: ModelSpec) -> "Ranker":
        """The same function over another list of features: new ones with zero weights, dropped ones gone."""
        users, items = ([ref.id for ref in refs] for refs in (spec.user_features, spec.item_features))
        new = Ranker(
            spec,
            self.sizes,
            blocks_after(self.user_numeric.ids, users),
            blocks_after(self.item_numeric.ids, items),
        )
        new = new.to(next(self.parameters()).device)
        fresh = {k: torch.zeros_like(v) if k.endswith(".weight") else v for k, v in new.state_dict().items()}
        new.load_state_dict(carry(self.state_dict(), fresh, self, new))
        return new

    def _initialise(self, deep: int) -> None:
        # The wide part starts at zero and the deep one small: the first scores are the prior, whatever the inputs.
        for numeric in (self.user_numeric, self.item_numeric):
            for block in numeric.blocks:
                nn.init.normal_(block.weight[:, :deep], std=1 / math.sqrt(block.weight.shape[0]))
        nn.init.normal_(self.content.weight, std=0.3)
        nn.init.normal_(self.context.weight, std=0.1)
        nn.init.normal_(self.history_kind.weight, std=0.1)
        with torch.no_grad():
            for layer in (self.from_shopper, self.from_item):
                layer.weight[deep:] = 0
            self.from_item.bias.zero_()
            nn.init.normal_(self.out.weight, std=0.05)
            self.out.bias.fill_(self.sizes.prior)


def carry(tensors: Mapping[str, Tensor], fresh: Mapping[str, Tensor], old: Ranker, new: Ranker) -> dict[str, Tensor]:
    """`tensors` of `old` (its state, or an optimiser's state by parameter name) in the shape of `new`.

    Columns of numeric features are matched by feature id; what only `new` has comes from `fresh`.
    """
    out = {name: tensors.get(name, value) for name, value in fresh.items()}
    for side in ("user_numeric", "item_numeric"):
        before, after = old.get_submodule(side), new.get_submodule(side)
        kept: dict[tuple[int, str], Tensor] = {}
        for name, leaf, ids in _leaves(side, before, tensors):
            kept |= {(i, leaf): row for i, row in zip(ids, _by_feature(leaf, tensors[name]), strict=True)}
        for name, leaf, ids in _leaves(side, after, fresh):
            rows = [kept.get((i, leaf), row) for i, row in zip(ids, _by_feature(leaf, fresh[name]), strict=True)]
            out[name] = _joined(leaf, torch.stack(rows))
    return out


def _leaves(side: str, numeric: nn.Module, tensors: Mapping[str, Tensor]) -> list[tuple[str, str, list[int]]]:
    """(full name, leaf, feature ids) of each tensor of the blocks."""
    assert isinstance(numeric, NumericInput)
    blocks = [(f"{side}.block.{b}.", ids) for b, ids in enumerate(numeric.ids)]
    return [(n, n.removeprefix(start), ids) for start, ids in blocks for n in tensors if n.startswith(start)]


def _by_feature(leaf: str, value: Tensor) -> Tensor:
    """With the features on the first axis: a weight [3n, outputs] holds each of them three times."""
    return value.reshape(COLUMNS, -1, value.shape[-1]).transpose(0, 1) if leaf == "weight" else value.movedim(-1, 0)


def _joined(leaf: str, value: Tensor) -> Tensor:
    """The way back from `_by_feature`."""
    return value.transpose(0, 1).flatten(0, 1).contiguous() if leaf == "weight" else value.movedim(0, -1).contiguous()
