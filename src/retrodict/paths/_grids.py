"""Time grids: where a solver of fixed cost looks.

The fine structure of the data forms near t = 1, so that is where the steps should be short. `Uniform` and `Power` are
maps of time; `KarrasRho` and `LogSNR` space the ratio r = sigma / alpha of a schedule, from 80 where it begins infinite
and to 0.002 where it ends at 0 (the first and the last time stay where the solver was asked to go).
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from retrodict.paths._schedules import AbstractSchedule


LEAST, MOST = 0.002, 80.0  # sigma_min and sigma_max of Karras et al. (2022), for data of standard deviation 1
NOTHING, INFINITE = 1e-4, 1e3


class AbstractGrid(eqx.Module):
    """The times of a solver of fixed cost."""

    @abc.abstractmethod
    def rising(self, steps: int, low: float, high: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        """`steps + 1` rising times from `low` to `high`."""

    def times(self, steps: int, start: float, end: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        """`steps + 1` times from `start` to `end`; backwards, the same times in reverse order."""
        low, high = min(start, end), max(start, end)
        times = self.rising(steps, low, high, schedule).at[0].set(low).at[-1].set(high)
        return times if start <= end else times[::-1]


class Power(AbstractGrid):
    """`t = 1 - (1 - u) ** power`, u uniform: dense near the data for powers above 1."""

    power: float = eqx.field(static=True, default=2.0)

    def rising(self, steps: int, low: float, high: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        return low + (high - low) * (1.0 - (1.0 - jnp.linspace(0.0, 1.0, steps + 1)) ** self.power)


class Uniform(AbstractGrid):
    """Equal steps in time."""

    def rising(self, steps: int, low: float, high: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        return jnp.linspace(low, high, steps + 1)


class KarrasRho(AbstractGrid):
    """`r ** (1 / rho)` in equal steps (Karras et al., 2022, eq. 5)."""

    rho: float = eqx.field(static=True, default=7.0)

    def rising(self, steps: int, low: float, high: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        most, least = (ratio ** (1 / self.rho) for ratio in ends(low, high, schedule))
        return schedule.at_ratio(jnp.linspace(most, least, steps + 1) ** self.rho)


class LogSNR(AbstractGrid):
    """`log(alpha / sigma)` in equal steps (Lu et al., 2022)."""

    def rising(self, steps: int, low: float, high: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        most, least = ends(low, high, schedule)
        return schedule.at_ratio(jnp.geomspace(most, least, steps + 1))


def ends(low: float, high: float, schedule: AbstractSchedule) -> tuple[Array, Array]:
    """The ratios `sigma / alpha` at the times `low` and `high`; `MOST` for an infinite one, `LEAST` for none."""
    (a0, s0), (a1, s1) = (schedule(jnp.asarray(t, float)) for t in (low, high))
    return jnp.where(s0 > INFINITE * a0, MOST, s0 / a0), jnp.where(s1 < NOTHING * a1, LEAST, s1 / a1)
