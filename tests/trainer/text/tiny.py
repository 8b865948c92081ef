"""A small random BERT with words of its own, as a sentence-transformers folder."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel

WORDS = [
    *("red", "blue", "green", "black", "white", "shoe", "boot", "lamp", "table", "chair", "drill", "mouse", "cable"),
    *("paint", "door", "window", "sink", "tap", "tile", "rug", "small", "large", "long", "short", "new", "old"),
    *("cheap", "fine", "wood", "steel", "glass", "stone", "cotton", "wool", "leather", "kitchen", "garden", "bath"),
]
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def folder(path: Path, pooling: str = "mean", dense: int = 0, seed: int = 0, most: int = 32) -> Path:
    """Write one; `dense` > 0 adds a layer of that width."""
    path.mkdir(parents=True, exist_ok=True)
    vocabulary = known()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(shape(vocabulary), add_pooling_layer=False).save_pretrained(path)
        layer = torch.nn.Linear(32, dense) if dense else None
    tokens(vocabulary).save(str(path / "tokenizer.json"))
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), "Normalize"]
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds[1:], 1))]
    entries = [
        {"idx": number, "name": str(number), "path": where, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, where) in enumerate(zip(kinds, paths, strict=True))
    ]
    write(path / "modules.json", entries)
    write(path / "sentence_bert_config.json", {"max_seq_length": most, "do_lower_case": False})
    write(path / "1_Pooling/config.json", {"pooling_mode": pooling, "embedding_dimension": 32})
    if layer is not None:
        about = {"in_features": 32, "out_features": dense, "bias": True}
        write(path / "2_Dense/config.json", about | {"activation_function": "torch.nn.modules.activation.Tanh"})
        save_file({f"linear.{name}": value for name, value in layer.state_dict().items()},
                  path / "2_Dense/model.safetensors")  # fmt: skip
    return path


def reranker(path: Path, labels: int = 1, seed: int = 0, types: int = 2) -> Path:
    """A cross-encoder's folder as transformers writes it; `types` 1: it does not tell the two texts apart."""
    path.mkdir(parents=True, exist_ok=True)
    vocabulary = known()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = shape(vocabulary, num_labels=labels, type_vocab_size=types)
        config.initializer_range = 0.2
        BertForSequenceClassification(config).save_pretrained(path)
    tokens(vocabulary).save(str(path / "tokenizer.json"))
    return path


def known() -> dict[str, int]:
    """Numbers of all tokens."""
    return {word: place for place, word in enumerate((*MARKS, *WORDS, "##s", "##es", "1", "2", "3", "4"))}


def shape(vocabulary: dict[str, int], **others: int) -> BertConfig:
    """Of the Transformer."""
    return BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=64, **others,
    )  # fmt: skip


def tokens(vocabulary: dict[str, int]) -> Tokenizer:
    """WordPiece as BERT has it; like a downloaded file, it pads and cuts in a way of its own."""
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    marks = [(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    made.enable_truncation(16)
    made.enable_padding(length=16)
    return made


def write(path: Path, content: Any) -> None:
    """JSON into a file whose folder may be new."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
