"""Examples that a strategy keeps, as arrays for a checkpoint."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from freshrank.v1.events_pb2 import Impression
from torch import Tensor

from services.trainer.examples import Example

_PLAIN = ("kind", "time_us", "event_time_us", "received_us", "impression_id", "user", "items")


def pack(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Everything of some examples; `unpack` gives equal ones."""
    plain = json.dumps([{name: getattr(example, name) for name in _PLAIN} for example in examples]).encode()
    blobs = [example.impression.SerializeToString() for example in examples]
    return {
        "plain": _bytes(plain),
        "impressions": _bytes(b"".join(blobs)),
        "lengths": torch.tensor([len(blob) for blob in blobs], dtype=torch.int64),
        "labels": torch.from_numpy(np.concatenate([np.zeros(0, np.uint8), *(e.labels for e in examples)])),
        "weights": torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *(e.weights for e in examples)])),
    }


def unpack(packed: Mapping[str, Tensor]) -> list[Example]:
    """The way back."""
    plain = json.loads(packed["plain"].numpy().tobytes() or b"[]")
    blobs, lengths = packed["impressions"].numpy().tobytes(), packed["lengths"].tolist()
    labels, weights = packed["labels"].numpy(), packed["weights"].numpy()
    out, at, item = [], 0, 0
    for fields, length in zip(plain, lengths, strict=True):
        impression = Impression.FromString(blobs[at : at + length])
        count = len(fields["items"])
        part = slice(item, item + count)
        out.append(Example(**fields, labels=labels[part].copy(), weights=weights[part].copy(), impression=impression))
        at, item = at + length, item + count
    return out


def _bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())
