"""How far inputs and labels have moved: samples of impressions, and the population stability index of two of them.

The index of a feature is sum((a - e) ln(a / e)) over bins, e and a the shares of the older and the newer sample: the
symmetric divergence of Jeffreys (1946), by its name in credit scoring. Bins are the tenths of the older sample, one
below its least value, one above its largest, and one for missing values, so that a feature that goes missing has moved.
Every bin that either sample fills has half a count added in both: an empty one is surprising, not infinitely so.

Of samples of n and m independent values of one distribution the index is about chi-squared of (bins - 1) degrees
times 1/n + 1/m (Yurdakul and Naranjo, 2020): with 12 bins and two times 2,000 its mean is 0.011 and one in a million is
above 0.05. Values of one shopper depend on each other, which makes it larger; above 0.2 counts as moved.

Nothing here is in checkpoints: after a restart the first impressions are the older sample. No weight depends on it.
"""

from collections import Counter, deque
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]

CANDIDATES = 4
"""Candidates of an impression whose features are looked at; more of one list say little that is new."""
LABEL = "label share"
"""What the labels are called among the features: impressions clicked over impressions that appeared."""
_TENTHS = 10
_BINS = _TENTHS + 3
_ADDED = 0.5


@dataclass(frozen=True)
class Sample:
    """Impressions learned from: `user` [n, F] and `item` [m, G] features, and the ids of those clicked meanwhile."""

    names: tuple[str, ...]
    """Of the F features of shoppers, then of the G of candidates."""
    user: Floats
    item: Floats
    clicked: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Moved:
    """The feature that has moved most, and its index."""

    name: str
    index: float

    def __str__(self) -> str:
        return f"psi of {self.name} {self.index:.2f}"


def drawn(learned: NDArray[np.bool_], seed: int) -> tuple[Counts, Counts]:
    """Places (impression, candidate) of at most CANDIDATES of each impression, drawn from those with True [B, N].

    >>> drawn(np.array([[True, False], [False, False]]), 1)
    (array([0]), array([0]))
    """
    order = np.where(learned, np.random.default_rng(seed).random(learned.shape), 2.0)
    places = np.argsort(order, axis=1)[:, :CANDIDATES]
    number = np.broadcast_to(np.arange(len(learned))[:, None], places.shape)
    chosen = np.take_along_axis(learned, places, axis=1)
    return number[chosen], places[chosen]


def stability_index(expected: Counts, actual: Counts) -> NDArray[np.float64]:
    """Population stability index [...] of counts [..., bins]; bins that both leave empty do not exist.

    >>> round(float(stability_index(np.array([60, 40, 0]), np.array([30, 70, 0]))), 4)
    0.3681
    """
    used = (expected + actual) > 0
    e, a = ((counts + _ADDED) * used for counts in (expected, actual))
    e, a = e / e.sum(-1, keepdims=True), a / a.sum(-1, keepdims=True)
    ratio = np.divide(a, e, out=np.ones_like(a), where=used)
    index: NDArray[np.float64] = ((a - e) * np.log(ratio)).sum(-1)
    return index


class Window:
    """The newest impressions: whole samples, as few as hold so many."""

    def __init__(self, impressions: int) -> None:
        self._least = impressions
        self._samples: deque[Sample] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, sample: Sample) -> list[Sample]:
        """Take one in; returns those that leave for it."""
        self._samples.append(sample)
        self._count += len(sample)
        gone = []
        while self._count - len(self._samples[0]) >= self._least:
            gone.append(self._samples.popleft())
            self._count -= len(gone[-1])
        return gone

    def joined(self) -> Sample:
        """All of them as one; there must be one."""
        parts = self._samples
        clicked = frozenset(chain.from_iterable(part.clicked for part in parts))
        user, item = (np.concatenate(blocks) for blocks in ([p.user for p in parts], [p.item for p in parts]))
        return Sample(parts[0].names, user, item, clicked)


class Reference:
    """The older sample: its bins, and its counts in them."""

    def __init__(self, sample: Sample) -> None:
        self.names = (*sample.names, LABEL)
        self._user, self._item = _edges(sample.user), _edges(sample.item)
        self._counts = self.count(sample)
        self._labels = _labels(len(sample.clicked), len(sample))

    def count(self, sample: Sample) -> Counts:
        """Values of a sample in each bin of each feature, [features, bins]."""
        return np.concatenate([_counts(sample.user, self._user), _counts(sample.item, self._item)])

    def moved(self, counts: Counts, clicked: int, impressions: int) -> Moved:
        """What has moved most in a newer sample with these counts."""
        index = np.append(
            stability_index(self._counts, counts), stability_index(self._labels, _labels(clicked, impressions))
        )
        most = int(index.argmax())
        return Moved(self.names[most], float(index[most]))


class Comparison:
    """The newest impressions since a mark against the newest before it; both `impressions` at most."""

    def __init__(self, impressions: int, least: int) -> None:
        """`least`: impressions on either side below which nothing is said; so many make a first older sample."""
        self._impressions, self._least = impressions, least
        self._names: tuple[str, ...] | None = None
        self._start(None)

    def watch(self, sample: Sample) -> None:
        """Take impressions in; another list of features begins anew."""
        if sample.names != self._names:
            self._start(sample.names)
        self._recent.add(sample)
        if self._reference is not None:
            self._add(self._reference, sample)
        elif len(self._recent) >= self._least:
            self.mark()

    def mark(self) -> None:
        """What came until now is what later impressions are compared with."""
        enough = len(self._recent) >= self._least
        self._reference = Reference(self._recent.joined()) if enough else None
        self._newer = Window(self._impressions)
        self._clicked: Counter[str] = Counter()
        self._counts: Counts = np.zeros((0, _BINS), np.int64)

    def moved(self) -> Moved | None:
        """What has moved most; None while there are too few impressions."""
        if self._reference is None or len(self._newer) < self._least:
            return None
        return self._reference.moved(self._counts, len(self._clicked), len(self._newer))

    def _start(self, names: tuple[str, ...] | None) -> None:
        self._names = names
        self._recent = Window(self._impressions)
        self.mark()

    def _add(self, reference: Reference, sample: Sample) -> None:
        counts = reference.count(sample)
        self._counts = self._counts + counts if len(self._counts) else counts
        self._clicked.update(sample.clicked)
        for gone in self._newer.add(sample):
            self._counts = self._counts - reference.count(gone)
            self._clicked.subtract(gone.clicked)
            for name in gone.clicked:
                if not self._clicked[name]:
                    del self._clicked[name]


def _labels(clicked: int, impressions: int) -> Counts:
    """Impressions with a click and without; clicks may belong to impressions from before a window."""
    clicked = min(clicked, impressions)
    return np.array([clicked, impressions - clicked])


def _edges(values: Floats) -> Floats:
    """Least value, nine tenths and just above the largest, [features, 11], of values [n, features]."""
    edges = np.full((values.shape[1], _TENTHS + 1), np.inf, np.float32)
    for row, column in zip(edges, values.T, strict=True):
        known = np.sort(column[~np.isnan(column)])
        if len(known):
            row[:-1] = known[np.arange(_TENTHS) * len(known) // _TENTHS]
            row[-1] = np.nextafter(known[-1], np.float32(np.inf))
    return edges


def _counts(values: Floats, edges: Floats) -> Counts:
    # A bin is how many edges a value reaches; equal edges, of a feature of few values, leave bins empty on both sides.
    place = (values[:, :, None] >= edges).sum(-1)
    place[np.isnan(values)] = _BINS - 1
    features = len(edges)
    flat = (place + np.arange(features) * _BINS).ravel()
    return np.bincount(flat, minlength=features * _BINS).reshape(features, _BINS)
