"""One-step and two-step schemes on a fixed grid. h is a step, f(x, t) the velocity.

    Euler            x + h f(x, t)
    Midpoint         x + h f(x + h/2 f, t + h/2)
    Heun             x + h/2 (f + f(x + h f, t + h))
    RK4              the classical fourth-order scheme of Kutta
    AdamsBashforth   x + h ((1 + r/2) f - r/2 f_previous),  r = h / h_previous;  the first step is Heun's

The number of evaluations is fixed and the same for every row, so that no call hangs and no row depends on another.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from retrodict.paths import AbstractGrid
from retrodict.solvers._base import AbstractStepping, State, Velocity, blend, move


class AbstractOneStep(AbstractStepping):
    """A scheme whose step depends on the present state alone."""

    stages: eqx.AbstractClassVar[int]
    has_density: ClassVar[bool] = True

    @abc.abstractmethod
    def step(self, velocity: Velocity, x: State, t: Array, h: Array) -> State:
        """Returns the state at `t + h` from `x` at `t`."""

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        times = self.times(velocity, start, end)

        def body(x: State, row: tuple[Array, Array]) -> tuple[State, None]:
            t, h = row
            return self.step(velocity, x, t, h), None

        return self.along(body, x, (times[:-1], jnp.diff(times)))

    @property
    def evaluations(self) -> int:
        return self.steps * self.stages


class Euler(AbstractOneStep):
    """Euler's scheme: first order, one evaluation a step."""

    steps: int = eqx.field(static=True, default=100)
    grid: AbstractGrid | None = None
    stages: ClassVar[int] = 1

    def step(self, velocity: Velocity, x: State, t: Array, h: Array) -> State:
        return move(x, h, velocity(x, t))


class Midpoint(AbstractOneStep):
    """The midpoint scheme: second order, two evaluations a step."""

    steps: int = eqx.field(static=True, default=20)
    grid: AbstractGrid | None = None
    stages: ClassVar[int] = 2

    def step(self, velocity: Velocity, x: State, t: Array, h: Array) -> State:
        middle = move(x, h / 2, velocity(x, t))
        return move(x, h, velocity(middle, t + h / 2))


class Heun(AbstractOneStep):
    """Heun's scheme: second order, two evaluations a step."""

    steps: int = eqx.field(static=True, default=20)
    grid: AbstractGrid | None = None
    stages: ClassVar[int] = 2

    def step(self, velocity: Velocity, x: State, t: Array, h: Array) -> State:
        first = velocity(x, t)
        second = velocity(move(x, h, first), t + h)
        return move(x, h, blend((0.5, 0.5), (first, second)))


class RK4(AbstractOneStep):
    """The classical Runge-Kutta scheme: fourth order, four evaluations a step."""

    steps: int = eqx.field(static=True, default=20)
    grid: AbstractGrid | None = None
    stages: ClassVar[int] = 4

    def step(self, velocity: Velocity, x: State, t: Array, h: Array) -> State:
        k1 = velocity(x, t)
        k2 = velocity(move(x, h / 2, k1), t + h / 2)
        k3 = velocity(move(x, h / 2, k2), t + h / 2)
        k4 = velocity(move(x, h, k3), t + h)
        return move(x, h, blend((1 / 6, 1 / 3, 1 / 3, 1 / 6), (k1, k2, k3, k4)))


class AdamsBashforth(AbstractStepping):
    """The two-step scheme of Adams and Bashforth: second order at one evaluation a step."""

    steps: int = eqx.field(static=True, default=20)
    grid: AbstractGrid | None = None
    has_density: ClassVar[bool] = True

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        times = self.times(velocity, start, end)
        steps = jnp.diff(times)
        slope = velocity(x, times[0])
        next_slope = velocity(move(x, steps[0], slope), times[1])
        x = move(x, steps[0], blend((0.5, 0.5), (slope, next_slope)))

        def body(carry: tuple[State, State], row: tuple[Array, Array, Array]) -> tuple[tuple[State, State], None]:
            (x, previous_slope), (t, h, previous_h) = carry, row
            slope, half_ratio = velocity(x, t), h / previous_h / 2
            x = move(move(x, h * (1 + half_ratio), slope), -h * half_ratio, previous_slope)
            return (x, slope), None

        return self.along(body, (x, slope), (times[1:-1], steps[1:], steps[:-1]))[0]

    @property
    def evaluations(self) -> int:
        return self.steps + 1
