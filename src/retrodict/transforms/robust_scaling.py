"""Robust scaling: maps each element to order one, whatever its width and however heavy its tails.

    v = arcsinh((u - c) / w)        if its tails are heavy; v = (u - c) / w otherwise
    z = (v - m) / s                 zero mean and unit variance over the training rows

c is the median and w the interquartile range over 1.349, so that outliers have no influence before arcsinh folds them.
Tails are heavy if the central 99.8 % of the rows are more than twice as wide as for a Gaussian with the same
interquartile range. s is raised where needed, so that no training row lies more than 12 from zero.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float


GAUSSIAN_IQR = 1.349  # in standard deviations
GAUSSIAN_RANGE = 6.18  # the central 99.8 % of a Gaussian, in standard deviations
HEAVY_RANGE_RATIO = 2.0
MAX_STANDARDIZED = 12.0  # a count that is 1 once in 10,000 rows would lie at 100


class RobustScaling(eqx.Module):
    """The map of the module's first lines, for `k` elements."""

    center: Float[Array, " k"]
    width: Float[Array, " k"]
    heavy: Bool[Array, " k"]
    mean: Float[Array, " k"]
    std: Float[Array, " k"]

    @classmethod
    def identity(cls, k: int) -> "RobustScaling":
        """The map that changes nothing."""
        zero, unit = np.zeros(k), np.ones(k)
        return cls(zero, unit, np.zeros(k, bool), zero, unit)

    @classmethod
    def fit(cls, rows: np.ndarray) -> "RobustScaling":
        """Fits the map to rows `(n, k)`; the width of a constant element is its absolute value, or one at zero."""
        u = np.asarray(rows, np.float64)
        low, quarter, center, three_quarters, high = np.quantile(u, [0.001, 0.25, 0.5, 0.75, 0.999], axis=0)
        width = (three_quarters - quarter) / GAUSSIAN_IQR
        # more than half of the rows alike (a count that is mostly zero): fall back on the plain standard deviation
        width = np.where(width > 0, width, u.std(axis=0))
        width = np.where(width > 0, width, np.where(center == 0, 1.0, abs(center)))
        heavy = (high - low) / width > HEAVY_RANGE_RATIO * GAUSSIAN_RANGE
        standardized = (u - center) / width
        v = np.where(heavy, np.arcsinh(standardized), standardized)
        mean = v.mean(axis=0)
        std = np.maximum(v.std(axis=0), abs(v - mean).max(axis=0) / MAX_STANDARDIZED)
        std = np.where(std > 0, std, 1.0)
        return cls(center, width, heavy, mean, std)

    def forward(self, u: ArrayLike) -> Float[Array, "*n k"]:
        """Maps `(*n, k)` to order one."""
        u, xp = _array(u)
        standardized = (u - self.center) / self.width
        return (xp.where(self.heavy, xp.arcsinh(standardized), standardized) - self.mean) / self.std

    def inverse(self, z: ArrayLike) -> Float[Array, "*n k"]:
        """Inverts `forward`."""
        z, xp = _array(z)
        v = z * self.std + self.mean
        standardized = xp.where(self.heavy, xp.sinh(xp.where(self.heavy, v, 0.0)), v)
        return standardized * self.width + self.center

    def log_slope(self, z: ArrayLike) -> Float[Array, "*n k"]:
        """Returns `log |du/dz|` of each element."""
        z, xp = _array(z)
        v = z * self.std + self.mean
        log_cosh = xp.where(self.heavy, xp.log(xp.cosh(xp.where(self.heavy, v, 0.0))), 0.0)
        return log_cosh + xp.log(self.width * self.std)


def _array(x):
    if isinstance(x, jax.Array | jax.core.Tracer):
        return x, jnp
    return np.asarray(x, np.float64), np
