"""Loops over interactions, compiled: a step needs the rows as the step before it left them, so nothing can be batched.

This module imports numba; models import it when they first learn or predict. Nothing is cached on disk, and no
arithmetic is reordered: the same input gives the same bits. A row [1 + dim] is a bias, then factors.
"""

import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from services.trainer.ratings.row_optimisers import ADAGRAD_KIND, PA_KIND, SGD_KIND

Floats = NDArray[np.float64]
Slots = NDArray[np.int64]
Seed = NDArray[np.uint64]
Side = tuple[Floats, Floats, Floats]
"""Rows [n, 1 + dim] of users or items, and the optimiser's two memories of them (without columns where it has none)."""

P = ParamSpec("P")
R = TypeVar("R")

_GOLDEN, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile on the first call, without what would make results depend on the machine's vector width."""
    return cast(Callable[P, R], numba.njit(function))


@compiled
def draw(seed: Seed, below: int) -> int:
    """A number in [0, below) by SplitMix64; `seed` [1] moves on, and is part of a model's state."""
    seed[0] += _GOLDEN
    z = seed[0]
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return np.int64((z ^ (z >> _S31)) % np.uint64(below))  # type: ignore[return-value]


@compiled
def dot(p: Floats, u: int, q: Floats, i: int) -> float:
    """Product of the factors of row u of p and row i of q, biases left out."""
    total = 0.0
    for f in range(1, p.shape[1]):
        total += p[u, f] * q[i, f]
    return total


@compiled
def move(kind: int, c: Floats, share: float, side: Side, r: int, g: Floats, k: int) -> None:
    """Move row r against its gradient, row k of g; `share` scales the rate of its bias."""
    w, n, z = side
    if kind == SGD_KIND:
        rate, decay = c[0], c[1]
        w[r, 0] -= rate * share * (g[k, 0] + decay * w[r, 0])
        for f in range(1, w.shape[1]):
            w[r, f] -= rate * (g[k, f] + decay * w[r, f])
        return
    for f in range(w.shape[1]):
        rate = c[0] * share if f == 0 else c[0]
        if kind == ADAGRAD_KIND:
            slope = g[k, f] + c[1] * w[r, f]
            n[r, f] += slope * slope
            w[r, f] -= rate * slope / (np.sqrt(n[r, f]) + c[2])
        else:
            w[r, f], n[r, f], z[r, f] = ftrl(rate, c, w[r, f], g[k, f], n[r, f], z[r, f])


@compiled
def ftrl(rate: float, c: Floats, w: float, g: float, n: float, z: float) -> tuple[float, float, float]:
    """One coordinate: its new weight, sum of squares and sum."""
    before, after = np.sqrt(n), np.sqrt(n + g * g)
    z += g - (after - before) / rate * w
    strength = (c[2] + after) / rate + c[4]
    if strength > 0:
        w = 0.0 if abs(z) <= c[3] else -(z - np.sign(z) * c[3]) / strength
    return w, n + g * g, z


@compiled
def passive_aggressive(c: Floats, p: Floats, u: int, q: Floats, i: int, error: float) -> None:
    """Step of both rows together; `error` = rating - prediction."""
    loss = abs(error) - c[0]
    if loss <= 0:
        return
    sign = 1.0 if error > 0 else -1.0
    length = 2.0 + c[2]
    for f in range(1, p.shape[1]):
        length += p[u, f] * p[u, f] + q[i, f] * q[i, f]
    bend = sign * dot(p, u, q, i)
    tau = loss / length
    under = length * length + 4 * bend * loss
    if under >= 0:
        tau = 2 * loss / (length + np.sqrt(under))
    tau = sign * min(tau, c[1])
    p[u, 0] += tau
    q[i, 0] += tau
    for f in range(1, p.shape[1]):
        old = p[u, f]
        p[u, f] += tau * q[i, f]
        q[i, f] += tau * old


@compiled
def pull_plainly(c: Floats, share: float, slope: float, p: Floats, u: int, q: Floats, i: int) -> None:
    """`pull` for SGD alone, several times faster: most of the time goes here."""
    rate, decay = c[0], c[1]
    p[u, 0] -= rate * share * (slope + decay * p[u, 0])
    q[i, 0] -= rate * share * (slope + decay * q[i, 0])
    for f in range(1, p.shape[1]):
        x, y = p[u, f], q[i, f]
        p[u, f] = x - rate * (slope * y + decay * x)
        q[i, f] = y - rate * (slope * x + decay * y)


@compiled
def pull(kind: int, c: Floats, share: float, slope: float, u: int, i: int, user: Side, item: Side, g: Floats) -> None:
    """Move row u of the users and row i of the items; `slope` is the derivative of the loss by the score."""
    p, q = user[0], item[0]
    g[0, 0] = g[1, 0] = slope
    for f in range(1, p.shape[1]):
        g[0, f] = slope * q[i, f]
        g[1, f] = slope * p[u, f]
    move(kind, c, share, user, u, g, 0)
    move(kind, c, share, item, i, g, 1)


@compiled
def parts_of(users: Slots, items: Slots, p: Floats, q: Floats, mean: float, out: Floats) -> None:
    """Fill out [n, 3]: mean, biases, product of factors."""
    for t in range(len(users)):
        out[t, 0] = mean
        out[t, 1] = p[users[t], 0] + q[items[t], 0]
        out[t, 2] = dot(p, users[t], q, items[t])


@compiled
def learn_rating(
    kind: int,
    c: Floats,
    share: float,
    u: int,
    i: int,
    y: float,
    mean: float,
    p: Floats,
    q: Floats,
    user: Side,
    item: Side,
    g: Floats,
) -> None:
    """One step on the squared error of one rating; p and q are the rows of `user` and `item`."""
    error = y - (mean + p[u, 0] + q[i, 0] + dot(p, u, q, i))
    if kind == SGD_KIND:
        pull_plainly(c, share, -2.0 * error, p, u, q, i)
    elif kind == PA_KIND:
        passive_aggressive(c, p, u, q, i, error)
    else:
        pull(kind, c, share, -2.0 * error, u, i, user, item, g)


@compiled
def learn_ratings(
    users: Slots,
    items: Slots,
    ratings: Floats,
    kind: int,
    c: Floats,
    share: float,
    user: Side,
    item: Side,
    total: Floats,
    old_slots: Slots,
    old_ratings: Floats,
    replay: int,
    seed: Seed,
    out: Floats,
) -> None:
    """Predict, then learn, each rating in its turn; out [n, 3] are the parts of the predictions.

    `total` [2] is the number of ratings and their mean; `old_slots` [m, 2] and `old_ratings` [m] the last m of them, in
    a ring, of which `replay` drawn ones are learned again after each.
    """
    p, q = user[0], item[0]
    g = np.empty((2, p.shape[1]))
    for t in range(len(users)):
        u, i = users[t], items[t]
        out[t, 0] = total[1]
        out[t, 1] = p[u, 0] + q[i, 0]
        out[t, 2] = dot(p, u, q, i)
        place = int(total[0]) % max(1, len(old_ratings))
        total[0] += 1
        total[1] += (ratings[t] - total[1]) / total[0]
        learn_rating(kind, c, share, u, i, ratings[t], total[1], p, q, user, item, g)
        held = min(int(total[0]), len(old_ratings))
        if replay > 0:
            old_slots[place, 0], old_slots[place, 1], old_ratings[place] = u, i, ratings[t]
        for _ in range(replay):
            k = draw(seed, held)
            old = old_slots[k, 0], old_slots[k, 1], old_ratings[k]
            learn_rating(kind, c, share, old[0], old[1], old[2], total[1], p, q, user, item, g)


@compiled
def sigmoid(x: float) -> float:
    """1 / (1 + e^-x), without overflow."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


@compiled
def learn_pair(kind: int, c: Floats, share: float, u: int, i: int, j: int, user: Side, item: Side, g: Floats) -> None:
    """One step of BPR: item i above item j for user u. The user's bias cancels out and stays."""
    p, q = user[0], item[0]
    slope = -sigmoid(q[j, 0] - q[i, 0] + dot(p, u, q, j) - dot(p, u, q, i))
    g[0, 0], g[1, 0], g[2, 0] = 0.0, slope, -slope
    for f in range(1, p.shape[1]):
        g[0, f] = slope * (q[i, f] - q[j, f])
        g[1, f] = slope * p[u, f]
        g[2, f] = -slope * p[u, f]
    move(kind, c, share, user, u, g, 0)
    move(kind, c, share, item, i, g, 1)
    move(kind, c, share, item, j, g, 2)


@compiled
def learn_positives(
    users: Slots,
    items: Slots,
    known: Slots,
    pairwise: bool,
    negatives: int,
    kind: int,
    c: Floats,
    share: float,
    user: Side,
    item: Side,
    seed: Seed,
    out: Floats,
) -> None:
    """Score, then learn, each interaction; `known` [n] is how many items there are at its turn, drawn from evenly."""
    g = np.empty((3, user[0].shape[1]))
    for t in range(len(users)):
        u, i = users[t], items[t]
        out[t] = user[0][u, 0] + item[0][i, 0] + dot(user[0], u, item[0], i)
        if not pairwise:
            pull(kind, c, share, sigmoid(out[t]) - 1.0, u, i, user, item, g)
        for _ in range(negatives if known[t] > 1 else 0):
            j = draw(seed, known[t] - 1)
            j += j >= i
            if pairwise:
                learn_pair(kind, c, share, u, i, j, user, item, g)
            else:
                score = user[0][u, 0] + item[0][j, 0] + dot(user[0], u, item[0], j)
                pull(kind, c, share, sigmoid(score), u, j, user, item, g)
