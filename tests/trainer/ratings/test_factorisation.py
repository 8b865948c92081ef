"""Factorisation: the formula, the optimisers, one rating at a time, and clicks alone."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from services.common.errors import CorruptState, InvalidInput
from services.common.ids import keys_of
from services.trainer.ratings.factorisation import FactorConfig, Factorisation, ImplicitFactorisation, kernels
from services.trainer.ratings.keyed_rows import KeyedRows, start_rows
from services.trainer.ratings.row_optimisers import FTRL, SGD, Adagrad, PassiveAggressive, RowOptimiser

OPTIMISERS = [SGD(0.03, 0.01), Adagrad(0.1, 0.01), FTRL(0.1, 1.0, 0.01, 0.1), PassiveAggressive(0.1, 0.2, "PA-II")]
Columns = tuple[Any, Any, Any, Any]


def log(count: int, users: int = 20, items: int = 30, seed: int = 0) -> Columns:
    """Ratings of two hidden factors, a level of each user and item, and little noise."""
    rng = np.random.default_rng(seed)
    u, i = rng.integers(0, users, count), rng.integers(0, items, count)
    p, q = rng.normal(size=(users, 2)), rng.normal(size=(items, 2))
    ratings = 3 + 0.5 * p[u, 0] + 0.5 * q[i, 0] + (p[u] * q[i]).sum(axis=1) + 0.1 * rng.normal(size=count)
    return keys_of(map(str, u)), keys_of(map(str, i)), ratings, np.arange(count)


def part(columns: Columns, begin: int, end: int) -> Columns:
    return tuple(column[begin:end] for column in columns)  # type: ignore[return-value]


def one(rating: float) -> Columns:
    return keys_of(["u"]), keys_of(["i"]), np.array([rating]), np.array([0])


def by_hand(columns: Columns, config: FactorConfig) -> list[float]:
    """The model equation and its gradient, written with dictionaries."""
    rate, bias_rate, mean, out = 0.05, 0.025, 0.0, list[float]()
    rows: list[dict[int, Any]] = [{}, {}]
    for n, (user, item, rating) in enumerate(zip(*columns[:3], strict=True), 1):
        for side, key in enumerate((user, item)):
            first = np.zeros(1 + config.dim)
            first[1:] = start_rows(np.array([key]), config.dim, config.sigma, 2 * config.seed + side)
            rows[side].setdefault(key, first)
        p, q = rows[0][user], rows[1][item]
        dots = p[0] + q[0] + p[1:] @ q[1:]
        out.append(mean + dots)
        mean += (rating - mean) / n
        slope, old = 2 * (mean + dots - rating), p.copy()
        p[0], q[0] = p[0] - bias_rate * slope, q[0] - bias_rate * slope
        p[1:], q[1:] = p[1:] - rate * slope * q[1:], q[1:] - rate * slope * old[1:]
    return out


def test_numba_is_not_needed_before_something_is_learned() -> None:
    code = "import sys, services.trainer.ratings.blend; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_predictions_are_those_of_the_formula() -> None:
    columns, config = log(300), FactorConfig(dim=4, optimiser=SGD(0.05), bias_share=0.5)
    assert np.allclose(Factorisation(config).learn(*columns), by_hand(columns, config), rtol=0, atol=1e-12)


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda o: type(o).__name__)
def test_any_split_of_the_log_gives_the_same_bits(optimiser: RowOptimiser) -> None:
    columns, config = log(200), FactorConfig(dim=3, optimiser=optimiser, replay=2, memory=50)
    whole, split = Factorisation(config), Factorisation(config)
    parts = [split.learn(*part(columns, *ends)) for ends in ((0, 1), (1, 120), (120, 120), (120, 200))]
    assert np.array_equal(whole.learn(*columns), np.concatenate(parts))


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda o: type(o).__name__)
def test_a_restart_changes_no_bit(optimiser: RowOptimiser) -> None:
    columns, config = log(300), FactorConfig(dim=3, optimiser=optimiser, replay=2, memory=60)
    model, again = Factorisation(config), Factorisation(config)
    model.learn(*part(columns, 0, 150))
    again.load(model.state())
    assert np.array_equal(model.learn(*part(columns, 150, 300)), again.learn(*part(columns, 150, 300)))
    assert all(np.array_equal(a, again.state()[name]) for name, a in model.state().items())


def test_a_rating_is_predicted_before_it_is_learned() -> None:
    columns, model = log(80), Factorisation()
    for k in range(80):
        now = part(columns, k, k + 1)
        assert model.predict(*now[:2])[0] == model.learn(*now)[0]


def test_predicting_admits_nobody_and_an_unknown_row_is_the_one_learning_starts_from() -> None:
    model = Factorisation(FactorConfig(dim=2))
    before = model.predict(keys_of(["a"]), keys_of(["b"]))
    assert len(model.users) == len(model.items) == 0
    assert before == model.learn(keys_of(["a"]), keys_of(["b"]), np.array([4.0]), np.array([0]))


def test_hidden_factors_are_found() -> None:
    columns = log(20_000)
    late = slice(15_000, None)
    missed = [np.std((Factorisation(FactorConfig(dim=dim)).learn(*columns) - columns[2])[late]) for dim in (0, 4)]
    assert missed[1] < 0.25 < 1 < missed[0]


def test_replay_learns_the_newest_ratings_again_and_sooner() -> None:
    columns, config = log(1_000), FactorConfig(dim=3, optimiser=SGD(0.02), replay=8, memory=400)
    model = Factorisation(config)
    again, once = model.learn(*columns), Factorisation(FactorConfig(dim=3, optimiser=SGD(0.02))).learn(*columns)
    errors = [np.std((predicted - columns[2])[500:]) for predicted in (again, once)]
    assert errors[0] < 0.8 * errors[1]
    assert sorted(model.state()["old_ratings"]) == sorted(columns[2][-400:])


def test_start_rows_are_normal_and_depend_on_key_and_seed_alone() -> None:
    keys = keys_of(map(str, range(5_000)))
    rows = start_rows(keys, 5, 0.1, 3)
    assert abs(rows.mean()) < 0.002
    assert abs(rows.std() - 0.1) < 0.002
    assert np.array_equal(start_rows(keys[::-1], 5, 0.1, 3)[::-1], rows)
    assert np.abs(np.corrcoef(rows.T) - np.eye(5)).max() < 0.06
    assert abs(np.corrcoef(start_rows(keys, 5, 0.1, 4).ravel(), rows.ravel())[0, 1]) < 0.03


def move(optimiser: RowOptimiser, w: list[float], gradients: list[list[float]]) -> Any:
    """The row after gradients that do not depend on it; its first place is a bias of full rate."""
    row, c = np.array([w]), optimiser.numbers()
    sums = -row * c[2] / c[0] if isinstance(optimiser, FTRL) else np.zeros_like(row)
    side = row, np.zeros_like(row), sums
    for g in gradients:
        kernels().move(optimiser.kind, c, 1.0, side, 0, np.array([g]), 0)
    return row[0]


GRADIENTS = np.random.default_rng(4).normal(size=(9, 3)).tolist()


def test_adagrad_divides_by_the_root_of_the_sum_of_squares() -> None:
    expected, squares = np.array([1.0, -2.0, 0.0]), np.zeros(3)
    for g in np.array(GRADIENTS):
        squares += g**2
        expected -= 0.3 * g / (np.sqrt(squares) + 1e-8)
    assert np.allclose(move(Adagrad(0.3), [1.0, -2.0, 0.0], GRADIENTS), expected, rtol=1e-12)


def test_ftrl_is_the_minimum_of_what_it_follows() -> None:
    from scipy.optimize import minimize_scalar

    c, g, w = FTRL(0.3, 1.0, 0.4, 0.2), np.array(GRADIENTS)[:, 0], 0.0
    linear, strength = 0.0, c.beta / c.rate
    for t in range(len(g)):
        sigma = (np.sqrt((g[: t + 1] ** 2).sum()) - np.sqrt((g[:t] ** 2).sum())) / c.rate
        linear, strength = linear + g[t] - sigma * w, strength + sigma
        goal = lambda x, a=linear, b=strength: a * x + b * x * x / 2 + c.l1 * abs(x) + c.l2 * x * x / 2  # noqa: E731
        w = minimize_scalar(goal, bounds=(-9, 9), method="bounded", options={"xatol": 1e-10}).x
    assert move(c, [0.0, 0.0, 0.0], GRADIENTS)[0] == pytest.approx(w, abs=1e-6)


def test_ftrl_without_penalties_and_beta_is_adagrad() -> None:
    start = [1.0, -2.0, 0.0]
    adagrad = move(Adagrad(0.3, epsilon=1e-300), start, GRADIENTS)
    assert np.allclose(move(FTRL(0.3, 0.0, 0.0, 0.0), start, GRADIENTS), adagrad, rtol=1e-12)


def test_ftrl_with_a_large_l1_gives_exact_zeros() -> None:
    assert move(FTRL(0.3, 1.0, 1e3, 0.0), [1.0, -2.0, 0.0], GRADIENTS).tolist() == [0, 0, 0]


def test_ftrl_keeps_a_first_row_until_something_is_learned() -> None:
    assert np.allclose(move(FTRL(0.3, 1.0), [1.0, -2.0, 0.5], [[0, 0, 0]]), [1.0, -2.0, 0.5], rtol=1e-15)


def passive(optimiser: PassiveAggressive, rating: float = 4.0) -> tuple[float, Any, float]:
    """Gap to the rating after a second rating of a pair; how far the pair's rows moved, and the gap before."""
    model = Factorisation(FactorConfig(dim=5, sigma=0.4, optimiser=optimiser))
    model.learn(*one(3.0))
    before, rows = model.predict(*one(0)[:2]), [model.state()[f"{side}.rows"] for side in ("users", "items")]
    model.learn(*one(rating))
    moved = [model.state()[f"{side}.rows"] - old for side, old in zip(("users", "items"), rows, strict=True)]
    mean_moved = (rating - 3.0) / 2
    gap = rating - model.predict(*one(0)[:2])[0]
    return gap, (moved, rows), rating - before[0] - mean_moved


@pytest.mark.parametrize("rating", [1.0, 2.2, 4.0, 5.0])
def test_passive_aggressive_meets_its_margin(rating: float) -> None:
    gap, _, before = passive(PassiveAggressive(0.2, variant="PA"), rating)
    assert abs(before) > 0.2
    assert abs(gap) == pytest.approx(0.2, abs=1e-12)


def test_passive_aggressive_is_passive_inside_the_margin() -> None:
    _, (moved, _), _ = passive(PassiveAggressive(3.0, variant="PA"))
    assert not np.any(moved)


def test_pa_1_moves_no_further_than_c() -> None:
    _, (moved, rows), _ = passive(PassiveAggressive(0.1, 0.01, "PA-I"))
    assert moved[0][0, 0] == moved[1][0, 0] == pytest.approx(0.01)
    assert np.allclose(moved[0][0, 1:], 0.01 * rows[1][0, 1:], rtol=0, atol=1e-15)
    assert np.allclose(moved[1][0, 1:], 0.01 * rows[0][0, 1:], rtol=0, atol=1e-15)


def test_pa_2_adds_half_of_one_over_c_to_the_squared_length() -> None:
    model = Factorisation(FactorConfig(dim=0, optimiser=PassiveAggressive(0.1, 0.5, "PA-II")))
    model.learn(*one(3.0))
    model.learn(*one(4.0))
    assert model.state()["users.rows"][0, 0] == pytest.approx((0.5 - 0.1) / (2 + 1 / (2 * 0.5)))


def scored(model: ImplicitFactorisation, rows: dict[str, Any]) -> float:
    model.load(model.state() | rows)
    return float(model.predict(keys_of(["u"]), keys_of(["i"]))[0])


def test_the_log_loss_goes_down_its_gradient() -> None:
    model = ImplicitFactorisation(FactorConfig(dim=3, optimiser=SGD(1e-3), bias_share=1.0, sigma=0.5), "log")
    model.learn(keys_of(["u"]), keys_of(["i"]))
    before = model.state()
    model.learn(keys_of(["u"]), keys_of(["i"]))
    after = model.state()
    for name in ("users.rows", "items.rows"):
        for place in range(4):
            shift = np.zeros((1, 4))
            shift[0, place] = 1e-5
            losses = [np.log1p(np.exp(-scored(model, before | {name: before[name] + s}))) for s in (shift, -shift)]
            slope = (losses[0] - losses[1]) / 2e-5
            assert (after[name] - before[name])[0, place] == pytest.approx(-1e-3 * slope, rel=1e-6, abs=1e-12)


def test_bpr_goes_down_its_gradient() -> None:
    rng = np.random.default_rng(0)
    p, q, none = rng.normal(size=(1, 4)), rng.normal(size=(2, 4)), np.zeros((2, 0))
    loss = lambda p, q: np.log1p(np.exp(-(q[0, 0] - q[1, 0] + p[0, 1:] @ (q[0, 1:] - q[1, 1:]))))  # noqa: E731
    steps = []
    for rows in (p, q):
        for place in np.ndindex(rows.shape):
            kept, ends = rows[place], []
            for shift in (1e-5, -1e-5):
                rows[place] = kept + shift
                ends.append(loss(p, q))
            rows[place] = kept
            steps.append(-1e-3 * (ends[0] - ends[1]) / 2e-5)
    before = np.concatenate([p.ravel(), q.ravel()])
    sides = (p, none, none), (q, none, none)
    kernels().learn_pair(SGD.kind, SGD(1e-3).numbers(), 1.0, 0, 0, 1, *sides, np.empty((3, 4)))
    assert np.allclose(np.concatenate([p.ravel(), q.ravel()]) - before, steps, rtol=1e-6, atol=1e-12)


def clicks(count: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Users of four kinds take items of their own kind, nine times of ten."""
    rng = np.random.default_rng(seed)
    users, kinds = rng.integers(0, 60, count), rng.integers(0, 4, count)
    kinds = np.where(rng.random(count) < 0.9, users % 4, kinds)
    return keys_of(map(str, users)), keys_of(map(str, 4 * rng.integers(0, 20, count) + kinds)), users


@pytest.mark.parametrize("loss", ["bpr", "log"])
@pytest.mark.parametrize("optimiser", [SGD(0.05), Adagrad(0.1)], ids=["SGD", "Adagrad"])
def test_kinds_of_users_are_found_in_clicks_alone(loss: Any, optimiser: RowOptimiser) -> None:
    users, items, _ = clicks(8_000)
    model = ImplicitFactorisation(FactorConfig(dim=8, optimiser=optimiser), loss)
    model.learn(users, items)
    u, i = (side.ravel() for side in np.meshgrid(np.arange(60), np.arange(80)))
    scores, own = model.predict(keys_of(map(str, u)), keys_of(map(str, i))), u % 4 == i % 4
    assert np.mean([np.mean(s > scores[~own & (u == 0)]) for s in scores[own & (u == 0)]]) > 0.9
    assert np.mean(scores[own][:, None] > np.random.default_rng(0).permutation(scores[~own])[:400]) > 0.85


@pytest.mark.parametrize("loss", ["bpr", "log"])
def test_clicks_resume_and_split_without_a_changed_bit(loss: Any) -> None:
    users, items, _ = clicks(500)
    whole, model, again = (ImplicitFactorisation(FactorConfig(dim=3), loss) for _ in range(3))
    first = model.learn(users[:170], items[:170])
    again.load(model.state())
    assert np.array_equal(whole.learn(users, items), np.concatenate([first, again.learn(users[170:], items[170:])]))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ratings": np.array([np.nan])}, "ratings"),
        ({"ratings": np.zeros(2)}, "ratings"),
        ({"items": keys_of(["a", "b"])}, "items"),
        ({"users": np.array(["a"])}, "users"),
        ({"times_us": np.zeros(3)}, "times_us"),
    ],
)
def test_bad_columns_are_refused_and_teach_nothing(change: dict[str, Any], field: str) -> None:
    model, columns = Factorisation(), dict(zip(("users", "items", "ratings", "times_us"), one(3.0), strict=True))
    with pytest.raises(InvalidInput) as caught:
        model.learn(**(columns | change))
    assert caught.value.field == field
    assert len(model.users) == 0


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: SGD(0.0), "rate"),
        (lambda: SGD(decay=-1.0), "decay"),
        (lambda: Adagrad(epsilon=float("inf")), "epsilon"),
        (lambda: PassiveAggressive(variant="PA-3"), "variant"),  # type: ignore[arg-type]
        (lambda: FactorConfig(dim=-1), "dim"),
        (lambda: FactorConfig(sigma=float("nan")), "sigma"),
        (lambda: ImplicitFactorisation(loss="hinge"), "loss"),  # type: ignore[arg-type]
        (lambda: ImplicitFactorisation(negatives=0), "negatives"),
        (lambda: ImplicitFactorisation(FactorConfig(optimiser=PassiveAggressive())), "config"),
    ],
)
def test_bad_settings_are_refused_by_name(make: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make()
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["seed", "total", "users.rows", "items.keys", "old_slots"])
def test_a_state_without_an_array_is_corrupt(name: str) -> None:
    model = Factorisation(FactorConfig(dim=2, replay=1))
    model.learn(*log(10))
    state = model.state()
    with pytest.raises(CorruptState, match=name.split(".")[-1]):
        Factorisation(FactorConfig(dim=2, replay=1)).load({k: v for k, v in state.items() if k != name})


def test_a_state_of_another_size_or_with_wild_slots_is_corrupt() -> None:
    model = Factorisation(FactorConfig(dim=2, replay=1))
    model.learn(*log(10))
    with pytest.raises(CorruptState, match="rows"):
        Factorisation(FactorConfig(dim=3, replay=1)).load(model.state())
    with pytest.raises(CorruptState, match="old_slots"):
        model.load(model.state() | {"old_slots": np.full((10, 2), 99)})


def test_tables_grow_and_repeated_keys_get_one_slot() -> None:
    rows = KeyedRows(lambda keys: {"key": keys.astype(np.float64)})
    keys = np.random.default_rng(0).integers(0, 2**63, 5_000).astype(np.uint64)
    for begin in range(0, 5_000, 37):
        batch = np.repeat(keys[begin : begin + 37], 2)
        slots = rows.admit(batch)
        assert np.array_equal(rows["key"][slots], batch.astype(np.float64))
    assert len(rows) == 5_000
    assert np.array_equal(rows.gather(keys)["key"], keys.astype(np.float64))
