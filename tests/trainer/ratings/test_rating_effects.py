"""Levels and tastes against closed forms, and the blend of both models."""

from typing import Any

import numpy as np
import pytest

from services.common.errors import CorruptState, InvalidInput
from services.common.ids import keys_of
from services.trainer.ratings.blend import Blend, BlendConfig
from services.trainer.ratings.effects import Effects, EffectsConfig, kernels
from services.trainer.ratings.factorisation import FactorConfig

STILL = {"level_drift": 0.0, "taste_drift": 0.0, "item_drift": 0.0, "pause_drift": 0.0}
USERS, ITEMS = keys_of(f"u{k}" for k in range(15)), keys_of(f"i{k}" for k in range(40))
RNG = np.random.default_rng(5)
ITEM_FEATURES, USER_FEATURES = RNG.normal(size=(40, 2)), RNG.normal(size=(15, 1))
Columns = tuple[Any, Any, Any, Any]


def config(**changes: float) -> EffectsConfig:
    return EffectsConfig(**({"item_features": 2, "user_features": 1} | changes))  # type: ignore[arg-type]


def told(model: Any) -> Any:
    effects = model.effects if isinstance(model, Blend) else model
    effects.describe_items(ITEMS, ITEM_FEATURES)
    effects.describe_users(USERS, USER_FEATURES)
    return model


def log(count: int, seed: int = 0) -> Columns:
    """Ratings by taste for known features, by levels, and by one hidden factor."""
    rng = np.random.default_rng(seed)
    u, i = rng.integers(0, 15, count), rng.integers(0, 40, count)
    taste, hidden = rng.normal(size=(15, 2)), (rng.normal(size=15), rng.normal(size=40))
    ratings = 3 + (taste[u] * ITEM_FEATURES[i]).sum(axis=1) + hidden[0][u] * hidden[1][i] + 0.1 * rng.normal(size=count)
    return USERS[u], ITEMS[i], ratings, np.arange(count) * 1_000_000


def part(columns: Columns, begin: int, end: int) -> Columns:
    return tuple(column[begin:end] for column in columns)  # type: ignore[return-value]


def both() -> list[Any]:
    return [pytest.param(made, id=made.__name__) for made in (Effects, Blend)]


def fresh(made: Any) -> Any:
    if made is Effects:
        return told(Effects(config()))
    return told(Blend(BlendConfig(effects=config(), factors=FactorConfig(dim=3, replay=2, memory=64))))


def running_means(ratings: Any) -> Any:
    return (np.cumsum(ratings) - ratings) / np.maximum(np.arange(len(ratings)), 1)


def test_a_users_block_is_the_ridge_regression_of_all_their_ratings() -> None:
    still = config(**STILL, user_popularity=0.0, user_scale=0.0, item_level=0.0, item_taste=0.0)
    model, columns = told(Effects(still)), log(300)
    model.learn(*columns)
    mine, means = columns[0] == USERS[3], running_means(columns[2])
    items = [ITEMS.tolist().index(key) for key in columns[1][mine]]
    x = np.hstack([np.ones((len(items), 1)), ITEM_FEATURES[items]])
    precision = np.diag(1 / np.array([0.8, 0.44, 0.44]) ** 2) + x.T @ x / still.noise
    weights = np.linalg.solve(precision, x.T @ (columns[2] - means)[mine] / still.noise)
    row = model.users.gather(USERS[3:4])
    assert np.allclose(row["mean"][0, [0, 3, 4]], weights, rtol=1e-9)
    assert np.allclose(row["cov"][0][np.ix_([0, 3, 4], [0, 3, 4])], np.linalg.inv(precision), rtol=1e-9)


def test_an_items_level_is_the_shrunken_mean_of_what_it_got() -> None:
    still = config(**STILL, user_level=0.0, user_popularity=0.0, user_scale=0.0, user_taste=0.0, item_taste=0.0)
    model, columns = told(Effects(still)), log(300)
    model.learn(*columns)
    got = (columns[2] - running_means(columns[2]))[columns[1] == ITEMS[7]]
    level = got.sum() / (len(got) + still.noise / still.item_level**2)
    assert model.items.gather(ITEMS[7:8])["mean"][0, 0] == pytest.approx(level, rel=1e-9)


def test_a_step_counts_the_doubt_about_user_and_item() -> None:
    model = Effects(
        EffectsConfig(**STILL, user_popularity=0.0, user_scale=0.0, user_level=0.8, item_level=0.5, noise=1.0)
    )
    model.learn(USERS[:1], ITEMS[:1], np.array([4.0]), np.array([0]))
    spread = 1.0 + 0.8**2 + 0.5**2
    assert model.users.gather(USERS[:1])["mean"][0, 0] == pytest.approx(4.0 * 0.8**2 / spread)
    assert model.items.gather(ITEMS[:1])["mean"][0, 0] == pytest.approx(4.0 * 0.5**2 / spread)


@pytest.mark.parametrize(("gap_s", "widened"), [(1_799, 0.0), (1_801, 0.5)])
def test_a_pause_makes_a_users_level_less_sure(gap_s: int, widened: float) -> None:
    first, second = (EffectsConfig(**(STILL | {"pause_drift": drift})) for drift in (0.0, 0.5))
    times, wide = np.array([0, gap_s * 1_000_000]), []
    for chosen in (first, second):
        model = Effects(chosen)
        model.learn(USERS[[0, 0]], ITEMS[:2], np.array([4.0, 2.0]), times)
        wide.append(model.users.gather(USERS[:1])["cov"][0, 0, 0])
    assert (wide[1] > wide[0]) == (widened > 0)


def test_covariances_stay_symmetric_and_positive() -> None:
    model = told(Effects(config()))
    model.learn(*log(20_000))
    for table in (model.users, model.items):
        cov = table.state()["cov"]
        assert np.array_equal(cov, cov.transpose(0, 2, 1))
        assert np.linalg.eigvalsh(cov).min() > 0


def test_a_new_item_is_judged_by_its_features() -> None:
    model, columns = told(Effects(config())), log(3_000)
    model.learn(*columns)
    new = keys_of(["alike", "opposite"])
    taste = model.users.gather(USERS[:1])["mean"][0, 3:]
    length = np.linalg.norm(taste)
    model.describe_items(new, np.stack([taste, -taste]) / length)
    alike, opposite = model.predict(USERS[[0, 0]], new)
    assert alike - opposite == pytest.approx(2 * length)
    assert length > 0.2


def test_the_last_model_is_a_ridge_regression() -> None:
    base, x, y = RNG.normal(size=200), RNG.normal(size=(200, 4)), RNG.normal(size=200)
    w, cov, out = np.zeros(4), np.eye(4) * 0.3, np.empty(200)
    kernels().learn_blend(base, x, y, w, cov, 1.5, out)
    assert np.allclose(w, np.linalg.solve(np.eye(4) / 0.3 + x.T @ x / 1.5, x.T @ (y - base) / 1.5), rtol=1e-9)
    before = np.linalg.solve(np.eye(4) / 0.3 + x[:99].T @ x[:99] / 1.5, x[:99].T @ (y - base)[:99] / 1.5)
    assert out[99] == pytest.approx(base[99] + before @ x[99], rel=1e-9)


def test_the_blend_is_better_than_each_of_its_models() -> None:
    columns, model = log(3_000), fresh(Blend)
    alone = [model.effects.__class__(config()), model.factors.__class__(model.config.factors)]
    told(alone[0])
    errors = [np.std(one.learn(*columns) - columns[2]) for one in (*alone, model)]
    assert errors[2] < 0.98 * min(errors[:2])


@pytest.mark.parametrize("made", both())
def test_a_rating_is_predicted_before_it_is_learned(made: Any) -> None:
    columns, model = log(120), fresh(made)
    for k in range(120):
        now = part(columns, k, k + 1)
        assert model.predict(*now[:2])[0] == pytest.approx(model.learn(*now)[0], abs=1e-12)


@pytest.mark.parametrize("made", both())
def test_a_restart_and_another_split_change_no_bit(made: Any) -> None:
    columns, whole, model, again = log(400), fresh(made), fresh(made), fresh(made)
    first = model.learn(*part(columns, 0, 170))
    again.load(model.state())
    rest = [again.learn(*part(columns, 170, 171)), again.learn(*part(columns, 171, 400))]
    assert np.array_equal(whole.learn(*columns), np.concatenate([first, *rest]))
    assert all(np.array_equal(a, again.state()[name]) for name, a in whole.state().items())


@pytest.mark.parametrize("made", both())
def test_a_state_without_an_array_is_corrupt(made: Any) -> None:
    model = fresh(made)
    for name in model.state():
        with pytest.raises(CorruptState, match=name.split(".")[-1]):
            fresh(made).load({key: value for key, value in model.state().items() if key != name})


def test_features_of_a_wrong_size_and_bad_settings_are_refused() -> None:
    for features in (np.zeros((40, 3)), np.full((40, 2), np.nan)):
        with pytest.raises(InvalidInput, match="features"):
            Effects(config()).describe_items(ITEMS, features)
    for change in ({"noise": 0.0}, {"user_level": -1.0}, {"pause_s": float("nan")}):
        with pytest.raises(InvalidInput, match=next(iter(change))):
            config(**change)
    with pytest.raises(InvalidInput, match="variance"):
        BlendConfig(variance=0.0)
