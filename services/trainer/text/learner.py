"""Updates of an encoder from pairs of queries and items. The same seed and pairs give the same bits on one thread."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from services.common.ids import key_of
from services.trainer.text.load import identity
from services.trainer.text.losses import POSITIVE, contrastive, graded, wrong_answers
from services.trainer.text.model import Text, to_tensors
from services.trainer.text.replay import Pairs
from services.trainer.text.ways import parse

_LINE_RATE = 0.01
_MOST_NORM = 1.0


@dataclass(frozen=True)
class Objective:
    """What is learned."""

    temperature: float = 0.05
    grades: float = 1.0
    """Weight of the grades' squared error, where pairs have grades, beside the contrastive loss."""
    contrastive: float = 1.0


class Learner:
    """One encoder that keeps learning."""

    def __init__(self, text: Text, way: str, objective: Objective | None = None, seed: int = 0) -> None:
        """Learn on `text`, in place, by a way such as `lora(8), replay(2000)`. Raises ValueError for another line."""
        line = parse(way)
        self._way, self._replay, self._varied = line.way, line.replay, line.varied
        if self._replay:
            self._replay.seed = seed
        self.text, self._objective, self._seed = text, objective or Objective(), seed
        with _chance(key_of(f"adapters {seed}")):
            self._way.begin(text.model)
        self.line = nn.Parameter(torch.tensor([1.0, 0.0]))
        """Grade = line[0] · cosine + line[1]."""
        self._moving = {name: value for name, value in text.model.named_parameters() if value.requires_grad}
        groups = [{"params": list(self._moving.values()), "lr": self._way.rate}] if self._moving else []
        self._optimiser = torch.optim.AdamW(
            [*groups, {"params": [self.line], "lr": _LINE_RATE, "weight_decay": 0.0}], weight_decay=0.01
        )
        self.steps = 0

    @property
    def moving(self) -> int:
        """Numbers of the encoder that may move."""
        return sum(value.numel() for value in self._moving.values())

    def learn(self, pairs: Pairs) -> float:
        """One step; returns its loss, before it. Without pairs, or where a gradient is not finite, nothing moves."""
        if not len(pairs):
            return 0.0
        batch = self._replay.mixed(pairs) if self._replay else pairs
        self.steps += 1
        with _chance(key_of(f"step {self._seed} {self.steps}")):
            self.text.model.train()
            loss = self.loss(batch, self._asked(batch.queries))
            term = self._way.term(self.text.model) if self._moving else None
            total = loss if term is None else loss + term
            self._optimiser.zero_grad()
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(self._moving.values(), _MOST_NORM)
                if torch.isfinite(norm + total.detach()):
                    self._optimiser.step()
                    self._way.stepped(self.text.model, self.steps)
            self.text.model.eval()
        return float(loss.detach())

    def loss(self, batch: Pairs, asked: Sequence[str] = ()) -> Tensor:
        """Of a batch, on the weights as they are; `asked`: its queries in the forms that are encoded."""
        queries = self._once(asked or batch.queries, self.text.tokens.queries)
        items = self._once([*batch.items, *batch.negatives], self.text.tokens.items)
        aim, grades = self._objective, torch.tensor(batch.graded, device=queries.device)
        chosen = (grades >= POSITIVE).float()
        wrong = wrong_answers(batch.queries, batch.items, batch.negatives).to(queries.device)
        total = aim.contrastive * contrastive(queries, items, wrong, chosen, aim.temperature)
        if batch.grades:
            cosines = (queries * items[: len(batch)]).sum(1)
            line = self.line.to(queries.device)
            total = total + aim.grades * graded(cosines, grades, line[0], line[1])
        return total

    def released(self) -> Text:
        """A copy to export: a plain encoder, whatever learned it."""
        model = self._way.merged(self.text.model).eval()
        return Text(model, self.text.tokens, replace(self.text.about, source=identity(model, self.text.tokens)))

    def forget(self, owner: int) -> int:
        """Let the pairs of a shopper that replay keeps go; returns how many. Weights that learned them stay."""
        return self._replay.forget(owner) if self._replay else 0

    def state(self) -> dict[str, Tensor]:
        """Everything that a restart needs beside the encoder that it began with."""
        found = {f"weights/{name}": value.detach().clone() for name, value in self._named().items()}
        for name, value in self._named().items():
            found |= {f"adam/{name}/{kind}": v.clone() for kind, v in self._optimiser.state.get(value, {}).items()}
        found |= {f"way/{name}": value.clone() for name, value in self._way.state(self.text.model).items()}
        return found | {"steps": torch.tensor(self.steps)} | (self._replay.state() if self._replay else {})

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`, bit for bit."""
        with torch.no_grad():
            for name, value in self._named().items():
                value.copy_(state[f"weights/{name}"])
                memory = {kind: _beside(value, kind, v) for kind, v in _under(state, f"adam/{name}/").items()}
                if memory:
                    self._optimiser.state[value] = memory
        self._way.load(self.text.model, _under(state, "way/"))
        if self._replay:
            self._replay.load(state)
        self.steps = int(state["steps"])

    def _named(self) -> dict[str, nn.Parameter]:
        return {**self._moving, "line": self.line}

    def _asked(self, queries: Sequence[str]) -> Sequence[str]:
        if self._varied is None:
            return queries
        seed = [key_of(f"varied {self._seed}"), self.steps]
        return self._varied.forms(queries, np.random.Generator(np.random.Philox(key=seed)))

    def _once(self, texts: Sequence[str], tokens: Any) -> Tensor:
        """Vectors [n, D]; each text goes through once."""
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        device = next(self.text.model.parameters()).device
        ids, mask = to_tensors(tokens(list(places)))
        out: Tensor = self.text.model(ids.to(device), mask.to(device))[[places[text] for text in texts]]
        return out


@contextmanager
def _chance(seed: int) -> Iterator[None]:
    """Random numbers of torch from a seed, inside; what was outside goes on as if nothing had been."""
    with torch.random.fork_rng():
        torch.manual_seed(seed >> 1)
        yield


def _beside(weight: Tensor, kind: str, value: Tensor) -> Tensor:
    """The optimiser's memory where its weight is; it counts its steps on the processor."""
    return value.clone() if kind == "step" else value.clone().to(weight.device)


def _under(state: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
