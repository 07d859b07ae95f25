"""What every solver promises."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict.paths import AbstractGrid, Flow, Path, flow_matching
from retrodict.paths._schedules import AbstractSchedule


State: TypeAlias = Any  # a pytree of arrays
Velocity: TypeAlias = Callable[[State, Array], State]


class AbstractSolver(eqx.Module):
    """Carries a state from one time to another."""

    follows_velocity: ClassVar[bool] = True  # it needs a velocity only, so that densities can ride along

    @abc.abstractmethod
    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        """The state at `end`, from `x` at `start`; time runs backwards where `end < start`.

        `velocity` is a `paths.Flow`, or any function `(x, t)` for a solver that follows a velocity only.
        """

    @property
    @abc.abstractmethod
    def evaluations(self) -> int | None:
        """How often the network is evaluated, or `None` where the rows decide."""

    def refusal(self, path: Path) -> str | None:
        """Why this solver cannot follow a path, with the cure; `None` if it can."""
        return None


class Told(AbstractGrid):
    """Times as numbers, of which the first `count` steps are taken: one program serves any grid, however long."""

    told: Float[Array, " n"]
    count: Int[Array, ""]

    def times(self, steps: int, start: float, end: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        return self.told

    def rising(self, steps: int, low: float, high: float, schedule: AbstractSchedule) -> Float[Array, " n"]:
        return self.told


class AbstractStepping(AbstractSolver):
    """A solver that takes `steps` steps on a grid; the path's own grid where `grid` is `None`."""

    steps: eqx.AbstractVar[int]
    grid: eqx.AbstractVar[AbstractGrid | None]

    def __check_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise QueryError(f"a solver needs at least one step, got steps={self.steps}")

    def times(self, velocity: Velocity, start: float, end: float) -> Float[Array, " n"]:
        """The `steps + 1` times between which the steps lie."""
        path = getattr(velocity, "path", None) or flow_matching()
        return (self.grid or path.grid).times(self.steps, start, end, path.schedule)

    def along(self, body: Callable[[Any, Any], tuple[Any, None]], state: Any, rows: tuple[Array, ...]) -> Any:
        """The state after `body` has seen all rows, the last of which belong to the last steps."""
        if not isinstance(self.grid, Told):
            return jax.lax.scan(body, state, rows)[0]
        count = self.grid.count - (self.steps - len(rows[0]))
        return jax.lax.fori_loop(0, count, lambda i, state: body(state, tuple(row[i] for row in rows))[0], state)


def flow_of(velocity: Velocity, solver: AbstractSolver) -> Flow:
    """The flow that a solver was handed, for solvers that need more of it than a velocity."""
    if not isinstance(velocity, Flow):
        raise QueryError(
            f"{type(solver).__name__} follows the network's guess of data and noise, and got a velocity only; "
            "hand it a `paths.Flow`, or use Euler, Midpoint, Heun, RK4, AdamsBashforth, Dopri5 or Tsit5"
        )
    return velocity


def move(x: State, step: Array, slope: State) -> State:
    """`x + step * slope`, leaf by leaf."""
    return jax.tree.map(lambda value, rise: value + step * rise, x, slope)


def blend(weights: tuple[float, ...], slopes: tuple[State, ...]) -> State:
    """The weighted sum of slopes, leaf by leaf."""
    return jax.tree.map(lambda *rises: sum(w * rise for w, rise in zip(weights, rises, strict=True)), *slopes)
