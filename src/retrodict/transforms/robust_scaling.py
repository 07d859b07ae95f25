"""Tails: numbers of any width and weight of tails become numbers of order one, one by one.

    v = arcsinh((u - c) / w)        only where the tails are heavy; v = (u - c) / w elsewhere
    z = (v - m) / s                 zero mean, unit variance over the rows that were seen, or less: none of them is
                                    further than 12 from zero

c is the median and w the interquartile range over 1.349, so that outliers decide nothing before arcsinh has tamed them.
Tails are heavy where the central 99.8 % is more than twice as wide as that of the Gaussian with the same interquartile
range.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float


GAUSSIAN_IQR = 1.349
GAUSSIAN_RANGE = 6.18  # the central 99.8 % of a Gaussian, in standard deviations
HEAVY = 2.0
FURTHEST = 12.0  # of a row, in standard deviations: a count that is 1 once in 10,000 rows would lie at 100


class RobustScaling(eqx.Module):
    """The map of the module's first lines, for `k` elements."""

    center: Float[Array, " k"]
    width: Float[Array, " k"]
    heavy: Bool[Array, " k"]
    mean: Float[Array, " k"]
    std: Float[Array, " k"]

    @classmethod
    def identity(cls, k: int) -> "RobustScaling":
        """Numbers as they are."""
        zero, one = jnp.zeros(k), jnp.ones(k)
        return cls(zero, one, jnp.zeros(k, bool), zero, one)

    @classmethod
    def fit(cls, rows: np.ndarray) -> "RobustScaling":
        """Center, width, tails, mean and standard deviation of rows `(n, k)`; the width of what never varies is its
        value, or one at zero."""
        u = np.asarray(rows, np.float64)
        low, quarter, center, three, high = np.quantile(u, [0.001, 0.25, 0.5, 0.75, 0.999], axis=0)
        width = (three - quarter) / GAUSSIAN_IQR
        # more than half of the rows alike (a count that is mostly zero): fall back on the plain standard deviation
        width = np.where(width > 0, width, u.std(axis=0))
        width = np.where(width > 0, width, np.where(center == 0, 1.0, abs(center)))
        heavy = (high - low) / width > HEAVY * GAUSSIAN_RANGE
        plain = (u - center) / width
        v = np.where(heavy, np.arcsinh(plain), plain)
        mean = v.mean(axis=0)
        std = np.maximum(v.std(axis=0), abs(v - mean).max(axis=0) / FURTHEST)
        std = np.where(std > 0, std, 1.0)
        center, width, mean, std = (jnp.asarray(part, jnp.float32) for part in (center, width, mean, std))
        return cls(center, width, jnp.asarray(heavy), mean, std)

    def tame(self, u: ArrayLike) -> Float[Array, "*n k"]:
        """Numbers `(*n, k)` of order one."""
        plain = (jnp.asarray(u) - self.center) / self.width
        return (jnp.where(self.heavy, jnp.arcsinh(plain), plain) - self.mean) / self.std

    def free(self, z: ArrayLike) -> Float[Array, "*n k"]:
        """The inverse of `tame`."""
        v = jnp.asarray(z) * self.std + self.mean
        plain = jnp.where(self.heavy, jnp.sinh(jnp.where(self.heavy, v, 0.0)), v)
        return plain * self.width + self.center

    def log_slope(self, z: ArrayLike) -> Float[Array, "*n k"]:
        """`log |du/dz|` of each."""
        v = jnp.asarray(z) * self.std + self.mean
        bend = jnp.where(self.heavy, jnp.log(jnp.cosh(jnp.where(self.heavy, v, 0.0))), 0.0)
        return bend + jnp.log(self.width * self.std)
