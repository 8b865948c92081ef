"""Numbers by 64-bit key in plain arrays that grow: the memory of every model here."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.errors import CorruptState
from services.trainer.keyindex import ABSENT, KeyIndex, Keys, Slots

Arrays = dict[str, NDArray[Any]]
Blank = Callable[[Keys], Arrays]
"""What rows of keys hold before anything was learned; arrays [n, ...] by name, a function of each key alone."""


class KeyedRows:
    """Rows of one kind of id: a slot per key, several arrays side by side.

    A key that was never admitted reads as its blank row: a prediction for it is the one that learning would start from.

    >>> rows = KeyedRows(lambda keys: {"count": np.zeros(len(keys))})
    >>> rows.admit(np.array([7, 9, 7], np.uint64)).tolist()
    [0, 1, 0]
    >>> rows["count"][0] = 5
    >>> rows.gather(np.array([8, 7], np.uint64))["count"].tolist()
    [0.0, 5.0]
    """

    def __init__(self, blank: Blank) -> None:
        self._blank = blank
        self._index = KeyIndex()
        self._keys = np.zeros(0, np.uint64)
        self._arrays = blank(self._keys)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The array of a name, [capacity, ...]; a later `admit` may replace it."""
        return self._arrays[name]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, reserved room included."""
        return self._keys.nbytes + sum(array.nbytes for array in self._arrays.values())

    def admit(self, keys: Keys) -> Slots:
        """Slots [n] of keys, in the order of their first appearance where they are new."""
        slots = self._index.find(keys)
        if not len(slots) or slots.min() > ABSENT:
            return slots
        missing = keys[slots == ABSENT]
        fresh = missing[np.sort(np.unique(missing, return_index=True)[1])]
        self._append(fresh, self._blank(fresh))
        return self._index.find(keys)

    def gather(self, keys: Keys, names: tuple[str, ...] | None = None) -> Arrays:
        """Copies of the rows of keys, blank where a key is absent; `names` limits it to some arrays."""
        slots = self._index.find(keys)
        absent = slots == ABSENT
        found = self._blank(keys[absent])
        out = {}
        for name in names or tuple(self._arrays):
            source = self._arrays[name]
            out[name] = np.empty((len(keys), *source.shape[1:]), source.dtype)
            out[name][~absent] = source[slots[~absent]]
            out[name][absent] = found[name]
        return out

    def state(self) -> Arrays:
        """Keys and rows in use, as copies."""
        count = len(self)
        return {"keys": self._keys[:count].copy()} | {name: a[:count].copy() for name, a in self._arrays.items()}

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` gave.

        Raises:
            CorruptState: when an array is missing or is not shaped like this model's rows.
        """
        blank = self._blank(np.zeros(0, np.uint64))
        keys = state.get("keys")
        if keys is None or keys.ndim != 1 or keys.dtype != np.uint64 or len(np.unique(keys)) != len(keys):
            raise CorruptState("keys: must be different 64-bit keys")
        for name, like in blank.items():
            array = state.get(name)
            if array is None or array.shape != (len(keys), *like.shape[1:]) or array.dtype != like.dtype:
                raise CorruptState(
                    f"{name}: must have {len(keys)} rows of shape {like.shape[1:]} and type {like.dtype}"
                )
        self._index, self._keys, self._arrays = KeyIndex(), np.zeros(0, np.uint64), blank
        self._append(keys, {name: state[name] for name in blank})

    def _append(self, keys: Keys, rows: Arrays) -> None:
        begin, end = len(self), len(self) + len(keys)
        if end > len(self._keys):
            room = max(end, 2 * len(self._keys), 64)
            self._keys = _grown(self._keys, room)
            self._arrays = {name: _grown(array, room) for name, array in self._arrays.items()}
        self._index.insert(keys, np.arange(begin, end))
        self._keys[begin:end] = keys
        for name, array in self._arrays.items():
            array[begin:end] = rows[name]


def _grown(array: NDArray[Any], room: int) -> NDArray[Any]:
    out = np.zeros((room, *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out


def start_rows(keys: Keys, dim: int, sigma: float, seed: int) -> NDArray[np.float64]:
    """Normal numbers [n, dim] with deviation `sigma` that depend on each key and the seed alone.

    What a row starts from is the same in whatever order and batches its key came, and costs no memory.
    Uniform numbers are SplitMix64 (Steele, Lea and Flood, 2014), made normal after Box and Muller (1958).
    """
    half = np.arange(-(-dim // 2), dtype=np.uint64)
    first, second = (_uniform(keys[:, None], half[None, :] * np.uint64(2) + np.uint64(k), seed) for k in (0, 1))
    radius = sigma * np.sqrt(-2 * np.log(first))
    pairs = np.stack([radius * np.cos(2 * np.pi * second), radius * np.sin(2 * np.pi * second)], axis=2)
    return np.ascontiguousarray(pairs.reshape(len(keys), 2 * len(half))[:, :dim])


def _uniform(keys: Keys, places: Keys, seed: int) -> NDArray[np.float64]:
    """In (0, 1]."""
    step = np.uint64(0x9E3779B97F4A7C15)
    z = keys + (places + np.uint64(1)) * step + np.uint64(seed * 0xD1B54A32D192ED03 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) + 1) / 2.0**53


def prefixed(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Arrays under `prefix.name`, to put several tables into one state."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def within(prefix: str, state: Mapping[str, NDArray[Any]]) -> Arrays:
    """The way back from `prefixed`.

    >>> sorted(within("users", prefixed("users", {"a": np.zeros(1)}) | {"other": np.ones(1)}))
    ['a']
    """
    begin = f"{prefix}."
    return {name[len(begin) :]: array for name, array in state.items() if name.startswith(begin)}
