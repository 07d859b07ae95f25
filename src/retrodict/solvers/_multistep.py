"""DPM-Solver++ of second order (Lu et al., 2022), an exponential multistep scheme for the denoised data.

With lambda = log(alpha / sigma) and D(lambda) the denoised data, the flow between two times is exactly

    x' = (sigma' / sigma) x + sigma' * integral from lambda to lambda' of exp(l) D(l) dl

Only D is approximated, by the line through its present and its previous value. With h = lambda' - lambda,

    x' = (sigma' / sigma) x + (alpha' - alpha sigma' / sigma) [D + h / (2 h_previous) (D - D_previous)]

The scheme is not stiff for any schedule. If a step of lambda is infinite (at an end without noise or without data), D
is taken as constant.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from retrodict.paths import AbstractGrid
from retrodict.solvers._base import AbstractStepping, State, Velocity, flow_of


class DPMSolver(AbstractStepping):
    """DPM-Solver++: second order at one evaluation a step, for any schedule."""

    steps: int = eqx.field(static=True, default=20)
    grid: AbstractGrid | None = None
    follows_velocity: ClassVar[bool] = False
    has_density: ClassVar[bool] = True

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        flow = flow_of(velocity, self)
        times = self.times(flow, start, end)
        alpha, sigma = jax.vmap(flow.path.schedule)(times)
        steps = jnp.diff(jnp.log(alpha) - jnp.log(sigma))
        slant = jnp.concatenate([jnp.zeros(1), steps[1:] / (2 * steps[:-1])])  # h / (2 h_previous); 0 in the first step
        slant = jnp.where(jnp.isfinite(steps) & jnp.isfinite(slant), slant, 0.0)
        decay = sigma[1:] / sigma[:-1]
        gain = alpha[1:] - alpha[:-1] * decay

        def body(carry: tuple[Array, Array], row: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
            (x, previous_data), (t, slant, decay, gain) = carry, row
            data = flow.guess(x, t).data
            x = decay * x + gain * (data + slant * jnp.where(slant == 0.0, 0.0, data - previous_data))
            return (x, data), None

        return self.along(body, (x, jnp.zeros_like(x)), (times[:-1], slant, decay, gain))[0]

    @property
    def evaluations(self) -> int:
        return self.steps
