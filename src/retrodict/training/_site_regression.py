"""Center and width of shared parameters, by regressions on sets of fully observed sites.

    z = F(set) . c + exp(H(set) . w) e,    e ~ N(0, 1)        F, H: moments over sites and random features, see `_plate`

The center is a weighted least-squares fit, in which each set has the precision that the width predicts. The width has
the largest Gaussian log density of the residuals of sets that the centers were not fitted to, a convex problem. Center
and width are fitted in turn, twice. The ridge on the random features is chosen by sets left out of the fit, so that
nonlinear features cost no precision where the truth is linear.

Questions about fewer sites than in training have missing sites, all of them in the limit. A regression fitted to full
sets only would extrapolate there, so that every set is seen through windows of 0 to all of its sites. Partly observed
sites do not occur in training either, and carry less information than full ones: a width much smaller than all widths
of training is raised to a lower limit.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from retrodict.nets._plate import RandomFeatures, SiteRegression


FOLDS = 4
RIDGES = ((1e-6, 1e6), (1e-6, 1e-2), (1e-6, 1e-4), (1e-3, 1e6), (1e-3, 1e-2), (1e-1, 1e6))  # of moments, of features
WIDTH_RIDGES = (1e3, 1e-2, 1e-4)
SIZE_RIDGE = 1e-5  # on a log width's coefficients of the number of sites: few numbers leave them collinear
MAX_WIDTH_ROWS = 30_000
MIN_SQUARE = 1e-12
MAX_LOG_NARROWING = 1.0  # below the log widths of all training sets: the width of about seven times as many sites


class SetStatistics(NamedTuple):
    """Summary statistics of sets, the predictors of the regressions.

    Moments `(n, m)`, the basis `(n, b)`, functions of the number of sites `(n, 4)`, that number `(n,)`, and the index
    of the set that a row is a window of, `(n,)`.
    """

    moments: np.ndarray
    basis: np.ndarray
    of_number: np.ndarray
    n: np.ndarray
    set_index: np.ndarray


def random_features_of(moments: np.ndarray, n: np.ndarray, like: RandomFeatures) -> RandomFeatures:
    """Returns the random features `like`, standardized for these moments."""
    several_sites = moments[n > 1] if (n > 1).any() else moments
    mean, std = several_sites.mean(axis=0), several_sites.std(axis=0)
    return RandomFeatures(
        jnp.asarray(mean, jnp.float32),
        jnp.asarray(np.where(std > 1e-6, std, 1.0), jnp.float32),
        like.weights,
        like.bias,
    )


def fit_site_regression(statistics: SetStatistics, truth: np.ndarray, features: RandomFeatures) -> SiteRegression:
    """Fits center and log width of shared elements `(n, k)`."""
    moments, n = (jnp.asarray(array, jnp.float32) for array in (statistics.moments, statistics.n))
    random = np.asarray(features.batch(moments, n), np.float64)
    predictors, linear = np.concatenate([statistics.basis, random], axis=1), statistics.basis.shape[1]
    width_predictors = np.concatenate([statistics.of_number, predictors], axis=1)
    held_out = statistics.set_index % FOLDS == 0
    centers: list[np.ndarray] = []
    widths: list[np.ndarray] = []
    narrowest: list[float] = []
    for z in np.asarray(truth, np.float64).T:
        precision = 1.0 + statistics.n  # about that of a posterior of n sites, in units of the prior's
        for ridges in (WIDTH_RIDGES[:1], WIDTH_RIDGES):
            center, residual = _fit_center(predictors, linear, z, precision, statistics.set_index)
            width = _fit_width(width_predictors, statistics.of_number.shape[1], residual, held_out, ridges)
            log_width = width_predictors @ width
            precision = np.exp(-2.0 * (log_width - log_width.min()))
        centers.append(center)
        widths.append(width)
        narrowest.append(float(log_width.min()) - MAX_LOG_NARROWING)
    center, width = np.stack(centers, axis=1), np.stack(widths, axis=1)
    single = functools.partial(jnp.asarray, dtype=jnp.float32)
    return SiteRegression(single(center), single(width), single(narrowest), features)


def _fit_center(
    predictors: np.ndarray, linear: int, z: np.ndarray, precision: np.ndarray, set_index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns coefficients by weighted least squares, and residuals of each row from fits to other sets.

    The ridges, one of the `linear` first predictors and one of the others, are chosen by the first fold.
    """
    root = np.sqrt(precision / precision.mean())[:, None]
    x, y = predictors * root, z * root[:, 0]
    folds = [set_index % FOLDS == fold for fold in range(FOLDS)]
    grams = np.stack([x[rows].T @ x[rows] for rows in folds])
    products = np.stack([x[rows].T @ y[rows] for rows in folds])
    scale = np.sqrt(np.diag(grams[1:].sum(axis=0)) + MIN_SQUARE)

    def solve(gram: np.ndarray, product: np.ndarray, ridges: tuple[float, float]) -> np.ndarray:
        penalized = gram / np.outer(scale, scale)
        penalized += np.diag(np.repeat(ridges, (linear, len(gram) - linear)))
        return np.linalg.solve(penalized, product / scale) / scale

    def without(fold: int, ridges: tuple[float, float]) -> np.ndarray:
        return solve(grams.sum(axis=0) - grams[fold], products.sum(axis=0) - products[fold], ridges)

    def held_out_error(ridges: tuple[float, float]) -> float:
        coefficients = without(0, ridges)
        error = float(coefficients @ grams[0] @ coefficients - 2.0 * products[0] @ coefficients)
        return error if np.isfinite(error) else float("inf")

    best, residual = min(RIDGES, key=held_out_error), np.empty_like(z)
    for fold, rows in enumerate(folds):
        residual[rows] = z[rows] - predictors[rows] @ without(fold, best)
    return solve(grams.sum(axis=0), products.sum(axis=0), best), residual


def _fit_width(
    predictors: np.ndarray, numbers: int, residual: np.ndarray, held_out: np.ndarray, ridges: tuple[float, ...]
) -> np.ndarray:
    """Returns the w of the largest Gaussian log density of residuals with the log widths `predictors @ w`.

    The ridge on all but the first `numbers` predictors is chosen by the rows `held_out`.
    """
    from scipy.optimize import minimize

    step = max(1, len(residual) // MAX_WIDTH_ROWS)
    scale = np.sqrt(np.mean(predictors[::step] ** 2, axis=0) + MIN_SQUARE)
    x, squares, held_out = predictors[::step] / scale, residual[::step] ** 2 + MIN_SQUARE, held_out[::step]

    def fit(rows: np.ndarray, ridge: float) -> np.ndarray:
        x_, squares_ = x[rows], squares[rows]
        penalty = np.repeat((SIZE_RIDGE, ridge), (numbers, x.shape[1] - numbers))

        def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
            log_width = np.clip(x_ @ w, -30.0, 30.0)
            standardized = squares_ * np.exp(-2.0 * log_width)
            slope = x_.T @ (1.0 - standardized) / len(standardized)
            return float(np.mean(0.5 * standardized + log_width) + 0.5 * w @ (penalty * w)), slope + penalty * w

        start = np.zeros(x.shape[1])
        logs = 0.5 * np.log(squares_) + 0.635  # E log |e| = -.635 of a normal e
        start[:numbers] = np.linalg.lstsq(x_[:, :numbers], logs, rcond=None)[0]
        return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x

    def held_out_loss(ridge: float) -> float:
        log_width = x[held_out] @ fit(~held_out, ridge)
        loss = float(np.mean(0.5 * squares[held_out] * np.exp(-2.0 * log_width) + log_width))
        return loss if np.isfinite(loss) else float("inf")

    best = ridges[0] if len(ridges) == 1 else min(ridges, key=held_out_loss)
    return fit(np.ones(len(x), bool), best) / scale
