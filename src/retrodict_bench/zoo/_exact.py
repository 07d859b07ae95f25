"""Exact means and standard deviations in double precision, by formulas or by quadrature, without the library.

line      one parameter: the trapezoid rule on a grid that closes in on the mass
plane     two parameters, on a grid of both
gaussian  theta ~ N(m, S), x = A theta + b + e, e ~ N(0, R): the conjugate formulas
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np


Pair: TypeAlias = tuple[Any, Any]  # mean and standard deviation
Moments: TypeAlias = Mapping[str, Pair]  # by the name of the parameter, of the parameter's shape
MAX_DROP = 50.0  # nats below the maximum, where a grid ends
ROUNDS = 6  # of a grid that closes in


def line(
    log_density: Callable[[np.ndarray], np.ndarray],
    low: float,
    high: float,
    value: Callable[[np.ndarray], np.ndarray] | None = None,
    points: int = 2001,
) -> Pair:
    """Returns mean and sd of `value(t)`, by default of t itself, under a density of t on an interval."""
    for _ in range(ROUNDS):
        t = np.linspace(low, high, points)
        logs = log_density(t)
        low, high = _narrowed(t, logs)
    t = np.linspace(low, high, points)
    weights = _weights(log_density(t))
    weights[[0, -1]] /= 2.0
    return _moments(t if value is None else value(t), weights)


def plane(
    log_density: Callable[[np.ndarray, np.ndarray], np.ndarray],
    first: tuple[float, float],
    second: tuple[float, float],
    points: int = 241,
) -> tuple[Pair, Pair]:
    """Returns mean and sd of both coordinates under a density of two numbers in a box."""
    for _ in range(ROUNDS):
        a, b = np.linspace(*first, points), np.linspace(*second, points)
        logs = log_density(a[:, None], b[None, :])
        first, second = _narrowed(a, logs.max(axis=1)), _narrowed(b, logs.max(axis=0))
    a, b = np.linspace(*first, points), np.linspace(*second, points)
    weights = _weights(log_density(a[:, None], b[None, :]))
    weights[[0, -1]] /= 2.0
    weights[:, [0, -1]] /= 2.0
    return _moments(a, weights.sum(axis=1)), _moments(b, weights.sum(axis=0))


def gaussian(mean: Any, covariance: Any, matrix: Any, noise: Any, x: Any) -> Pair:
    """Returns mean and sd of theta given x = A theta + e; elements of x that are NaN are left out.

    `covariance` and `noise` are covariance matrices.
    """
    mean, x, matrix = np.atleast_1d(mean), np.ravel(x), np.atleast_2d(matrix)
    seen = np.isfinite(x)
    pull = matrix[seen].T @ np.linalg.inv(np.atleast_2d(noise)[np.ix_(seen, seen)])
    posterior = np.linalg.inv(np.linalg.inv(np.atleast_2d(covariance)) + pull @ matrix[seen])
    return mean + posterior @ pull @ (x[seen] - matrix[seen] @ mean), np.sqrt(np.diag(posterior))


def _narrowed(t: np.ndarray, logs: np.ndarray) -> tuple[float, float]:
    """Returns the ends of the part of a grid that holds the mass, and one point more at each end."""
    near = np.flatnonzero(logs > np.nanmax(logs) - MAX_DROP)
    return float(t[max(near[0] - 1, 0)]), float(t[min(near[-1] + 1, len(t) - 1)])


def _weights(logs: np.ndarray) -> np.ndarray:
    weights = np.exp(logs - np.nanmax(logs))
    return np.where(np.isfinite(weights), weights, 0.0)


def _moments(values: np.ndarray, weights: np.ndarray) -> Pair:
    share = weights / weights.sum()
    mean = float(share @ values)
    return mean, float(np.sqrt(share @ (values - mean) ** 2))
