"""Continued masked-language pre-training: an encoder reads the shop's own texts before it learns from searches.

Devlin et al., 2019; Gururangan et al., 2020 ("Don't stop pretraining"). A sentence encoder comes without the head that
names hidden words, so a small one is made: a linear layer into the word embeddings. It learns alone first; errors of a
head that knows nothing would otherwise undo what the encoder knows.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from services.common.errors import InvalidInput
from services.text.folder import Ints
from services.trainer.files import write_folder
from services.trainer.hooks import NoHooks
from services.trainer.text.load import folder_of, transformer_of
from services.trainer.text.model import Text, to_tensors

MASKS = ("[MASK]", "<mask>")
"""What BERT's and RoBERTa's families write for a hidden word."""
_MOST_NORM = 1.0


@dataclass(frozen=True)
class Plan:
    """How it is done."""

    epochs: float = 1.0
    batch: int = 64
    rate: float = 2e-5
    head_rate: float = 1e-3
    head_first: float = 0.2
    """Share of the steps in which the head learns alone."""
    hidden: float = 0.15
    """Share of the words that are to be named; of these 80 % are masked, 10 % are other words, 10 % stay."""
    seed: int = 1


def pretrain(text: Text, texts: Sequence[str], plan: Plan, report: Callable[[float], None]) -> list[float]:
    """Teach the encoder, in place; `report` is told of texts read so far. Returns each step's loss.

    Raises InvalidInput when the tokens know no mask or there is no text.
    """
    known = [one for one in dict.fromkeys(texts) if one]
    if not known:
        raise InvalidInput("catalogue", "empty", "holds no text")
    mask_id = _mask_of(text)
    chance = np.random.Generator(np.random.Philox(key=[plan.seed, 0]))
    head, body = _head(text), text.model.body
    words = body.get_input_embeddings().weight
    rates = ((head, plan.head_rate), (body, plan.rate))
    groups = [{"params": part.parameters(), "lr": rate} for part, rate in rates]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    steps = _steps(len(known), plan, chance)
    losses = []
    text.model.train()
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        for number, places in enumerate(steps):
            body.requires_grad_(number >= plan.head_first * len(steps))
            ids, mask = text.tokens.items([known[place] for place in places])
            hidden, asked = masked(ids, mask, mask_id, len(words), plan.hidden, chance)
            losses.append(_step(text, head, words, optimiser, (hidden, mask), ids, asked))
            report(min((number + 1) * plan.batch, plan.epochs * len(known)))
    text.model.requires_grad_(True).eval()
    return losses


def masked(
    ids: Ints, mask: Ints, mask_id: int, words: int, share: float, chance: np.random.Generator
) -> tuple[Ints, NDArray[np.bool_]]:
    """Ids [B, T] with some hidden, and which are to be named. The marks at both ends are not; of every text one is."""
    last = mask.sum(1) - 1
    places = np.arange(ids.shape[1])[None]
    able = (places > 0) & (places < last[:, None])
    draw = np.where(able, chance.random(ids.shape), np.inf)
    asked = able & ((draw < share) | (draw == draw.min(1, keepdims=True)))
    kind = chance.random(ids.shape)
    out = np.where(asked & (kind < 0.8), mask_id, ids)
    out = np.where(asked & (kind >= 0.9), chance.integers(0, words, ids.shape), out)
    return out, asked


def write(text: Text, name: str, out: Path) -> None:
    """A sentence-transformers folder: that of the model it was made from with the new weights of the Transformer."""
    source = folder_of(name)[0]
    inside = transformer_of(source)

    def fill(staging: Path) -> None:
        patterns = ("model*.safetensors*", "pytorch_model*", "onnx", "openvino")
        skipped = {path for pattern in patterns for path in (source / inside).glob(pattern)}
        shutil.copytree(
            source,
            staging,
            dirs_exist_ok=True,
            ignore=lambda folder, names: {n for n in names if Path(folder) / n in skipped or n == "__pycache__"},
        )
        text.model.body.save_pretrained(staging / inside)

    write_folder(out, fill, NoHooks(), "pretrained")


def _step(
    text: Text,
    head: nn.Module,
    words: Tensor,
    optimiser: torch.optim.Optimizer,
    batch: tuple[Ints, Ints],
    ids: Ints,
    asked: NDArray[np.bool_],
) -> float:
    given, mask = to_tensors(batch)
    device = words.device
    found = text.model.body(input_ids=given.to(device), attention_mask=mask.to(device)).last_hidden_state
    chosen = torch.from_numpy(asked).to(device)
    loss = F.cross_entropy(F.linear(head(found[chosen]), words), torch.from_numpy(ids).to(device)[chosen])
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    moving = [value for group in optimiser.param_groups for value in group["params"] if value.grad is not None]
    if torch.isfinite(nn.utils.clip_grad_norm_(moving, _MOST_NORM)):
        optimiser.step()
    return float(loss.detach())


def _steps(count: int, plan: Plan, chance: np.random.Generator) -> list[NDArray[np.int64]]:
    """Places of the texts of each step: a new order in each round."""
    wanted = max(1, round(plan.epochs * count))
    rounds = [chance.permutation(count) for _ in range(-(-wanted // count))]
    order = np.concatenate(rounds)[:wanted]
    return [order[begin : begin + plan.batch] for begin in range(0, wanted, plan.batch)]


def _head(text: Text) -> nn.Linear:
    """Begins by passing on what it is given."""
    words = text.model.body.get_input_embeddings().weight
    head = nn.Linear(text.model.body.config.hidden_size, words.shape[1])
    with torch.no_grad():
        nn.init.eye_(head.weight)
        nn.init.zeros_(head.bias)
    return head.to(words.device)


def _mask_of(text: Text) -> int:
    found: Any = next((text.tokens.id_of(mark) for mark in MASKS if text.tokens.id_of(mark) is not None), None)
    if found is None:
        raise InvalidInput("tokenizer.json", "no_mask", f"knows none of {', '.join(MASKS)}")
    return int(found)
