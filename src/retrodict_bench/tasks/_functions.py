"""Functions of time: random ones, and dense ones read at any time.

A function lives on a grid and is linear between the points of it, so that what is read between two points is what the
simulator, too, took it to be there. A random one is a Gaussian process, f = L z with z ~ N(0, 1) at each point and

    L L' = K,   K_ij = amplitude^2 exp(-(t_i - t_j)^2 / 2 length^2) + jitter [i = j]

L is found once and in float64: a smooth K is so nearly singular that float32 would not find it positive.
"""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict_bench.tasks._task import frozen


JITTER = 1e-5


def at(times: Float[Array, " k"], grid: Float[np.ndarray, " g"], values: Float[Array, " g"]) -> Float[Array, " k"]:
    """The function with these values on the grid at other times; NaN outside of the grid, where it is not known."""
    return jnp.interp(times, jnp.asarray(grid, values.dtype), values, left=jnp.nan, right=jnp.nan)


def random_times(key: PRNGKeyArray, count: int, grid: Float[np.ndarray, " g"]) -> Float[Array, " count"]:
    """So many times, uniform from end to end of the grid and in order."""
    return jnp.sort(jr.uniform(key, (count,), minval=float(grid[0]), maxval=float(grid[-1])))


@functools.cache
def cholesky(grid: tuple[float, ...], amplitude: float, length: float) -> Float[np.ndarray, "g g"]:
    """L of the module's first lines, lower triangular; computed when it is asked for the first time."""
    t = np.asarray(grid)
    covariance = amplitude**2 * np.exp(-(((t[:, None] - t) / length) ** 2) / 2) + JITTER * np.eye(len(t))
    return frozen(np.linalg.cholesky(covariance))
