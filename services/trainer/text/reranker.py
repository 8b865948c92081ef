"""Cross-encoders: any folder of a Transformer that classifies sequences, as a reranker's folder of ours.

Folders of the transformers library (`...ForSequenceClassification`) and of sentence-transformers' CrossEncoder are the
same. One label is the score; of two it is how much more likely the second one is than the first.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.common.errors import CorruptState, InvalidInput
from services.common.spec import Arrays
from services.text import folder as folders
from services.text.folder import RERANKER, Encoder, Tokenizer
from services.text.reranker import INPUTS, OUTPUT, PairTokenizer, tolerance
from services.trainer.champion import session
from services.trainer.hooks import Hooks
from services.trainer.text.export import PROBES, check_version, put, quantised, sample_of, traced
from services.trainer.text.load import MAX_TOKENS, identity, tokens_of, transformer, unreadable

LEAST_CORRELATION = 0.95
"""Of 8-bit scores with the float32 ones of the same pairs; below it the form is refused."""

Floats = NDArray[np.float32]


class PairScorer(nn.Module):
    """`body`: classifies sequences by one label or two."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Scores [B, 1] of tokens [B, T]."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: Tensor = self.body(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]


class Reranker:
    """A cross-encoder with its tokens."""

    def __init__(self, model: PairScorer, tokens: Tokenizer, about: Encoder) -> None:
        self.model, self.tokens, self.about = model, tokens, about
        self.tokenizer = PairTokenizer(tokens, about.inputs)

    def dated(self, created_us: int) -> "Reranker":
        """The same as made at a time."""
        return Reranker(self.model, self.tokens, replace(self.about, created_us=created_us))

    def scores(self, arrays: Arrays) -> Floats:
        """[B, 1] of what `tokenizer` gives."""
        with torch.no_grad():
            found: Floats = self.model(*(torch.from_numpy(array) for array in arrays.values())).numpy()
        return found


def load(name: str, max_tokens: int = MAX_TOKENS) -> Reranker:
    """The model of a folder. Raises InvalidInput whose field is the file that cannot be read."""
    folder = Path(name)
    if not folder.is_dir():
        raise InvalidInput("model", "missing", f"{folder} is no folder")
    body = _body(folder)
    text, most = tokens_of(folder, "")
    about = Encoder(
        name=folder.name,
        dim=1,
        max_tokens=min(max_tokens, most, getattr(body.config, "max_position_embeddings", most)),
        pooling="",
        source="",
        pad_id=int(getattr(body.config, "pad_token_id", 0) or 0),
        kind=RERANKER,
        inputs=INPUTS if getattr(body.config, "type_vocab_size", 0) > 1 else folders.INPUTS,
    )
    try:
        tokens = Tokenizer(text, about.max_tokens, about.pad_id)
    except CorruptState as error:
        raise unreadable("tokenizer.json", str(error)) from error
    model = PairScorer(body).eval()
    return Reranker(model, tokens, replace(about, source=identity(model, tokens)))


def export(made: Reranker, out: Path, int8: bool = False, hooks: Hooks | None = None) -> Encoder:
    """Write the folder; what is there is replaced. Raises CorruptState when the file answers otherwise than torch."""
    made.model.cpu().eval()
    sample = sample_of(made.about.pad_id)
    types = (torch.tensor([[0] * 4 + [1] * 4, [0] * 3 + [1] * 2 + [0] * 3]),)
    data = traced(made.model, (*sample, *types)[: len(made.about.inputs)], made.about.inputs, OUTPUT)
    # Many at once, which pads most of them, and some alone: other widths, no padding.
    of = made.tokenizer.pairs
    batches = [of(PROBES[0], PROBES), of(PROBES[4], PROBES[12:13]), of(PROBES[8], PROBES[:3])]
    expected = [made.scores(batch) for batch in batches]
    about = made.about
    _check(data, batches, expected, about)
    if int8:
        data = quantised(data)
        check_version(data)
        about = replace(about, precision="int8", quality=_quality(answers(data, batches[0]), expected[0]))
    golden = {f"in.{name}": array for name, array in batches[0].items()} | {f"out.{OUTPUT}": answers(data, batches[0])}
    return put(out, about, data, made.tokens, golden, hooks)


def answers(data: bytes, arrays: Arrays) -> Floats:
    """What onnxruntime says."""
    found: Floats = session(data).run([OUTPUT], arrays)[0]
    return found


def _body(folder: Path) -> Any:
    body, absent = transformer(folder, "AutoModelForSequenceClassification")
    if absent:
        raise unreadable("model.safetensors", f"lacks {len(absent)} weights, such as {absent[0]}: is it a classifier?")
    if body.config.num_labels not in (1, 2):
        raise unreadable("config.json", f"has {body.config.num_labels} labels; a score is one, or the second of two")
    return body


def _check(data: bytes, batches: list[Arrays], expected: list[Floats], about: Encoder) -> None:
    check_version(data)
    for batch, wanted in zip(batches, expected, strict=True):
        found, most = answers(data, batch), tolerance(about, wanted)
        gap = float(np.abs(found - wanted).max()) if np.isfinite(found).all() else float("inf")
        if not gap <= most:
            raise CorruptState(f"model.onnx: scores differ from the model's by {gap:.2g}, at most {most:.2g}")


def _quality(found: Floats, wanted: Floats) -> dict[str, float]:
    correlation = round(float(np.corrcoef(found[:, 0], wanted[:, 0])[0, 1]), 5)
    if not correlation >= LEAST_CORRELATION:
        raise CorruptState(f"model.onnx: 8-bit scores correlate with their own by {correlation}, at least "
                           f"{LEAST_CORRELATION}")  # fmt: skip
    return {"correlation": correlation}
