"""Which weights of an encoder move in an update: none, all, the top layers, or low-rank adapters beside them.

A way is named in one line with what it is given, like the strategies of the ranker (`strategies/expression.py`):
`lora(8, 16, 0.0005), replay(2000, 0.5)`. What is released is always a plain encoder: adapters are merged into a copy.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from services.trainer import calls
from services.trainer.calls import Number
from services.trainer.text.model import TextEncoder
from services.trainer.text.replay import Replay
from services.trainer.text.variations import Varied

State = dict[str, Tensor]


class Way(Protocol):
    """How an encoder is made ready, and what it is after a step."""

    rate: float
    """Of AdamW."""

    def begin(self, model: TextEncoder) -> None:
        """Say which weights move (`requires_grad`), in place."""
        ...

    def term(self, model: TextEncoder) -> Tensor | None:
        """What is added to the loss; None: nothing."""
        ...

    def stepped(self, model: TextEncoder, steps: int) -> None:
        """Weights have moved so many times; gradients are still there."""
        ...

    def merged(self, model: TextEncoder) -> TextEncoder:
        """A copy without adapters, to be released."""
        ...

    def state(self, model: TextEncoder) -> State:
        """What it remembers beside weights that move."""
        ...

    def load(self, model: TextEncoder, state: Mapping[str, Tensor]) -> None:
        """Take `state` in."""
        ...


class Frozen:
    """Nothing moves: what others are compared with."""

    rate = 0.0

    def begin(self, model: TextEncoder) -> None:
        """See `Way`."""
        model.requires_grad_(False)

    def term(self, model: TextEncoder) -> Tensor | None:
        """See `Way`: nothing."""
        return None

    def stepped(self, model: TextEncoder, steps: int) -> None:
        """See `Way`: nothing."""

    def merged(self, model: TextEncoder) -> TextEncoder:
        """See `Way`."""
        return copy.deepcopy(model)

    def state(self, model: TextEncoder) -> State:
        """See `Way`: nothing."""
        return {}

    def load(self, model: TextEncoder, state: Mapping[str, Tensor]) -> None:
        """See `Way`: nothing."""


class Full(Frozen):
    """Every weight moves."""

    def __init__(self, rate: float = 2e-5) -> None:
        self.rate = rate

    def begin(self, model: TextEncoder) -> None:
        """See `Way`."""
        model.requires_grad_(True)


class TopLayers(Full):
    """The last blocks and what comes after them move; the blocks below and the embeddings stay."""

    def __init__(self, layers: float = 2, rate: float = 5e-5) -> None:
        super().__init__(rate)
        self._layers = int(layers)

    def begin(self, model: TextEncoder) -> None:
        """See `Way`."""
        model.requires_grad_(False)
        for part in (*model.layers[-self._layers :], model.after):
            part.requires_grad_(True)


class LowRank(Full):
    """LoRA (Hu et al., 2022) on every linear layer: W0 + (alpha / rank) · B · A, and W0 stays."""

    def __init__(self, rank: float = 8, alpha: float = 16, rate: float = 5e-4) -> None:
        super().__init__(rate)
        self._rank, self._alpha = int(rank), alpha

    def begin(self, model: TextEncoder) -> None:
        """See `Way`."""
        from peft import get_peft_model

        model.requires_grad_(False)
        model.body = get_peft_model(model.body, self._config())

    def merged(self, model: TextEncoder) -> TextEncoder:
        """See `Way`."""
        out = copy.deepcopy(model)
        body: Any = out.body
        out.body = body.merge_and_unload()
        return out

    def _config(self) -> Any:
        from peft import LoraConfig

        return LoraConfig(r=self._rank, lora_alpha=self._alpha, target_modules="all-linear", lora_dropout=0.0)


class AdaptiveRank(LowRank):
    """AdaLoRA (Zhang et al., 2023): W0 + P · Λ · Q; a budget of directions goes to the layers that gain by them.

    After a tenth of `steps` directions are taken away, down to the share `budget` after half of them.
    """

    def __init__(self, rank: float = 8, budget: float = 0.5, rate: float = 5e-4, steps: float = 1000) -> None:
        super().__init__(rank, 2 * rank, rate)
        self._budget, self._steps = budget, int(steps)

    def begin(self, model: TextEncoder) -> None:
        """See `Way`: P and Q begin orthonormal, as they are meant to stay; Λ = 0 leaves the encoder as it is."""
        super().begin(model)
        for name, value in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                nn.init.orthogonal_(value)

    def term(self, model: TextEncoder) -> Tensor | None:
        """See `Way`: P and Q are pulled to orthogonality."""
        pulls = [_skew(value) for name, value in model.named_parameters() if "lora_A" in name or "lora_B" in name]
        return 0.1 * torch.stack(pulls).mean()

    def stepped(self, model: TextEncoder, steps: int) -> None:
        """See `Way`: importance is counted, and now and then directions are masked."""
        if steps < self._steps:
            _adapters(model).update_and_allocate(steps)

    def state(self, model: TextEncoder) -> State:
        """See `Way`: importance."""
        counts = _adapters(model).rankallocator
        return {f"{kind}/{n}": v for kind in _IMPORTANCE for n, v in getattr(counts, kind).items()}

    def load(self, model: TextEncoder, state: Mapping[str, Tensor]) -> None:
        """See `Way`."""
        counts = _adapters(model).rankallocator
        for kind in _IMPORTANCE:
            found = {n.partition("/")[2]: v.clone() for n, v in state.items() if n.startswith(f"{kind}/")}
            setattr(counts, kind, found)

    def _config(self) -> Any:
        from peft import AdaLoraConfig

        begin, end = max(1, self._steps // 10), max(1, self._steps // 2)
        return AdaLoraConfig(
            init_r=self._rank, target_r=max(1, round(self._budget * self._rank)), lora_alpha=self._alpha,
            target_modules="all-linear", lora_dropout=0.0, tinit=begin, tfinal=end, deltaT=1, total_step=self._steps,
        )  # fmt: skip


_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")

WAYS: Mapping[str, calls.Way] = {
    "frozen": calls.Way(Frozen),
    "full": calls.Way(Full, (Number("rate", 1e-8, 1, 2e-5),)),
    "top": calls.Way(TopLayers, (Number("layers", 1, 100, 2), Number("rate", 1e-8, 1, 5e-5))),
    "lora": calls.Way(
        LowRank, (Number("rank", 1, 256, 8), Number("alpha", 0.01, 1e4, 16), Number("rate", 1e-8, 1, 5e-4))
    ),
    "adalora": calls.Way(
        AdaptiveRank,
        (
            Number("rank", 1, 256, 8),
            Number("budget", 0.01, 1, 0.5),
            Number("rate", 1e-8, 1, 5e-4),
            Number("steps", 10, 1e9, 1000),
        ),
    ),
    "replay": calls.Way(Replay, (Number("kept", 1, 1e6, 2000), Number("share", 0.01, 0.95, 0.5))),
    "varied": calls.Way(Varied, (Number("share", 0.01, 1, 0.3),)),
}


@dataclass(frozen=True)
class Line:
    """What a line names: the way, and what stands beside it."""

    way: Way
    replay: Replay | None = None
    varied: Varied | None = None


def parse(text: str) -> Line:
    """What a line says. Raises ValueError, with a sentence."""
    made = [calls.made(node, WAYS) for node in calls.nodes(text, "lora(8), replay(2000, 0.5)")]
    replays = [part for part in made if isinstance(part, Replay)]
    varied = [part for part in made if isinstance(part, Varied)]
    ways: list[Way] = [part for part in made if not isinstance(part, Replay | Varied)]
    if len(ways) != 1 or len(replays) > 1 or len(varied) > 1:
        beside = "replay and varied at most once each beside it"
        raise ValueError(f"{text!r} must name one way of {', '.join(WAYS)}, and {beside}")
    return Line(ways[0], replays[0] if replays else None, varied[0] if varied else None)


def _adapters(model: TextEncoder) -> Any:
    body: Any = model.body
    return body.base_model


def _skew(matrix: nn.Parameter) -> Tensor:
    """Squared distance of the directions of a factor from being orthonormal; they lie along its shorter side."""
    rows = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return (rows @ rows.T - torch.eye(len(rows)).to(rows)).square().sum()
