"""An encoder as a folder of ours (services/text/folder.py): ONNX that Triton reads, checked against torch."""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from services.common.errors import CorruptState
from services.common.tensors import save
from services.text.categories import FILE, Categories
from services.text.folder import INPUTS, OUTPUT, Encoder, Ints, Tokenizer
from services.trainer.champion import session
from services.trainer.export import MOST_IR, OPSET
from services.trainer.files import digest, write_folder
from services.trainer.hooks import Hooks, NoHooks
from services.trainer.text.model import Text, to_tensors

TOLERANCE = 1e-4
"""Largest difference of a number between the exported file and the model; vectors have length 1."""
LEAST_COSINE = 0.95
"""Of an 8-bit vector with its float32 one; below it the form is refused."""

PROBES = (
    "red shoes", "wireless mouse", "4 ft. x 8 ft. plywood, 3/4 in.", "cordless drill 18 V with two batteries and case",
    "chair", "organic green tea 100 bags", "usb-c cable 2m", "men's waterproof hiking jacket, size L, dark blue",
    "lamp", "children's book about dinosaurs", "how do I return an order that arrived damaged?", "coffee machine",
    "stainless steel kitchen sink, 33 in. double bowl, undermount, with strainer and bottom grid included", "paint",
    "12-gauge angle bracket", "phone case",
)  # fmt: skip
"""Texts of several lengths that an export is checked and an 8-bit form is judged by."""

Arrays = Mapping[str, NDArray[Any]]


def export(
    text: Text, out: Path, int8: bool = False, hooks: Hooks | None = None, categories: Categories | None = None
) -> Encoder:
    """Write the folder; what is there is replaced. Raises CorruptState when the file answers otherwise than torch.

    `categories`: what tells a query's category by the vectors of `text`.
    """
    model = text.model.cpu().eval()
    batches = _batches(text)
    with torch.no_grad():
        expected = [model(*to_tensors(batch)).numpy() for batch in batches]
    data = onnx_bytes(text)
    check(data, batches, expected)
    about = text.about
    if int8:
        data = quantised(data)
        check_version(data)
        about = replace(about, precision="int8", quality=_quality(data, batches, expected))
    more = {FILE: categories.to_bytes()} if categories is not None else {}
    return put(out, about, data, text.tokens, _golden(data, batches[0]), hooks, more)


def put(
    out: Path,
    about: Encoder,
    data: bytes,
    tokens: Tokenizer,
    golden: Arrays,
    hooks: Hooks | None,
    more: Mapping[str, bytes] | None = None,
) -> Encoder:
    """Write the folder of a model that was checked, and `more` files; returns what it holds."""

    def fill(staging: Path) -> None:
        (staging / "model.onnx").write_bytes(data)
        (staging / "tokenizer.json").write_text(tokens.to_json(), encoding="utf-8")
        (staging / "golden.safetensors").write_bytes(save(dict(golden)))
        for name, content in (more or {}).items():
            (staging / name).write_bytes(content)
        files = {path.name: digest(path) for path in sorted(staging.iterdir())}
        (staging / "encoder.json").write_text(replace(about, files=files).to_json() + "\n")

    write_folder(out, fill, hooks or NoHooks(), "export")
    return Encoder(**json.loads((out / "encoder.json").read_text()))


def onnx_bytes(text: Text) -> bytes:
    """The encoder as ONNX with free axes B and T."""
    return traced(text.model, sample_of(text.about.pad_id), INPUTS, OUTPUT)


def sample_of(pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask to trace by. One row is padded: with a mask of ones alone, the trace would leave the mask out."""
    return torch.full((2, 8), pad_id), torch.tensor([[1] * 8, [1] * 5 + [0] * 3])


def traced(model: nn.Module, sample: tuple[torch.Tensor, ...], inputs: Sequence[str], output: str) -> bytes:
    """A model as ONNX with free axes B and T."""
    target, free = io.BytesIO(), {0: "B", 1: "T"}
    with warnings.catch_warnings():
        # The TorchScript path is marked as old; the newer one writes an IR that production Triton refuses.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            sample,
            target,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes={name: free for name in inputs} | {output: {0: "B"}},
        )
    return target.getvalue()


def quantised(data: bytes) -> bytes:
    """Weights of matrix products as 8-bit integers by channel, activations scaled as they come."""
    import tempfile

    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(data)
        options = {"MatMulConstBOnly": True}
        quantize_dynamic(
            source, target, op_types_to_quantize=["MatMul", "Gather"], per_channel=True, weight_type=QuantType.QInt8,
            extra_options=options,
        )  # fmt: skip
        return target.read_bytes()


def check(data: bytes, batches: list[tuple[Ints, Ints]], expected: list[NDArray[np.float32]]) -> None:
    """Raises CorruptState when the file is newer than Triton reads, or a vector differs from the model's."""
    check_version(data)
    worst = max(
        float(np.abs(found - wanted).max()) if np.isfinite(found).all() else float("inf")
        for found, wanted in zip(vectors(data, batches), expected, strict=True)
    )
    if not worst <= TOLERANCE:
        raise CorruptState(f"model.onnx: vectors differ from the model's by {worst:.2g}, at most {TOLERANCE}")


def vectors(data: bytes, batches: list[tuple[Ints, Ints]]) -> list[NDArray[np.float32]]:
    """What onnxruntime answers, batch by batch."""
    runtime = session(data)
    return [runtime.run([OUTPUT], dict(zip(INPUTS, batch, strict=True)))[0] for batch in batches]


def check_version(data: bytes) -> None:
    """Raises CorruptState when the file is newer than Triton reads."""
    graph = onnx.load_from_string(data)
    versions = {entry.domain: entry.version for entry in graph.opset_import}
    if graph.ir_version > MOST_IR or versions.get("", 0) > OPSET:
        raise CorruptState(f"model.onnx: IR {graph.ir_version}, opset {versions}; at most {MOST_IR} and {OPSET}")


def _batches(text: Text) -> list[tuple[Ints, Ints]]:
    """All probes at once, which pads most of them, and some alone: other widths, no padding."""
    every = text.tokens.items(PROBES)
    return [every, text.tokens.queries(PROBES[:1]), text.tokens.items(PROBES[12:13])]


def _golden(data: bytes, batch: tuple[Ints, Ints]) -> dict[str, NDArray[Any]]:
    inputs = dict(zip(INPUTS, batch, strict=True))
    return {f"in.{name}": value for name, value in inputs.items()} | {f"out.{OUTPUT}": vectors(data, [batch])[0]}


def _quality(data: bytes, batches: list[tuple[Ints, Ints]], expected: list[NDArray[np.float32]]) -> dict[str, float]:
    cosines = (vectors(data, batches[:1])[0] * expected[0]).sum(1)
    mean, least = round(float(cosines.mean()), 5), round(float(cosines.min()), 5)
    if not least >= LEAST_COSINE:
        raise CorruptState(f"model.onnx: an 8-bit vector has cosine {least} with its own, at least {LEAST_COSINE}")
    return {"cosine_mean": mean, "cosine_least": least}
