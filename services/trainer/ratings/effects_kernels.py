"""Compiled loops of `effects` and `blend`: Kalman steps, one rating after the other."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.trainer.ratings.factorisation_kernels import compiled

Floats = NDArray[np.float64]
Slots = NDArray[np.int64]

COUNT, POPULARITY, LAST_US = range(3)
"""Columns of `seen`: ratings so far; of users also the sum of their items' log counts, and the time of the last one."""


class Half(NamedTuple):
    """Arrays of users or of items, a row per slot."""

    mean: Floats
    cov: Floats
    features: Floats
    seen: Floats


@compiled
def gain(cov: Floats, h: Floats, out: Floats) -> float:
    """out = cov · h; returns h · cov · h. Summed by rows, so that the compiler needs no reordering to go fast."""
    out[:] = 0.0
    for f in range(len(h)):
        x = h[f]
        if x != 0.0:
            for j in range(len(h)):
                out[j] += cov[f, j] * x
    total = 0.0
    for f in range(len(h)):
        total += h[f] * out[f]
    return total


@compiled
def correct(cov: Floats, mean: Floats, a: Floats, error: float, spread: float) -> None:
    """Kalman step of one block: mean += a · error / spread, cov -= a · aᵀ / spread, with a = cov · h.

    Both factors of the product are divided by the root of the spread, so that cov stays symmetric bit for bit; `a` is
    used up.
    """
    root = math.sqrt(spread)
    for f in range(len(a)):
        mean[f] += a[f] * error / spread
        a[f] /= root
    for f in range(len(a)):
        y = a[f]
        for j in range(len(a)):
            cov[f, j] -= y * a[j]


@compiled
def fill(u: int, i: int, user: Half, item: Half, level: float, h: Floats, g: Floats) -> tuple[float, float, float]:
    """Inputs h of the user's block and g of the item's; returns the effects' sum and both log counts."""
    log_user, log_item = math.log1p(user.seen[u, COUNT]), math.log1p(item.seen[i, COUNT])
    h[0] = g[0] = 1.0
    h[1] = log_item - level
    h[2] = item.mean[i, 0]
    h[3:] = item.features[i]
    g[1:] = user.features[u]
    total = 0.0
    for f in range(len(h)):
        total += user.mean[u, f] * h[f]
    for f in range(len(g)):
        total += item.mean[i, f] * g[f]
    return total, log_user, log_item


@compiled
def write_context(
    u: int, user: Half, totals: Floats, total: float, log_user: float, log_item: float, out: Floats, t: int
) -> None:
    """Row t of out [n, 5]."""
    count = user.seen[u, COUNT]
    out[t, 0] = total
    out[t, 1] = log_user
    out[t, 2] = log_item
    out[t, 3] = log_item - (user.seen[u, POPULARITY] / count if count > 0 else totals[2])
    out[t, 4] = totals[1]


@compiled
def predict_effects(users: Slots, items: Slots, user: Half, item: Half, totals: Floats, out: Floats) -> None:
    """Fill out [n, 5] without learning: sum of effects, both log counts, relative popularity, mean of all."""
    h, g = np.empty(user.mean.shape[1]), np.empty(item.mean.shape[1])
    for t in range(len(users)):
        total, log_user, log_item = fill(users[t], items[t], user, item, totals[2], h, g)
        write_context(users[t], user, totals, total, log_user, log_item, out, t)


@compiled
def learn_effects(
    users: Slots,
    items: Slots,
    ratings: Floats,
    times_us: Slots,
    user: Half,
    item: Half,
    totals: Floats,
    user_drift: Floats,
    item_drift: Floats,
    noise: Floats,
    out: Floats,
) -> None:
    """Predict, then learn, each rating; out [n, 5] as in `predict_effects`.

    `totals` [3]: ratings so far, their mean, running mean of the items' log counts. `noise` [4]: variance of a rating,
    microseconds of a pause, variance that a pause adds to the user's level, rate of that running mean.
    """
    h, g = np.empty(user.mean.shape[1]), np.empty(item.mean.shape[1])
    a, b = np.empty(len(h)), np.empty(len(g))
    for t in range(len(users)):
        u, i = users[t], items[t]
        total, log_user, log_item = fill(u, i, user, item, totals[2], h, g)
        write_context(u, user, totals, total, log_user, log_item, out, t)
        error = ratings[t] - totals[1] - total
        if user.seen[u, COUNT] > 0:
            for f in range(len(h)):
                user.cov[u, f, f] += user_drift[f]
            if times_us[t] - user.seen[u, LAST_US] > noise[1]:
                user.cov[u, 0, 0] += noise[2]
        for f in range(len(g)):
            item.cov[i, f, f] += item_drift[f]
        spread = noise[0] + gain(user.cov[u], h, a) + gain(item.cov[i], g, b)
        correct(user.cov[u], user.mean[u], a, error, spread)
        correct(item.cov[i], item.mean[i], b, error, spread)
        user.seen[u, COUNT] += 1
        user.seen[u, POPULARITY] += log_item
        user.seen[u, LAST_US] = times_us[t]
        item.seen[i, COUNT] += 1
        totals[0] += 1
        totals[1] += (ratings[t] - totals[1]) / totals[0]
        totals[2] += (log_item - totals[2]) * noise[3]


@compiled
def learn_blend(base: Floats, x: Floats, ratings: Floats, w: Floats, cov: Floats, noise: float, out: Floats) -> None:
    """Recursive least squares of what `base` [n] missed, on x [n, d]; out [n] are predictions before learning."""
    a = np.empty(x.shape[1])
    for t in range(len(base)):
        out[t] = base[t]
        for f in range(len(w)):
            out[t] += w[f] * x[t, f]
        spread = noise + gain(cov, x[t], a)
        correct(cov, w, a, ratings[t] - out[t], spread)
