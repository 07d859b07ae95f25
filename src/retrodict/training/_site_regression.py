"""Center and width of what is shared, by regressions on sets of sites that are observed in full.

    z = F(set) . c + exp(H(set) . w) e,    e ~ N(0, 1)        F, H: moments over sites and bumps of them, see `_plate`

The center is a least-squares fit in which a set counts as its width tells, the width the fit of largest Gaussian log
density of what centers leave of sets that they were not fitted to (convex); one after the other, twice. How much the
bumps may bend is chosen by sets that are not fitted to, so that where the truth is linear no precision is lost to them.

Questions with fewer sites than training has come from data that are missing, down to none at all: a regression that
never saw them goes astray there. So every set is seen through windows of 0 to all of its sites. Nor did it see sites
that are observed in part, which say less than whole ones: no width is believed that is much less than all of these.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from retrodict.nets._plate import RandomFeatures, SiteRegression


HELD_OUT = 4  # every fourth set judges
RIDGES = ((1e-6, 1e6), (1e-6, 1e-2), (1e-6, 1e-4), (1e-3, 1e6), (1e-3, 1e-2), (1e-1, 1e6))  # of moments and of bumps
WIDTH_RIDGES = (1e3, 1e-2, 1e-4)
FLAT = 1e-5  # of the squares of a log width's coefficients: few numbers of sites do not tell them apart
FEW = 30_000  # rows that tell a width
FLOOR = 1e-12
NARROWER = 1.0  # than any set of training in its log width, at most: as seven times as many sites are


class Seen(NamedTuple):
    """What the regressions read of sets: moments `(n, m)`, the basis `(n, b)`, functions of the number of sites
    `(n, 4)`, these numbers `(n,)`, and which set a row is of `(n,)`."""

    moments: np.ndarray
    basis: np.ndarray
    of_number: np.ndarray
    n: np.ndarray
    which: np.ndarray


def random_features_of(moments: np.ndarray, n: np.ndarray, like: RandomFeatures) -> RandomFeatures:
    """Bumps where the moments are."""
    some = moments[n > 1] if (n > 1).any() else moments
    mean, std = some.mean(axis=0), some.std(axis=0)
    return RandomFeatures(
        jnp.asarray(mean, jnp.float32),
        jnp.asarray(np.where(std > 1e-6, std, 1.0), jnp.float32),
        like.weights,
        like.bias,
    )


def regressed(seen: Seen, truth: np.ndarray, bumps: RandomFeatures) -> SiteRegression:
    """The line of shared elements `(n, k)`."""
    bent = np.asarray(bumps.batch(jnp.asarray(seen.moments, jnp.float32), jnp.asarray(seen.n, jnp.float32)), np.float64)
    features, moments = np.concatenate([seen.basis, bent], axis=1), seen.basis.shape[1]
    wide = np.concatenate([seen.of_number, features], axis=1)
    judges = seen.which % HELD_OUT == 0
    centers: list[np.ndarray] = []
    widths: list[np.ndarray] = []
    narrowest: list[float] = []
    for z in np.asarray(truth, np.float64).T:
        weight = 1.0 + seen.n  # a posterior of n sites is about that much sharper than the prior
        for last in (False, True):
            center, left = _center(features, moments, z, weight, seen.which)
            ridges = WIDTH_RIDGES if last else WIDTH_RIDGES[:1]
            width = _width(wide, seen.of_number.shape[1], left, judges, ridges)
            log_width = wide @ width
            weight = np.exp(-2.0 * (log_width - log_width.min()))
        centers.append(center)
        widths.append(width)
        narrowest.append(float((wide @ width).min()) - NARROWER)
    center, width = np.stack(centers, axis=1), np.stack(widths, axis=1)
    single = functools.partial(jnp.asarray, dtype=jnp.float32)
    return SiteRegression(single(center), single(width), single(narrowest), bumps)


def _center(
    features: np.ndarray, moments: int, z: np.ndarray, weight: np.ndarray, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares, the ridges chosen by rows that judge; and what fits to other sets leave of each row."""
    root = np.sqrt(weight / weight.mean())[:, None]
    x, y = features * root, z * root[:, 0]
    folds = [which % HELD_OUT == fold for fold in range(HELD_OUT)]
    grams = np.stack([x[rows].T @ x[rows] for rows in folds])
    rights = np.stack([x[rows].T @ y[rows] for rows in folds])
    scale = np.sqrt(np.diag(grams[1:].sum(axis=0)) + FLOOR)

    def solved(gram: np.ndarray, right: np.ndarray, ridges: tuple[float, float]) -> np.ndarray:
        shrunk = gram / np.outer(scale, scale)
        shrunk += np.diag(np.repeat(ridges, (moments, len(gram) - moments)))
        return np.linalg.solve(shrunk, right / scale) / scale

    def without(fold: int, ridges: tuple[float, float]) -> np.ndarray:
        return solved(grams.sum(axis=0) - grams[fold], rights.sum(axis=0) - rights[fold], ridges)

    def score(ridges: tuple[float, float]) -> float:
        found = without(0, ridges)
        return float(found @ grams[0] @ found - 2.0 * rights[0] @ found)

    best, left = min(RIDGES, key=score), np.empty_like(z)
    for fold, rows in enumerate(folds):
        left[rows] = z[rows] - features[rows] @ without(fold, best)
    return solved(grams.sum(axis=0), rights.sum(axis=0), best), left


def _width(
    wide: np.ndarray, numbers: int, left: np.ndarray, judges: np.ndarray, ridges: tuple[float, ...]
) -> np.ndarray:
    """The w of the largest Gaussian log density of residuals with the log widths `wide @ w`."""
    from scipy.optimize import minimize

    step = max(1, len(left) // FEW)
    scale = np.sqrt(np.mean(wide[::step] ** 2, axis=0) + FLOOR)
    x, squares, judges = wide[::step] / scale, left[::step] ** 2 + FLOOR, judges[::step]

    def fitted(rows: np.ndarray, ridge: float) -> np.ndarray:
        x_, squares_ = x[rows], squares[rows]
        penalty = np.repeat((FLAT, ridge), (numbers, x.shape[1] - numbers))

        def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
            log_width = np.clip(x_ @ w, -30.0, 30.0)
            share = squares_ * np.exp(-2.0 * log_width)
            slope = x_.T @ (1.0 - share) / len(share)
            return float(np.mean(0.5 * share + log_width) + 0.5 * w @ (penalty * w)), slope + penalty * w

        start = np.zeros(x.shape[1])
        logs = 0.5 * np.log(squares_) + 0.635  # E log |e| = -.635 of a normal e
        start[:numbers] = np.linalg.lstsq(x_[:, :numbers], logs, rcond=None)[0]
        return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x

    def score(ridge: float) -> float:
        log_width = x[judges] @ fitted(~judges, ridge)
        return float(np.mean(0.5 * squares[judges] * np.exp(-2.0 * log_width) + log_width))

    best = ridges[0] if len(ridges) == 1 else min(ridges, key=score)
    return fitted(np.ones(len(x), bool), best) / scale
