"""What every ranking model is: the inputs by name, numeric features that come and go, scores of one candidate each.

A model scores candidates one by one for every head: a score does not depend on who else is in the list, so an example
that holds only some items of an impression trains the same function. Ids are never in the graph: rows are inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from services.common.errors import InvalidInput
from services.common.spec import ModelSpec, input_shapes
from services.trainer.inputs import COLUMNS, NumericInput, blocks_after

_FEW = 20_000
"""Values of a feature up to which every batch goes into its statistics."""

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Widths of the models; each uses those that it has."""

    hidden: tuple[int, int] = (64, 32)
    attention: int = 4
    """Ways of attending, each with its own query."""
    layers: int = 2
    """Encoder blocks of the transformer."""
    context: int = 4
    """Values per context field."""
    prior: float = -3.0
    """Logit every head starts from: about one click in twenty."""


class RankingModel(nn.Module, ABC):
    """Scores [B, N, heads]; inputs as `spec.input_shapes`."""

    model: ClassVar[str]
    """Name by which the setting `model`, checkpoints and manifests know it."""

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
        outputs = self.numeric_sums(spec, sizes)
        users, items = ([ref.id for ref in refs] for refs in (spec.user_features, spec.item_features))
        self.user_numeric = NumericInput(user_blocks or [users], users, outputs)
        self.item_numeric = NumericInput(item_blocks or [items], items, outputs)
        self.build(spec, sizes)

    def build(self, spec: ModelSpec, sizes: Sizes) -> None:
        """Make the layers that a model has beside its numeric features, and their first weights."""

    @staticmethod
    @abstractmethod
    def numeric_sums(spec: ModelSpec, sizes: Sizes) -> int:
        """How many linear sums the numeric features of a side go into."""

    @abstractmethod
    def logits(self, x: Inputs) -> Tensor:
        """Logits [B, N, heads], of padding too."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Probabilities [B, N, heads]; inputs in the order of `names`; 0 where `mask` is 0."""
        named = dict(zip(self.names, inputs, strict=True))
        return torch.sigmoid(self.logits(named)) * named["mask"].unsqueeze(-1)

    def observe(self, x: Inputs) -> None:
        """Take an encoded batch into the statistics of the numeric features."""
        self.user_numeric.observe(x["user"].cpu().numpy())
        self.item_numeric.observe(x["item"][x["mask"] > 0].cpu().numpy())

    def due(self, step: int) -> bool:
        """True when a step's batch should be observed: all while there are few values, every eighth later."""
        blocks = [*self.user_numeric.blocks, *self.item_numeric.blocks]
        return step % 8 == 0 or any(float(block.seen.max()) < _FEW for block in blocks)

    def adapted(self, spec: ModelSpec) -> Self:
        """The same function over another list of features: new ones with zero weights, dropped ones gone."""
        users, items = ([ref.id for ref in refs] for refs in (spec.user_features, spec.item_features))
        new = type(self)(
            spec,
            self.sizes,
            blocks_after(self.user_numeric.ids, users),
            blocks_after(self.item_numeric.ids, items),
        )
        new = new.to(next(self.parameters()).device)
        fresh = {k: torch.zeros_like(v) if k.endswith(".weight") else v for k, v in new.state_dict().items()}
        new.load_state_dict(carry(self.state_dict(), fresh, self, new))
        return new


def carry(
    tensors: Mapping[str, Tensor], fresh: Mapping[str, Tensor], old: RankingModel, new: RankingModel
) -> dict[str, Tensor]:
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
    """With the features on the first axis: a weight [COLUMNS × n, outputs] holds each of them that many times."""
    return value.reshape(COLUMNS, -1, value.shape[-1]).transpose(0, 1) if leaf == "weight" else value.movedim(-1, 0)


def _joined(leaf: str, value: Tensor) -> Tensor:
    """The way back from `_by_feature`."""
    return value.transpose(0, 1).flatten(0, 1).contiguous() if leaf == "weight" else value.movedim(0, -1).contiguous()
