"""One-step and two-step schemes on a fixed grid: h is a step, f(x, t) the velocity.

    Euler            x + h f(x, t)
    Midpoint         x + h f(x + h/2 f, t + h/2)
    Heun             x + h/2 (f + f(x + h f, t + h))
    RK4              the classical fourth-order scheme of Kutta
    AdamsBashforth   x + h ((1 + r/2) f - r/2 f_previous),  r = h / h_previous;  its first step is Heun's

A fixed number of evaluations, the same for every row, so that a call can neither hang nor depend on its neighbors.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from retrodict.paths import AbstractGrid
from retrodict.solvers._base import AbstractStepping, State, Velocity, blend, move


class AbstractOneStep(AbstractStepping):
    """A scheme that needs nothing but where it stands."""

    stages: eqx.AbstractClassVar[int]

    @abc.abstractmethod
    def step(self, velocity: Velocity, x: State, t: Array, h: Array) -> State:
        """The state one step `h` further."""

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        times = self.times(velocity, start, end)

        def body(x: State, pair: tuple[Array, Array]) -> tuple[State, None]:
            t, h = pair
            return self.step(velocity, x, t, h), None

        return self.along(body, x, (times[:-1], jnp.diff(times)))

    @property
    def evaluations(self) -> int:
        return self.steps * self.stages


class Euler(AbstractOneStep):
    """First order, one evaluation a step."""

    steps: int = eqx.field(static=True, default=100)
    grid: AbstractGrid | None = None
    stages: ClassVar[int] = 1

    def step(self, velocity: Velocity, x: State, t: Array, h: Array) -> State:
        return move(x, h, velocity(x, t))


class Midpoint(AbstractOneStep):
    """Second order, two evaluations a step."""

    steps: int = eqx.field(static=True, default=20)
    grid: AbstractGrid | None = None
    stages: ClassVar[int] = 2

    def step(self, velocity: Velocity, x: State, t: Array, h: Array) -> State:
        middle = move(x, h / 2, velocity(x, t))
        return move(x, h, velocity(middle, t + h / 2))


class Heun(AbstractOneStep):
    """Second order, two evaluations a step."""

    steps: int = eqx.field(static=True, default=20)
    grid: AbstractGrid | None = None
    stages: ClassVar[int] = 2

    def step(self, velocity: Velocity, x: State, t: Array, h: Array) -> State:
        first = velocity(x, t)
        second = velocity(move(x, h, first), t + h)
        return move(x, h, blend((0.5, 0.5), (first, second)))


class RK4(AbstractOneStep):
    """Fourth order, four evaluations a step."""

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
    """Second order at one evaluation a step: the slope before this one is remembered."""

    steps: int = eqx.field(static=True, default=20)
    grid: AbstractGrid | None = None

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        times = self.times(velocity, start, end)
        steps = jnp.diff(times)
        before = velocity(x, times[0])
        ahead = velocity(move(x, steps[0], before), times[1])
        x = move(x, steps[0], blend((0.5, 0.5), (before, ahead)))

        def body(carry: tuple[State, State], row: tuple[Array, Array, Array]) -> tuple[tuple[State, State], None]:
            (x, before), (t, h, h_before) = carry, row
            slope, half = velocity(x, t), h / h_before / 2
            x = move(move(x, h * (1 + half), slope), -h * half, before)
            return (x, slope), None

        return self.along(body, (x, before), (times[1:-1], steps[1:], steps[:-1]))[0]

    @property
    def evaluations(self) -> int:
        return self.steps + 1
