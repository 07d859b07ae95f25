"""Bernoulli GLM: a neuron that filters its stimulus, after the benchmark sbibm.

    y_t ~ Bernoulli(sigmoid(psi_t)),   psi = B theta,   t = 1, ..., 100
    B = [1, s_t, s_(t-1), ..., s_(t-8)]         a constant, then the last nine values of a white-noise stimulus s
    theta_0 ~ N(0, 2) (variance 2), a threshold;   (theta_1 .. theta_9) ~ N(0, (F'F)^-1), a smooth filter
    F = D D + diag(sqrt(i / 9), i = 0..8),   D = I - subdiagonal

log p(y | theta) = theta . B'y - sum_t log(1 + e^psi_t), so x = B'y, ten numbers, is a sufficient statistic of y. s is
sbibm's stimulus. `bernoulli_glm` observes x, `bernoulli_glm_raw` observes y: the posterior is the same.
"""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.nn import sigmoid, softplus
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Problem
from retrodict_bench.tasks._sbibm import sbibm_task, small
from retrodict_bench.tasks._task import Task


BINS, FILTER = 100, 9


def design() -> Float[np.ndarray, "100 10"]:
    """Returns B."""
    stimulus = small("bernoulli_glm_stimulus")
    lags = [np.concatenate([np.zeros(lag, np.float32), stimulus[: BINS - lag]]) for lag in range(FILTER)]
    return np.stack([np.ones(BINS, np.float32), *lags], axis=1)


def precision() -> Float[np.ndarray, "10 10"]:
    """Returns the inverse of the prior's covariance."""
    step = np.eye(FILTER) - np.eye(FILTER, k=-1)
    root = step @ step + np.diag(np.sqrt(np.arange(FILTER) / FILTER))
    matrix = np.zeros((FILTER + 1, FILTER + 1))
    matrix[0, 0], matrix[1:, 1:] = 0.5, root.T @ root
    return matrix


def simulate_raw(key: PRNGKeyArray, theta: Float[Array, "10"]) -> dict[str, Array]:
    """Draws `x` (100,), each 0 or 1, given `theta` (10,)."""
    return {"x": jr.bernoulli(key, sigmoid(design() @ theta)).astype(float)}


def simulate(key: PRNGKeyArray, theta: Float[Array, "10"]) -> dict[str, Array]:
    """Draws `x` (10,), the sufficient statistics, given `theta` (10,)."""
    return {"x": jnp.asarray(design()).T @ simulate_raw(key, theta)["x"]}


def log_likelihood(theta: Float[Array, "10"], x: Float[Array, "10"]) -> Float[Array, ""]:
    """Returns log p(y | theta) of any y with B'y = x."""
    return x @ theta - jnp.sum(softplus(design() @ theta))


def log_likelihood_raw(theta: Float[Array, "10"], x: Float[Array, "100"]) -> Float[Array, ""]:
    """Returns log p(x | theta)."""
    return log_likelihood(theta, jnp.asarray(design()).T @ x)


def _prior() -> dict[str, Any]:
    import numpyro.distributions as dist

    # inverted in float64, because numpyro inverts a precision in float32
    factor = jnp.asarray(np.linalg.cholesky(np.linalg.inv(precision())))
    return {"theta": dist.MultivariateNormal(jnp.zeros(FILTER + 1), scale_tril=factor)}


def task() -> Task:
    """Returns the task of sbibm: theta (10,) and x (10,), a count and nine sums."""
    structure = {"parents": {"x": ["theta", "x"]}}  # ten sums over the same hundred outcomes
    return sbibm_task("bernoulli_glm", Problem(_prior(), simulate), log_likelihood, structure=structure)


def task_raw() -> Task:
    """Returns the task `bernoulli_glm_raw` of sbibm: theta (10,) and x (100,), the outcomes themselves."""
    return sbibm_task(
        "bernoulli_glm_raw",
        Problem(_prior(), simulate_raw),
        log_likelihood_raw,
        reference="bernoulli_glm",
        structure={"parents": {"x": ["theta"]}},
    )
