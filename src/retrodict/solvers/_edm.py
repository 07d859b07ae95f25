"""The stochastic second-order sampler of Karras et al. (2022), Algorithm 2, for any schedule.

With y = x / alpha and s = sigma / alpha every affine path becomes y = data + s noise. D(y; s) is the denoised data, and
gamma_i = min(S_churn / N, sqrt(2) - 1) if S_min <= s_i <= S_max, else 0:

    for i = 0 .. N - 1:
        s_hat = s_i (1 + gamma_i)
        y_hat = y_i + sqrt(s_hat^2 - s_i^2) S_noise eps,   eps ~ N(0, I)
        d     = (y_hat - D(y_hat; s_hat)) / s_hat
        y_i+1 = y_hat + (s_i+1 - s_hat) d
        if s_i+1 > 0:
            d'    = (y_i+1 - D(y_i+1; s_i+1)) / s_i+1
            y_i+1 = y_hat + (s_i+1 - s_hat) (d + d') / 2

The levels are those of the grid, then s_N = 0. Noise is never raised above the first level, at which the path begins.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict.paths import AbstractGrid, KarrasRho, Path
from retrodict.paths._grids import ratios_at
from retrodict.solvers._base import AbstractStepping, State, Velocity, flow_of


class EDMSampler(AbstractStepping):
    """Algorithm 2 with `steps` levels. Without churn it is a second-order ODE solver that ends on the denoised data."""

    steps: int = eqx.field(static=True, default=18)
    churn: float = eqx.field(static=True, default=0.0)  # S_churn
    churn_min: float = eqx.field(static=True, default=0.0)  # S_min
    churn_max: float = eqx.field(static=True, default=float("inf"))  # S_max
    noise_scale: float = eqx.field(static=True, default=1.0)  # S_noise
    grid: AbstractGrid | None = KarrasRho()
    follows_velocity: ClassVar[bool] = False

    def __check_init__(self) -> None:
        if self.steps < 2 or self.churn < 0.0:
            raise QueryError(
                f"EDMSampler needs two steps or more and churn >= 0, got steps={self.steps} and churn={self.churn}"
            )

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        if self.churn > 0.0 and key is None:
            raise QueryError("EDMSampler with churn draws noise on its way and needs a key")
        flow = flow_of(velocity, self)
        schedule = flow.path.schedule
        first_level, last_level = ratios_at(start, end, schedule)
        alpha, sigma = jax.vmap(schedule)((self.grid or flow.path.grid).times(self.steps - 1, start, end, schedule))
        levels = (sigma[1:-1] / alpha[1:-1]).clip(last_level, first_level)
        levels = jnp.concatenate([first_level[None], levels, last_level[None]])
        gamma = jnp.where((levels >= self.churn_min) & (levels <= self.churn_max), self._gamma(), 0.0)

        def slope(y: Array, s: Array) -> Array:
            t = schedule.at_ratio(s)
            alpha, _ = schedule(t)
            return (y - flow.guess(alpha * y, t).data) / s

        def add_noise(y: Array, s: Array, gamma: Array, i: Array) -> tuple[Array, Array]:
            if self.churn == 0.0 or key is None:
                return y, s
            s_hat = jnp.minimum(s * (1.0 + gamma), levels[0])
            eps = jr.normal(jr.fold_in(key, i), y.shape)
            # a fused multiply-add may turn the difference of two equal squares into -1e-17
            return y + jnp.sqrt(jnp.maximum(s_hat**2 - s**2, 0.0)) * self.noise_scale * eps, s_hat

        def body(y: Array, row: tuple[Array, ...]) -> tuple[Array, None]:
            s, s_next, gamma, i = row
            y_hat, s_hat = add_noise(y, s, gamma, i)
            d = slope(y_hat, s_hat)
            y_euler = y_hat + (s_next - s_hat) * d
            return y_hat + (s_next - s_hat) * (d + slope(y_euler, s_next)) / 2, None

        alpha, sigma = schedule(jnp.asarray(start, levels.dtype))
        y = x * jnp.sqrt(1.0 + levels[0] ** 2) / jnp.sqrt(alpha**2 + sigma**2)  # x / alpha, also if alpha is 0
        rows = (levels[:-1], levels[1:], gamma[:-1], jnp.arange(self.steps - 1))
        y = jax.lax.scan(body, y, rows)[0]
        y_hat, s_hat = add_noise(y, levels[-1], gamma[-1], jnp.asarray(self.steps - 1))
        return y_hat - s_hat * slope(y_hat, s_hat)

    @property
    def draws_noise(self) -> bool:
        return self.churn > 0.0

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1

    def refusal(self, path: Path) -> str | None:
        if path.source is not None:
            return (
                f"EDMSampler needs standard normal noise, and this path starts from {type(path.source).__name__}; "
                f"use an ODE solver, such as AdamsBashforth()"
            )
        return None

    def _gamma(self) -> float:
        """Returns the relative amount by which churn raises a noise level."""
        return min(self.churn / self.steps, 2.0**0.5 - 1.0)
