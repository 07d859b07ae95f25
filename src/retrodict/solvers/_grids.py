"""Time grids: where a solver of fixed cost looks.

A grid is an increasing map from u, uniform on (0, 1), to t on (0, 1). The fine structure of the data forms near t = 1,
so that is where the steps should be short.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractGrid(eqx.Module):
    """The times of a solver of fixed cost."""

    @abc.abstractmethod
    def __call__(self, u: Float[Array, " n"]) -> Float[Array, " n"]:
        """An increasing map of (0, 1) onto itself."""

    def times(self, steps: int, start: float, end: float) -> Float[Array, " n"]:
        """`steps + 1` times from `start` to `end`; backwards, the same times in reverse order."""
        low, high = min(start, end), max(start, end)
        times = low + (high - low) * self(jnp.linspace(0.0, 1.0, steps + 1))
        return times if start <= end else times[::-1]


class Power(AbstractGrid):
    """`t = 1 - (1 - u) ** power`: uniform for 1, dense near the data for more."""

    power: float = eqx.field(static=True, default=2.0)

    def __call__(self, u: Float[Array, " n"]) -> Float[Array, " n"]:
        return 1.0 - (1.0 - u) ** self.power
