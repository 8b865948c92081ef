"""Hashes that must be the same in every process and every release.

Partition numbers follow Kafka's own default (murmur2), so that producers in other languages agree
with ours without a library. Keys of tables are 64-bit murmur3 hashes of the raw id.
"""

from collections.abc import Iterable
from functools import lru_cache

import mmh3
import numpy as np
from numpy.typing import NDArray

_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Hash bytes as Kafka's DefaultPartitioner does; returns an unsigned 32-bit number.

    Source: org.apache.kafka.common.utils.Utils.murmur2.

    >>> murmur2(b"21") - 2**32
    -973932308
    """
    m, length = 0x5BD1E995, len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & _MASK
        k = (k ^ (k >> 24)) * m & _MASK
        h = (h * m & _MASK) ^ k
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & _MASK
    h = (h ^ (h >> 13)) * m & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=200_000)
def partition_of(key: str, partitions: int) -> int:
    """Partition of a key, as Kafka's default partitioner chooses it.

    >>> partition_of("user-1", 4) in range(4)
    True
    """
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def key_of(raw_id: str) -> int:
    """64-bit table key of a raw id, unsigned. Two of ten million ids collide with probability 3e-6."""
    return mmh3.hash64(raw_id.encode(), signed=False)[0]


def keys_of(raw_ids: Iterable[str]) -> NDArray[np.uint64]:
    """Table keys of many ids, shape [n]."""
    return np.fromiter((mmh3.hash64(raw.encode(), signed=False)[0] for raw in raw_ids), dtype=np.uint64)


def share_of(text: str, salt: str) -> float:
    """A number in [0, 1) that is always the same for one text and salt: for sticky shares and sampling.

    >>> 0 <= share_of("user-1", "watch") < 1
    True
    """
    return mmh3.hash(f"{salt}:{text}".encode(), signed=False) / 2**32
