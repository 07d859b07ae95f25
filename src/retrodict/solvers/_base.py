"""The protocol of solvers, and the parts that they share."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict._types import is_count
from retrodict.paths import AbstractGrid, Flow, Path, flow_matching
from retrodict.paths._schedules import AbstractSchedule


State: TypeAlias = Any  # a pytree of arrays
Velocity: TypeAlias = Callable[[State, Array], State]


class AbstractSolver(eqx.Module):
    """Carries a state from one time to another."""

    follows_velocity: ClassVar[bool] = True  # needs nothing but a velocity, so that it can integrate log densities, too
    has_density: ClassVar[bool] = False  # whether draws have one: of solvers with fixed steps on any grid and no noise

    @abc.abstractmethod
    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        """Returns the state at time `end`, from `x` at time `start`; time runs backwards if `end < start`.

        `velocity` is a `paths.Flow`. For a solver that needs nothing but a velocity it may be any function `(x, t)`.
        """

    @property
    @abc.abstractmethod
    def evaluations(self) -> int | None:
        """The number of evaluations of the network, or `None` if it depends on the rows."""

    def refusal(self, path: Path) -> str | None:
        """Returns the reason why this solver cannot follow a path, with the cure; `None` if it can."""
        return None

    @property
    def draws_noise(self) -> bool:
        """Whether the solver draws noise on its way, after the noise that it starts from."""
        return False

    def at_cost(self, evaluations: int) -> "AbstractSolver":
        """Returns the solver that `solvers.at_cost` describes."""
        return self

    def with_explicit_grid(self, path: Path, max_steps: int, *, reverse: bool) -> "AbstractSolver":
        """Returns the solver that `solvers.with_explicit_grid` describes."""
        return self


class ExplicitGrid(AbstractGrid):
    """Times as an array, of which the first `count` steps are taken, so that one program serves any grid."""

    values: Float[Array, " n"]
    count: Int[Array, ""]

    def times(self, steps: int, start: float, end: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        return self.values

    def rising(self, steps: int, low: float, high: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        return self.values


class AbstractStepping(AbstractSolver):
    """A solver that takes `steps` steps on `grid`; on the grid of the path if `grid` is `None`."""

    steps: eqx.AbstractVar[int]
    grid: eqx.AbstractVar[AbstractGrid | None]

    def __check_init__(self) -> None:
        if not is_count(self.steps, kinds=int):
            raise QueryError(f"a solver needs at least one step, got steps={self.steps}")

    def times(self, velocity: Velocity, start: float, end: float) -> Float[Array, " n"]:
        """Returns the `steps + 1` times between which the steps lie."""
        path = getattr(velocity, "path", None) or flow_matching()
        return (self.grid or path.grid).times(self.steps, start, end, path.schedule)

    def along(self, body: Callable[[Any, Any], tuple[Any, None]], state: Any, rows: tuple[Array, ...]) -> Any:
        """Returns the state after `body` went through `rows`, one row a step; the first steps may have none."""
        if not isinstance(self.grid, ExplicitGrid):
            return jax.lax.scan(body, state, rows)[0]
        count = self.grid.count - (self.steps - len(rows[0]))
        return jax.lax.fori_loop(0, count, lambda i, state: body(state, tuple(row[i] for row in rows))[0], state)

    def at_cost(self, evaluations: int) -> "AbstractStepping":
        two, three = (dataclasses.replace(self, steps=steps).evaluations or 0 for steps in (2, 3))
        try:
            return dataclasses.replace(self, steps=2 + (evaluations - two) // (three - two))
        except QueryError as error:
            sentence = f"{evaluations} evaluations of the network are too few for {type(self).__name__}"
            raise QueryError(f"{sentence}: {error}; allow more, or leave it out") from error

    def with_explicit_grid(self, path: Path, max_steps: int, *, reverse: bool) -> "AbstractStepping":
        if not self.has_density:
            return self
        times = _times(self, path, *(reversed(path.span) if reverse else path.span))
        times = jnp.pad(times, (0, max_steps - self.steps), mode="edge")
        return dataclasses.replace(self, steps=max_steps, grid=ExplicitGrid(times, jnp.asarray(self.steps)))


@eqx.filter_jit
def _times(solver: AbstractStepping, path: Path, start: float, end: float) -> Array:
    return (solver.grid or path.grid).times(solver.steps, start, end, path.schedule)


def flow_of(velocity: Velocity, solver: AbstractSolver) -> Flow:
    """Returns `velocity` as a flow, for solvers that need more than a velocity.

    Raises:
        QueryError: `velocity` is not a flow.
    """
    if not isinstance(velocity, Flow):
        raise QueryError(
            f"{type(solver).__name__} needs the denoised data and noise, and got a velocity only; hand it a "
            "`paths.Flow`, or use Euler, Midpoint, Heun, RK4, AdamsBashforth, Dopri5 or Tsit5"
        )
    return velocity


def move(x: State, step: Array, slope: State) -> State:
    """Returns `x + step * slope`, leaf by leaf."""
    return jax.tree.map(lambda leaf, leaf_slope: leaf + step * leaf_slope, x, slope)


def blend(weights: tuple[float, ...], slopes: tuple[State, ...]) -> State:
    """Returns the weighted sum of slopes, leaf by leaf."""
    return jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)), *slopes)
