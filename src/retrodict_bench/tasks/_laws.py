"""Log densities that several likelihoods share, and draws of a truncated normal distribution."""

import math

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, ArrayLike


def log_normal(x: ArrayLike, mean: ArrayLike, sd: ArrayLike) -> Array:
    """Returns log N(x; mean, sd^2), element by element."""
    z = (jnp.asarray(x) - mean) / sd
    return -0.5 * z**2 - jnp.log(sd) - 0.5 * math.log(2 * math.pi)


def log_normal_observed(x: ArrayLike, mean: ArrayLike, sd: ArrayLike) -> Array:
    """Returns the sum of `log_normal` over the elements of `x` that are not NaN; NaN elements add no gradient."""
    observed = ~jnp.isnan(x)
    # NaN is replaced before the density too: the gradient of a NaN that the outer `where` drops is NaN
    return jnp.sum(jnp.where(observed, log_normal(jnp.where(observed, x, 0.0), mean, sd), 0.0))


def log_poisson(count: Array, mean: Array) -> Array:
    """Returns log P(count) of a Poisson law with this mean above 0, element by element."""
    return count * jnp.log(mean) - mean - gammaln(count + 1.0)


def log_mass_between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns the log mass of a standard normal between `low` and `high`, accurate far out in either tail."""
    from scipy.special import log_ndtr

    flip = low > 0  # only the lower tail keeps all digits
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    return log_ndtr(high) + np.log1p(-np.exp(log_ndtr(low) - log_ndtr(high)))


def draw_truncated_normal(
    rng: np.random.Generator, mean: np.ndarray, sd: np.ndarray, low: float, high: float, shape: tuple[int, ...]
) -> np.ndarray:
    """Draws N(mean, sd^2) truncated to the interval from `low` to `high`."""
    from scipy.special import ndtr, ndtri

    a, b = np.broadcast_arrays((low - mean) / sd, (high - mean) / sd)
    sign = np.where(a > 0, -1.0, 1.0)
    a, b = np.where(a > 0, -b, a), np.where(a > 0, -a, b)
    z = ndtri(ndtr(a) + rng.uniform(size=shape) * (ndtr(b) - ndtr(a)))
    return np.clip(mean + sd * sign * z, low, high)
