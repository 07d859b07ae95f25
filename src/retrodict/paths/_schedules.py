"""Schedules: how much data `alpha` and how much noise `sigma` stand in `x_t = alpha x1 + sigma x0`.

`t = 0` is noise and `t = 1` is data, so that the ratio `sigma / alpha` falls all the way.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from retrodict._types import Scalar


class AbstractSchedule(eqx.Module):
    """How much data and how much noise stand in `x_t`."""

    @abc.abstractmethod
    def __call__(self, t: Scalar) -> tuple[Array, Array]:
        """Returns `(alpha, sigma)`; `sigma / alpha` falls strictly with `t`."""

    def slopes(self, t: Scalar) -> tuple[Array, Array]:
        """Returns `(alpha', sigma')`. JAX differentiates; nobody writes these by hand."""
        _, slopes = jax.jvp(self, (t,), (jnp.ones_like(t),))
        return slopes

    def at_ratio(self, ratio: Array) -> Array:
        """The time at which `sigma / alpha` is `ratio`, or the nearest end; by bisection, for any schedule."""

        def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            alpha, sigma = self(middle)
            early = sigma > ratio * alpha
            return jnp.where(early, middle, low), jnp.where(early, high, middle)

        ends = (jnp.zeros_like(ratio), jnp.ones_like(ratio))
        low, high = jax.lax.fori_loop(0, 52 if ratio.dtype == jnp.float64 else 26, halve, ends)
        return (low + high) / 2


class Straight(AbstractSchedule):
    """The straight line from noise to data: conditional optimal transport (Lipman et al., 2023)."""

    def __call__(self, t: Scalar) -> tuple[Array, Array]:
        return t, 1.0 - t


class VariancePreserving(AbstractSchedule):
    """`alpha = exp(-B / 2)`, `sigma = sqrt(1 - exp(-B))`, B the integral of beta from t to 1 (Song et al., 2021).

    beta falls linearly from `beta_max` at the noise to `beta_min` at the data. sigma' is infinite at the data.
    """

    beta_min: float = eqx.field(static=True, default=0.1)
    beta_max: float = eqx.field(static=True, default=20.0)

    def __call__(self, t: Scalar) -> tuple[Array, Array]:
        s = 1.0 - t
        integral = self.beta_min * s + (self.beta_max - self.beta_min) * s**2 / 2
        return jnp.exp(-integral / 2), jnp.sqrt(-jnp.expm1(-integral))


class VarianceExploding(AbstractSchedule):
    """`alpha = 1`, sigma geometric from `sigma_max` at the noise to `sigma_min` at the data (Song et al., 2021)."""

    sigma_min: float = eqx.field(static=True, default=1e-3)
    sigma_max: float = eqx.field(static=True, default=80.0)

    def __call__(self, t: Scalar) -> tuple[Array, Array]:
        return jnp.ones_like(t), self.sigma_max * (self.sigma_min / self.sigma_max) ** t


class Karras(AbstractSchedule):
    """`alpha = 1`, `sigma ** (1 / rho)` linear from `sigma_max` to `sigma_min` (Karras et al., 2022, eq. 5)."""

    sigma_min: float = eqx.field(static=True, default=0.002)
    sigma_max: float = eqx.field(static=True, default=80.0)
    rho: float = eqx.field(static=True, default=7.0)

    def __call__(self, t: Scalar) -> tuple[Array, Array]:
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return jnp.ones_like(t), (high + t * (low - high)) ** self.rho
