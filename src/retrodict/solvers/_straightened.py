"""Solvers around solvers: straight lines for any path, and draws of a standard normal that are exact."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from retrodict._errors import QueryError
from retrodict.paths import Flow, Path
from retrodict.solvers._base import AbstractSolver, State, Velocity, flow_of


class Straightened(AbstractSolver):
    """A solver that runs along the straight lines that are equivalent to the schedule of the path.

    Velocities are then of order one, whatever schedule the model was trained with, and few steps suffice.
    """

    solver: AbstractSolver
    follows_velocity: ClassVar[bool] = False

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        flow = flow_of(velocity, self)
        if (start, end) != flow.path.span:
            raise QueryError(
                f"Straightened runs over the whole span, {flow.path.span}, and was asked for {(start, end)}"
            )
        straight = flow.straightened()
        at_start, at_end = flow.path.times_larger(straight.path)
        return at_end * self.solver(straight, x / at_start, *straight.path.span, key=key)

    @property
    def evaluations(self) -> int | None:
        return self.solver.evaluations

    def refusal(self, path: Path) -> str | None:
        return self.solver.refusal(path.straightened())

    def at_cost(self, evaluations: int) -> "Straightened":
        return Straightened(self.solver.at_cost(evaluations))

    def with_explicit_grid(self, path: Path, max_steps: int, *, reverse: bool) -> "Straightened":
        return Straightened(self.solver.with_explicit_grid(path.straightened(), max_steps, reverse=reverse))


class Normalized(AbstractSolver):
    """A deterministic solver that starts from noise divided by its gain on standard normal data.

    The errors of its steps then leave such data exact, and data that are nearly so nearly exact.
    """

    solver: AbstractSolver
    follows_velocity: ClassVar[bool] = False

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        flow = flow_of(velocity, self)
        path = flow.path
        if path.source is not None:
            return self.solver(flow, x, start, end, key=key)
        normal = Flow(path, lambda x, t: path.guess(x, path.predict(jnp.zeros_like, x, t), t))
        gain = self.solver(normal, path.width(start), start, end) / path.width(end)
        return self.solver(flow, x / gain, start, end, key=key)

    @property
    def evaluations(self) -> int | None:
        return self.solver.evaluations

    def refusal(self, path: Path) -> str | None:
        return self.solver.refusal(path)


def stripped(solver: AbstractSolver) -> AbstractSolver:
    """Returns the solver inside `Straightened`, or else the solver itself."""
    return solver.solver if isinstance(solver, Straightened) else solver
