"""Masked items and two views of a session: what each loss is, and what it may not see."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as f

from services.trainer.sequence import selfsupervised
from services.trainer.sequence.learner import Learner, Seen
from services.trainer.sequence.packed import pack
from services.trainer.sequence.selfsupervised import MASK, ContrastiveSessions, MaskedItems, cloze, ends, info_nce
from services.trainer.sequence.sessions import Sessions
from tests.trainer.test_sequence import lists_of, sessions_of, some_sessions
from tests.trainer.test_sequence_periods import SMALL


def seen_of(*lists: list[int]) -> tuple[Learner, Seen]:
    learner = Learner(SMALL, seed=1)
    learner.rows.add(np.arange(50), seed=1)
    learner.begin(np.ones(50, np.int64), 1, dropout=0.0)
    return learner, learner.see(pack(sessions_of(*lists), SMALL.sizes.length))


def at(seen: Seen, row: int, column: int) -> torch.Tensor:
    return torch.zeros_like(seen.inputs, dtype=torch.bool).index_put(
        (torch.tensor(row), torch.tensor(column)), torch.tensor(True)
    )


def with_item(seen: Seen, column: int, item: int) -> Seen:
    changed = seen.inputs.clone()
    changed[0, column] = item
    return replace(seen, inputs=changed)


def test_a_masked_place_sees_all_of_its_session_but_its_own_item() -> None:
    learner, seen = seen_of([1, 2, 3, 4, 5], [6, 7, 8])
    place = at(seen, 0, 1)
    before = cloze(learner, seen, place)
    moved = [not torch.equal(cloze(learner, with_item(seen, column, 40), place), before) for column in range(6)]
    assert moved == [True, False, True, True, False, False]


def test_the_masked_loss_is_the_softmax_of_the_masked_items_among_all() -> None:
    learner, seen = seen_of(*lists_of(some_sessions(20, 9)))
    learner.random = np.random.default_rng(5)
    found = MaskedItems(weight=0.5, share=0.4).term(learner, seen)
    chance = torch.from_numpy(np.random.default_rng(5).random(seen.inputs.shape))
    chosen = (chance < 0.4) & selfsupervised.accompanied(seen.batch.sessions)
    logits = cloze(learner, seen, chosen) @ seen.vectors[seen.sample.slots].T
    assert len(seen.sample.slots) == 50
    assert int(chosen.sum()) > 10
    torch.testing.assert_close(found, 0.5 * f.cross_entropy(logits, seen.inputs[chosen]))


def test_an_item_alone_is_never_masked() -> None:
    learner, seen = seen_of([1, 2], [3, 4])
    assert MaskedItems(share=1.0).term(learner, seen) is None


def test_the_inputs_of_a_batch_are_its_sessions_without_their_last_items() -> None:
    given = some_sessions(20, 7)
    _, seen = seen_of(*lists_of(given))
    assert sorted(lists_of(selfsupervised.inputs(seen))) == sorted(part[:-1] for part in lists_of(given))


def test_a_crop_is_one_stretch_of_the_share_asked_for() -> None:
    given = some_sessions(200, 12)
    kept = selfsupervised.cropped(given, np.random.default_rng(0), 0.6)
    for part in np.split(kept, given.starts[1:-1]):
        chosen = np.flatnonzero(part)
        assert len(chosen) == max(1, int(0.6 * len(part)))
        assert chosen[-1] - chosen[0] == len(chosen) - 1


def test_a_share_of_each_session_is_masked_and_the_rest_stays() -> None:
    given = some_sessions(200, 12)
    found = selfsupervised.masked(given, np.random.default_rng(0), 0.3)
    hidden = found == MASK
    assert np.array_equal(found[~hidden], given.items[~hidden])
    assert [int(part.sum()) for part in np.split(hidden, given.starts[1:-1])] == [int(0.3 * n) for n in given.lengths]


def test_a_stretch_is_reordered_and_all_else_keeps_its_place() -> None:
    lengths = np.random.default_rng(1).integers(2, 13, 200)
    given = sessions_of(*(list(range(n)) for n in lengths))
    found = selfsupervised.reordered(given, np.random.default_rng(0), 0.6)
    moved = 0
    for part in np.split(found, given.starts[1:-1]):
        assert sorted(part) == list(range(len(part)))
        changed = np.flatnonzero(part != np.arange(len(part)))
        moved += len(changed)
        assert not len(changed) or changed[-1] - changed[0] < int(0.6 * len(part))
    assert moved > 0.2 * len(found)


def test_every_view_is_cropped_masked_or_reordered() -> None:
    given = sessions_of(*[list(range(10))] * 300)
    kinds = []
    for part in lists_of(selfsupervised.view(given, np.random.default_rng(0))):
        crop, mask, reorder = len(part) == 6, part.count(MASK) == 3, sorted(part) == list(range(10))
        assert crop + mask + reorder == 1
        kinds.append(0 if crop else 1 if mask else 2)
    assert np.bincount(kinds) / 300 == pytest.approx(np.full(3, 1 / 3), abs=0.12)


def test_each_view_ends_in_the_vector_that_it_has_alone() -> None:
    learner, seen = seen_of(*lists_of(some_sessions(30, 9)))
    given = sessions_of([1, 2, 3], [4], [5, MASK, 2, 6, 7], [MASK, 3])
    found = ends(learner, seen, given)
    padded = torch.cat([seen.vectors, torch.zeros(1, 16)])
    for vector, part in zip(found, lists_of(given), strict=True):
        alone = learner.model(padded[torch.tensor(part)][None], torch.ones(1, len(part), dtype=torch.int64))[0, -1]
        torch.testing.assert_close(vector, alone, atol=1e-5, rtol=1e-4)


def test_info_nce_of_two_pairs_is_what_a_hand_finds() -> None:
    pair = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert float(info_nce(pair, pair, 1.0)) == pytest.approx(-np.log(np.e / (np.e + 2)))
    assert float(info_nce(pair, pair, 0.5)) == pytest.approx(-np.log(np.e**2 / (np.e**2 + 2)))


def test_info_nce_asks_every_view_for_its_partner_among_all_others() -> None:
    first, second = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    views = [*first.numpy(), *second.numpy()]
    like = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) / 0.2 for b in views] for a in views]
    wanted = [-like[i][(i + 4) % 8] + np.log(sum(np.exp(like[i][j]) for j in range(8) if j != i)) for i in range(8)]
    assert float(info_nce(first, second, 0.2)) == pytest.approx(np.mean(wanted))


def test_one_session_has_nothing_to_be_told_from() -> None:
    learner, seen = seen_of([1, 2, 3], [4, 5])
    assert ContrastiveSessions().term(learner, seen) is None


def test_the_contrastive_loss_falls_when_it_is_all_that_is_learned() -> None:
    learner, seen = seen_of(*lists_of(some_sessions(60, 9)))
    way = ContrastiveSessions(weight=1.0)
    batch, losses = seen.batch, []
    for _ in range(30):
        term = way.term(learner, learner.see(batch))
        assert term is not None
        losses.append(float(term.detach()))
        learner.step(term)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


def test_views_do_not_change_the_sessions_they_are_of() -> None:
    given: Sessions = some_sessions(20, 9)
    before = given.items.copy()
    selfsupervised.view(given, np.random.default_rng(0))
    assert np.array_equal(given.items, before)
