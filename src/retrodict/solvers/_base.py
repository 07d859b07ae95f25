"""What every solver promises."""

import abc
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
from jaxtyping import Array


State: TypeAlias = Any  # a pytree of arrays
Velocity: TypeAlias = Callable[[State, Array], State]


class AbstractSolver(eqx.Module):
    """Carries a state along a velocity from one time to another."""

    @abc.abstractmethod
    def __call__(self, velocity: Velocity, x: State, start: float, end: float) -> State:
        """The state at `end`, from `x` at `start`; time runs backwards where `end < start`."""

    @property
    @abc.abstractmethod
    def evaluations(self) -> int | None:
        """How often the velocity is evaluated, or `None` where the rows decide."""


def move(x: State, step: Array, slope: State) -> State:
    """`x + step * slope`, leaf by leaf."""
    return jax.tree.map(lambda value, rise: value + step * rise, x, slope)


def blend(weights: tuple[float, ...], slopes: tuple[State, ...]) -> State:
    """The weighted sum of slopes, leaf by leaf."""
    return jax.tree.map(lambda *rises: sum(w * rise for w, rise in zip(weights, rises, strict=True)), *slopes)
