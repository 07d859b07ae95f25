"""Functions of time on a grid: random functions, and interpolation at any time.

A function has values on a grid and is linear between its points, both for the simulator and for a reader. A random
function is a Gaussian process, f = L z with z ~ N(0, 1) at each point and

    L L' = K,   K_ij = amplitude^2 exp(-(t_i - t_j)^2 / 2 length^2) + jitter [i = j]

L is computed once and in float64: a smooth K is so nearly singular that it is not positive definite in float32.
"""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict_bench.tasks._task import frozen


JITTER = 1e-5


def interpolate(
    times: Float[Array, " k"], grid: Float[np.ndarray, " g"], values: Float[Array, " g"]
) -> Float[Array, " k"]:
    """Interpolates the function with these values on the grid at other times; NaN outside the grid."""
    return jnp.interp(times, jnp.asarray(grid, values.dtype), values, left=jnp.nan, right=jnp.nan)


def random_times(key: PRNGKeyArray, count: int, grid: Float[np.ndarray, " g"]) -> Float[Array, " count"]:
    """Draws `count` times, uniform over the grid and in increasing order."""
    return jnp.sort(jr.uniform(key, (count,), minval=float(grid[0]), maxval=float(grid[-1])))


@functools.cache
def cholesky(grid: tuple[float, ...], amplitude: float, length: float) -> Float[np.ndarray, "g g"]:
    """Returns L of the module's first lines, lower triangular; it is computed on the first call."""
    t = np.asarray(grid)
    covariance = amplitude**2 * np.exp(-(((t[:, None] - t) / length) ** 2) / 2) + JITTER * np.eye(len(t))
    return frozen(np.linalg.cholesky(covariance))
