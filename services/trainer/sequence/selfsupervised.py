"""Losses that sessions themselves pose beside the next item: a masked item, and two views of one session."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as f

from services.trainer.sequence.learner import Learner, Seen
from services.trainer.sequence.losses import sampled_softmax
from services.trainer.sequence.packed import NONE, Packed, pack
from services.trainer.sequence.sessions import Flags, Ints, Sessions, spans
from services.trainer.sequence.ways import Dropout

MASK = -1
"""Slot of a masked item: a vector of zeros is read in its place."""


class MaskedItems(Dropout):
    """Cloze (BERT4Rec; Sun et al., 2019): + weight · softmax of items that are masked, attention reaching both ways.

    The same blocks are used as for the next item. An item can only be masked where its session has another one.
    """

    def __init__(self, weight: float = 0.1, share: float = 0.2) -> None:
        """`share` of items masked."""
        self.weight, self.share = weight, share

    def term(self, learner: Learner, seen: Seen) -> Tensor | None:
        """The loss of the masked items of a batch; None when there are none."""
        chance = torch.from_numpy(learner.random.random(seen.inputs.shape))
        chosen = (chance < self.share) & accompanied(seen.batch.sessions)
        if not bool(chosen.any()):
            return None
        half = learner.settings.half
        hidden = cloze(learner, seen, chosen)
        return self.weight * sampled_softmax(hidden, seen.vectors, seen.inputs[chosen], seen.sample, half)


class ContrastiveSessions(Dropout):
    """CL4SRec (Xie et al., 2022): + weight · InfoNCE of two views of each session, each cropped, masked or reordered.

    Sessions are the inputs of the batch, those with two items or more. Views are compared by the cosine of their last
    vectors.
    """

    def __init__(self, weight: float = 0.1, temperature: float = 0.1) -> None:
        self.weight, self.temperature = weight, temperature

    def term(self, learner: Learner, seen: Seen) -> Tensor | None:
        """The loss of the views of a batch; None with fewer than two sessions: nothing tells them apart."""
        sessions = inputs(seen)
        sessions = sessions.take(np.flatnonzero(sessions.lengths >= 2))
        if len(sessions) < 2:
            return None
        first, second = (ends(learner, seen, view(sessions, learner.random)) for _ in range(2))
        return self.weight * info_nce(first, second, self.temperature)


def accompanied(sessions: Tensor) -> Tensor:
    """[R, L] places whose session has another one in the row.

    >>> accompanied(torch.tensor([[1, 1, 2, 0, 0]])).tolist()
    [[True, True, False, False, False]]
    """
    same = (sessions[:, :, None] == sessions[:, None, :]).sum(2)
    return (same > 1) & (sessions > 0)


def cloze(learner: Learner, seen: Seen, chosen: Tensor) -> Tensor:
    """Vectors [n, D] at the `chosen` places [R, L], whose items are not read; all others of a session are."""
    items = f.embedding(seen.inputs, seen.vectors).masked_fill(chosen.unsqueeze(-1), 0.0)
    found: Tensor = learner.model(items, seen.batch.sessions, learner.settings.half, ahead=True)[chosen]
    return found


def inputs(seen: Seen) -> Sessions:
    """The input parts of a batch's sessions, with places within U for items."""
    rows, length = seen.batch.sessions.shape
    number = seen.batch.sessions + torch.arange(rows)[:, None] * (length + 1)
    held = seen.batch.sessions > 0
    _, lengths = torch.unique_consecutive(number[held], return_counts=True)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths.numpy())])
    return Sessions(np.arange(len(lengths)), seen.inputs[held].numpy(), starts)


def view(sessions: Sessions, random: np.random.Generator) -> Sessions:
    """Each session changed in one of three ways, drawn by lot."""
    kind = np.repeat(random.integers(3, size=len(sessions)), sessions.lengths)
    items = np.where(kind == 1, masked(sessions, random), sessions.items)
    items = np.where(kind == 2, reordered(sessions, random), items)
    keep = cropped(sessions, random) | (kind != 0)
    owner = np.repeat(np.arange(len(sessions)), sessions.lengths)[keep]
    lengths = np.bincount(owner, minlength=len(sessions))
    return Sessions(sessions.ids, items[keep], np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))


def cropped(sessions: Sessions, random: np.random.Generator, share: float = 0.6) -> Flags:
    """[T] what is left of each session: a stretch of `share` of its items, at least one."""
    return _stretch(sessions, np.maximum(1, (share * sessions.lengths).astype(np.int64)), random)


def masked(sessions: Sessions, random: np.random.Generator, share: float = 0.3) -> Ints:
    """[T] the items, with a `share` of each session's, rounded down, masked."""
    rank = _place(sessions)[np.argsort(_sorted(sessions, random.random(len(sessions.items))))]
    out: Ints = np.where(
        rank < np.repeat((share * sessions.lengths).astype(np.int64), sessions.lengths), MASK, sessions.items
    )
    return out


def reordered(sessions: Sessions, random: np.random.Generator, share: float = 0.6) -> Ints:
    """[T] the items, with a stretch of `share` of each session's, rounded down, in random order."""
    counts = (share * sessions.lengths).astype(np.int64)
    inside = _stretch(sessions, counts, random)
    place = _place(sessions)
    # Those of the stretch get places drawn between its first and its last, so that it stays where it is.
    first = np.full(len(sessions), len(place))
    np.minimum.at(first, np.repeat(np.arange(len(sessions)), sessions.lengths)[inside], place[inside])
    drawn = np.repeat(first, sessions.lengths) + random.random(len(place)) * np.repeat(counts, sessions.lengths)
    return sessions.items[_sorted(sessions, np.where(inside, drawn, place))]


def ends(learner: Learner, seen: Seen, sessions: Sessions) -> Tensor:
    """The last vector [S, D] of each session of places within U or MASK."""
    # Packing takes a session's last item as its target: here it is the session's number.
    numbered = np.insert(sessions.items, sessions.starts[1:], np.arange(len(sessions)))
    lengthened = Sessions(sessions.ids, numbered, sessions.starts + np.arange(len(sessions) + 1))
    packed = pack(lengthened, learner.settings.sizes.length, last_only=True)
    asked = packed.targets != NONE
    hidden = learner.model(_vectors(seen, packed), packed.sessions, learner.settings.half)[asked]
    out: Tensor = hidden[torch.argsort(packed.targets[asked])]
    return out


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean over all 2n views of -ln of what its partner has of the softmax over the 2n - 1 others.

    `first` and `second` [n, D] are views of the same n things; similarity is cosine / temperature.
    """
    views = f.normalize(torch.cat([first, second]), dim=-1)
    likeness = (views @ views.T / temperature).masked_fill(torch.eye(len(views), dtype=torch.bool), -torch.inf)
    partner = torch.arange(len(views)).roll(len(first))
    return f.cross_entropy(likeness, partner)


def _vectors(seen: Seen, packed: Packed) -> Tensor:
    found = f.embedding(packed.inputs.clamp(min=0), seen.vectors)
    return found.masked_fill((packed.inputs == MASK).unsqueeze(-1), 0.0)


def _place(sessions: Sessions) -> Ints:
    """[T] 0, 1, ... within each session."""
    return spans(np.zeros(len(sessions), np.int64), sessions.lengths)


def _sorted(sessions: Sessions, keys: np.ndarray) -> Ints:
    """[T] order by key within each session."""
    return np.lexsort((keys, np.repeat(np.arange(len(sessions)), sessions.lengths)))


def _stretch(sessions: Sessions, counts: Ints, random: np.random.Generator) -> Flags:
    """[T] one stretch of so many items in each session, anywhere with the same chance."""
    first = random.integers(sessions.lengths - counts + 1)
    place, lengths = _place(sessions), sessions.lengths
    out: Flags = (place >= np.repeat(first, lengths)) & (place < np.repeat(first + counts, lengths))
    return out
