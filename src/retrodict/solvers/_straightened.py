"""Any path along straight lines: the schedule, too, is chosen after training."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from retrodict.paths import Path, flow_matching
from retrodict.solvers._base import AbstractSolver, State, Velocity, flow_of


class Straightened(AbstractSolver):
    """Another solver along the straight lines that are equivalent to the path's own schedule.

    There velocities are of order one, whatever the model was trained on: with 17 evaluations, `AdamsBashforth` leaves
    2 % of a standard deviation or less on VP, VE and EDM alike.
    """

    solver: AbstractSolver
    follows_velocity: ClassVar[bool] = False

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        flow = flow_of(velocity, self)
        straight = flow.straightened()
        (first, last), before, after = straight.path.span, flow.path, straight.path
        x = self.solver(straight, x * (after.width(first) / before.width(start)), first, last, key=key)
        return x * (before.schedule(jnp.asarray(end))[0] / after.schedule(jnp.asarray(last))[0])

    @property
    def evaluations(self) -> int | None:
        return self.solver.evaluations

    def refusal(self, path: Path) -> str | None:
        return self.solver.refusal(flow_matching(source=path.source))
