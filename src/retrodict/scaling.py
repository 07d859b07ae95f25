"""Scaling: from the user's units to numbers of order one, and back.

    u = unconstrain(x)                         off the support, onto the real line
    v = arcsinh((u - c) / w)                   only where the tails are heavy; v = (u - c) / w elsewhere
    z = (v - m) / s                            zero mean, unit variance over the training rows

c is the median and w the interquartile range over 1.349, so that outliers decide nothing before arcsinh has tamed
them. A token has heavy tails when its central 99.8 % is more than twice as wide as that of the Gaussian with the same
interquartile range. The log-determinant of the whole chain turns a density of z into a density of x.
"""

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from retrodict import supports
from retrodict._errors import DataError
from retrodict.variables import Layout


GAUSSIAN_IQR = 1.349
GAUSSIAN_RANGE = 6.18  # the central 99.8 % of a Gaussian, in standard deviations
HEAVY = 2.0


class Scaling(eqx.Module):
    """The chain of the module's first lines, per token.

    `fit` reads it off training rows; a fresh one leaves the unconstrained values as they are.
    """

    layout: Layout = eqx.field(static=True)
    center: Float[Array, " d"]
    width: Float[Array, " d"]
    heavy: Bool[Array, " d"]
    mean: Float[Array, " d"]
    std: Float[Array, " d"]

    @classmethod
    def identity(cls, layout: Layout) -> "Scaling":
        """No scaling but the supports."""
        zero, one = jnp.zeros(layout.size), jnp.ones(layout.size)
        return cls(layout, zero, one, jnp.zeros(layout.size, bool), zero, one)

    @classmethod
    def fit(cls, layout: Layout, rows: np.ndarray) -> "Scaling":
        """Reads center, width, tails, mean and standard deviation off rows `(n, d)` of tokens in the user's units.

        Raises:
            DataError: a token is the same in every row, so that there is nothing to learn about it.
        """
        u = np.asarray(supports.unconstrain(rows, *layout.ends), np.float64)
        low, quarter, center, three, high = np.quantile(u, [0.001, 0.25, 0.5, 0.75, 0.999], axis=0)
        width = (three - quarter) / GAUSSIAN_IQR
        # more than half of the rows alike (a count that is mostly zero): fall back on the plain standard deviation
        width = np.where(width > 0, width, u.std(axis=0))
        constant = np.flatnonzero(width == 0)
        if constant.size:
            owner = layout.variables[layout.owner[constant[0]]]
            raise DataError(
                f"'{owner.name}' has an element that is the same in all {len(rows)} rows; "
                "leave it out of the simulator's output"
            )
        heavy = (high - low) / width > HEAVY * GAUSSIAN_RANGE
        plain = (u - center) / width
        v = np.where(heavy, np.arcsinh(plain), plain)
        single = functools.partial(jnp.asarray, dtype=jnp.float32)
        return cls(
            layout, single(center), single(width), jnp.asarray(heavy), single(v.mean(axis=0)), single(v.std(axis=0))
        )

    def forward(self, x: ArrayLike) -> Float[Array, "*n d"]:
        """Tokens `(*n, d)` in the user's units to scaled ones."""
        plain = (supports.unconstrain(x, *self.layout.ends) - self.center) / self.width
        return (jnp.where(self.heavy, jnp.arcsinh(plain), plain) - self.mean) / self.std

    def unscale(self, z: ArrayLike) -> Float[Array, "*n d"]:
        """Scaled tokens `(*n, d)` to the real line before `constrain`."""
        v = jnp.asarray(z) * self.std + self.mean
        plain = jnp.where(self.heavy, jnp.sinh(jnp.where(self.heavy, v, 0.0)), v)
        return plain * self.width + self.center

    def inverse(self, z: ArrayLike) -> Float[Array, "*n d"]:
        """Scaled tokens `(*n, d)` back to the user's units, always inside the supports."""
        return supports.constrain(self.unscale(z), *self.layout.ends)

    def log_slope(self, z: ArrayLike) -> Float[Array, "*n d"]:
        """`log |dx/dz|` per token, so that log p(x) = log p(z) - the sum over what is asked."""
        v = jnp.asarray(z) * self.std + self.mean
        bend = jnp.where(self.heavy, jnp.log(jnp.cosh(jnp.where(self.heavy, v, 0.0))), 0.0)
        slope = supports.log_slope(self.unscale(z), *self.layout.ends)
        return slope + bend + jnp.log(self.width * self.std)
