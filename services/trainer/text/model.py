"""A sentence encoder: a Transformer, its tokens pooled to one vector, dense layers where there are some, length 1."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from services.text.folder import Encoder, Ints, Tokenizer

Pooling = Literal["mean", "cls", "max"]
POOLINGS: tuple[str, ...] = get_args(Pooling)

BATCH = 64
"""Texts encoded at a time."""


class TextEncoder(nn.Module):
    """Reed, Gurevych: Sentence-BERT (2019). `body` is any Transformer of the transformers library."""

    def __init__(self, body: Any, pooling: Pooling, after: nn.Module) -> None:
        super().__init__()
        self.body, self.after = body, after
        self._pooling = pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors [B, dim] of length 1, of ids and mask [B, T]."""
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        out: Tensor = F.normalize(self.after(pooled(hidden, attention_mask, self._pooling)), dim=-1)
        return out

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The blocks of the Transformer, lowest first: its longest list of modules."""
        lists = [module for module in self.body.modules() if isinstance(module, nn.ModuleList)]
        return list(max(lists, key=len, default=()))


def pooled(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Vectors [B, H] of tokens [B, T, H]; padding counts for nothing.

    >>> tokens = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> [pooled(tokens, torch.tensor([[1, 1, 0]]), way).item() for way in ("mean", "cls", "max")]
    [2.0, 1.0, 3.0]
    """
    if pooling == "cls":
        return hidden[:, 0]
    kept = mask.unsqueeze(-1).to(hidden.dtype)
    if pooling == "max":
        return hidden.masked_fill(kept == 0, torch.finfo(hidden.dtype).min).amax(1)
    return (hidden * kept).sum(1) / kept.sum(1).clamp(min=1)


class Text:
    """An encoder with its tokens: what is loaded, tuned and exported."""

    def __init__(self, model: TextEncoder, tokens: Tokenizer, about: Encoder) -> None:
        self.model, self.tokens, self.about = model, tokens, about

    def dated(self, created_us: int) -> "Text":
        """The same as made at a time."""
        return Text(self.model, self.tokens, replace(self.about, created_us=created_us))

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [len(texts), dim] of queries."""
        return self._vectors(texts, self.tokens.queries)

    def items(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [len(texts), dim] of titles."""
        return self._vectors(texts, self.tokens.items)

    def _vectors(self, texts: Sequence[str], tokens: Any) -> NDArray[np.float32]:
        """Like lengths go together, which saves padding."""
        out = np.zeros((len(texts), self.about.dim), np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        device = next(self.model.parameters()).device
        was, _ = self.model.training, self.model.eval()
        with torch.no_grad():
            for begin in range(0, len(texts), BATCH):
                places = order[begin : begin + BATCH]
                ids, mask = to_tensors(tokens([texts[place] for place in places]))
                out[places] = self.model(ids.to(device), mask.to(device)).cpu().numpy()
        self.model.train(was)
        return out


def to_tensors(pair: tuple[Ints, Ints]) -> tuple[Tensor, Tensor]:
    """Ids and mask for torch."""
    return torch.from_numpy(pair[0]), torch.from_numpy(pair[1])
