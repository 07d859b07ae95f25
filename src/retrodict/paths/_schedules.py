"""Schedules: the coefficients `alpha` of the data and `sigma` of the noise in `x_t = alpha x1 + sigma x0`.

Time t = 0 is noise and t = 1 is data, so the ratio `sigma / alpha` falls strictly with t.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from retrodict._types import Scalar


class AbstractSchedule(eqx.Module):
    """The coefficients of data and noise in `x_t`, as functions of time."""

    @abc.abstractmethod
    def __call__(self, t: Scalar) -> tuple[Array, Array]:
        """Returns `(alpha, sigma)` at time `t`; `sigma / alpha` must fall strictly with `t`."""

    def slopes(self, t: Scalar) -> tuple[Array, Array]:
        """Returns the time derivatives `(alpha', sigma')`, by automatic differentiation."""
        _, slopes = jax.jvp(self, (t,), (jnp.ones_like(t),))
        return slopes

    def at_ratio(self, ratio: Array) -> Array:
        """Returns the time at which `sigma / alpha` is `ratio`, or the nearest end, by bisection for any schedule."""

        def bisect(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            alpha, sigma = self(middle)
            is_too_early = sigma > ratio * alpha
            return jnp.where(is_too_early, middle, low), jnp.where(is_too_early, high, middle)

        ends = (jnp.zeros_like(ratio), jnp.ones_like(ratio))
        halvings = 52 if ratio.dtype == jnp.float64 else 26  # about the bits of the mantissa
        low, high = jax.lax.fori_loop(0, halvings, bisect, ends)
        return (low + high) / 2


class Straight(AbstractSchedule):
    """The straight line from noise to data: conditional optimal transport (Lipman et al., 2023)."""

    def __call__(self, t: Scalar) -> tuple[Array, Array]:
        return t, 1.0 - t


class VariancePreserving(AbstractSchedule):
    """The variance-preserving schedule (Song et al., 2021): `alpha = exp(-B / 2)`, `sigma = sqrt(1 - exp(-B))`.

    B is the integral of beta from t to 1, and beta falls linearly from `beta_max` at the noise to `beta_min` at the
    data. The slope sigma' is infinite at the data.
    """

    beta_min: float = eqx.field(static=True, default=0.1)
    beta_max: float = eqx.field(static=True, default=20.0)

    def __call__(self, t: Scalar) -> tuple[Array, Array]:
        s = 1.0 - t
        integral = self.beta_min * s + (self.beta_max - self.beta_min) * s**2 / 2
        return jnp.exp(-integral / 2), jnp.sqrt(-jnp.expm1(-integral))


class VarianceExploding(AbstractSchedule):
    """The variance-exploding schedule (Song et al., 2021): alpha = 1, sigma falls from `sigma_max` to `sigma_min`.

    log sigma is linear in t.
    """

    sigma_min: float = eqx.field(static=True, default=1e-3)
    sigma_max: float = eqx.field(static=True, default=80.0)

    def __call__(self, t: Scalar) -> tuple[Array, Array]:
        return jnp.ones_like(t), self.sigma_max * (self.sigma_min / self.sigma_max) ** t


class Karras(AbstractSchedule):
    """The EDM schedule (Karras et al., 2022, eq. 5): alpha = 1, sigma falls from `sigma_max` to `sigma_min`.

    `sigma ** (1 / rho)` is linear in t.
    """

    sigma_min: float = eqx.field(static=True, default=0.002)
    sigma_max: float = eqx.field(static=True, default=80.0)
    rho: float = eqx.field(static=True, default=7.0)

    def __call__(self, t: Scalar) -> tuple[Array, Array]:
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return jnp.ones_like(t), (high + t * (low - high)) ** self.rho
