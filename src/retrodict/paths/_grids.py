"""Time grids: the times between which a solver of fixed cost takes its steps.

The fine structure of the data forms near t = 1, so the steps should be short there. `Uniform` and `Power` are maps of
time. `KarrasRho` and `LogSNR` space the ratio r = sigma / alpha of a schedule: from 80 if r is infinite at the first
time, down to 0.002 if r is 0 at the last time. The first and the last time of a grid are always those asked for.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from retrodict.paths._schedules import AbstractSchedule


MIN_RATIO, MAX_RATIO = 0.002, 80.0  # sigma_min, sigma_max of Karras et al. (2022), for data of standard deviation 1
ZERO_RATIO, INFINITE_RATIO = 1e-4, 1e3  # a ratio below the first counts as zero, above the second as infinite


class AbstractGrid(eqx.Module):
    """The times of a solver of fixed cost."""

    @abc.abstractmethod
    def rising(self, steps: int, low: float, high: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        """Returns `steps + 1` rising times from `low` to `high`."""

    def times(self, steps: int, start: float, end: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        """Returns `steps + 1` times from `start` to `end`; for `end < start` the rising times in reverse order."""
        low, high = min(start, end), max(start, end)
        times = self.rising(steps, low, high, schedule).at[0].set(low).at[-1].set(high)
        return times if start <= end else times[::-1]


class Power(AbstractGrid):
    """`t = 1 - (1 - u) ** power` for u in equal steps: dense near the data for powers above 1."""

    power: float = eqx.field(static=True, default=2.0)

    def rising(self, steps: int, low: float, high: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        return low + (high - low) * (1.0 - (1.0 - jnp.linspace(0.0, 1.0, steps + 1)) ** self.power)


class Uniform(AbstractGrid):
    """Equal steps in time."""

    def rising(self, steps: int, low: float, high: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        return jnp.linspace(low, high, steps + 1)


class KarrasRho(AbstractGrid):
    """Equal steps in `r ** (1 / rho)` (Karras et al., 2022, eq. 5)."""

    rho: float = eqx.field(static=True, default=7.0)

    def rising(self, steps: int, low: float, high: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        first_root, last_root = (ratio ** (1 / self.rho) for ratio in ratios_at(low, high, schedule))
        return schedule.at_ratio(jnp.linspace(first_root, last_root, steps + 1) ** self.rho)


class LogSNR(AbstractGrid):
    """Equal steps in `log(alpha / sigma)` (Lu et al., 2022)."""

    def rising(self, steps: int, low: float, high: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        first_ratio, last_ratio = ratios_at(low, high, schedule)
        return schedule.at_ratio(jnp.geomspace(first_ratio, last_ratio, steps + 1))


def ratios_at(low: float, high: float, schedule: AbstractSchedule) -> tuple[Array, Array]:
    """Returns `sigma / alpha` at the times `low` and `high`: `MAX_RATIO` for infinity, `MIN_RATIO` for zero."""
    (alpha_low, sigma_low), (alpha_high, sigma_high) = (schedule(jnp.asarray(t, float)) for t in (low, high))
    first_ratio = jnp.where(sigma_low > INFINITE_RATIO * alpha_low, MAX_RATIO, sigma_low / alpha_low)
    last_ratio = jnp.where(sigma_high < ZERO_RATIO * alpha_high, MIN_RATIO, sigma_high / alpha_high)
    return first_ratio, last_ratio
