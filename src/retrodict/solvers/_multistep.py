"""The exponential multistep scheme that follows the guess of the data (Lu et al., 2022, DPM-Solver++, second order).

With lambda = log(alpha / sigma) and D(lambda) the guess of the data, the flow between two times is exactly

    x' = (sigma' / sigma) x + sigma' * integral from lambda to lambda' of exp(l) D(l) dl

so that only D is approximated: by a line through this guess and the one before. With h = lambda' - lambda,

    x' = (sigma' / sigma) x + (alpha' - alpha sigma' / sigma) [D + h / (2 h_before) (D - D_before)]

Nothing in it is stiff, whatever the schedule; where a step of lambda is infinite (an end without noise or without
data) the line is level.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from retrodict.paths import AbstractGrid
from retrodict.solvers._base import AbstractStepping, State, Velocity, flow_of


class DPMSolver(AbstractStepping):
    """Second order at one evaluation a step, for any schedule."""

    steps: int = eqx.field(static=True, default=20)
    grid: AbstractGrid | None = None
    follows_velocity: ClassVar[bool] = False

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        flow = flow_of(velocity, self)
        times = self.times(flow, start, end)
        alpha, sigma = jax.vmap(flow.path.schedule)(times)
        steps = jnp.diff(jnp.log(alpha) - jnp.log(sigma))
        slant = jnp.concatenate([jnp.zeros(1), steps[1:] / (2 * steps[:-1])])  # h / (2 h_before); none at the first
        slant = jnp.where(jnp.isfinite(steps) & jnp.isfinite(slant), slant, 0.0)
        keep = sigma[1:] / sigma[:-1]
        gain = alpha[1:] - alpha[:-1] * keep

        def body(carry: tuple[Array, Array], row: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
            (x, before), (t, slant, keep, gain) = carry, row
            data = flow.guess(x, t).data
            x = keep * x + gain * (data + slant * jnp.where(slant == 0.0, 0.0, data - before))
            return (x, data), None

        return self.along(body, (x, jnp.zeros_like(x)), (times[:-1], slant, keep, gain))[0]

    @property
    def evaluations(self) -> int:
        return self.steps
