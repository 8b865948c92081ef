"""The map from vectors of texts to rows: what it finds, and that it knows when it has found nothing."""

import numpy as np

from services.publisher.cold.ridge import LEAST, fit


def a_world(count: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 12)).astype(np.float32)
    rows = vectors @ rng.normal(size=(12, 3)) + 4 + noise * rng.normal(size=(count, 3))
    return vectors, rows.astype(np.float32)


def test_a_linear_truth_is_found_with_its_constant() -> None:
    vectors, rows = a_world(400, 0.01)
    found = fit(vectors[:300], rows[:300], np.ones(300, np.float32))
    assert found is not None
    assert found.r2 > 0.99
    np.testing.assert_allclose(found.map.rows(vectors[300:]), rows[300:], atol=0.2)


def test_held_out_items_do_not_enter_the_trial() -> None:
    vectors, rows = a_world(300, 0.5)
    one = fit(vectors, rows, np.ones(300, np.float32))
    assert one is not None
    moved = rows.copy()
    moved[one.held] += 100
    other = fit(vectors, moved, np.ones(300, np.float32))
    assert other is not None
    assert other.r2 < 0 < one.r2
    rest = np.delete(np.arange(300), one.held)
    gap = other.trial.rows(vectors[rest]) - rows[rest]
    assert np.abs(gap).max() < 20


def test_noise_is_answered_with_the_mean_and_nothing_is_claimed() -> None:
    rng = np.random.default_rng(2)
    vectors, rows = rng.normal(size=(400, 64)).astype(np.float32), rng.normal(size=(400, 3)).astype(np.float32)
    found = fit(vectors, rows, np.ones(400, np.float32))
    assert found is not None
    assert found.r2 < 0.02
    assert np.abs(found.map.rows(vectors)).mean() < 0.2


def test_items_without_evidence_hardly_count() -> None:
    vectors, rows = a_world(300, 0.01)
    spoiled, evidence = rows.copy(), np.ones(300, np.float32)
    spoiled[::2] += 50 * np.sign(vectors[::2, :1])
    evidence[::2] = 1e-6
    found = fit(vectors, spoiled, evidence)
    assert found is not None
    np.testing.assert_allclose(found.map.rows(vectors[1::2]), rows[1::2], atol=0.5)


def test_too_few_items_are_not_fitted() -> None:
    vectors, rows = a_world(LEAST - 1, 0.1)
    assert fit(vectors, rows, np.ones(LEAST - 1, np.float32)) is None
