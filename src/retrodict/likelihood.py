"""Densities: how volume changes along a flow.

If dx/dt = v(x, t) carries noise x(0) ~ p0 to data x(1), the density moves by the divergence of v (Chen et al., 2018):

    log p1(x(1)) = log p0(x(0)) - integral over t from 0 to 1 of div v(x(t), t) dt

The divergence is exact: one forward-mode derivative for each direction that can move, all sharing one evaluation of v.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from retrodict.solvers import AbstractSolver


Vector = Float[Array, " d"]


def divergence(
    field: Callable[[Vector], Vector], x: Vector, directions: Float[Array, "k d"]
) -> tuple[Vector, Float[Array, ""]]:
    """The field at `x` and its divergence within the span of `directions` (unit vectors, or zero rows for padding)."""
    value, push = jax.linearize(field, x)
    return value, jnp.sum(jax.vmap(push)(directions) * directions)


def pull_back(
    velocity: Callable[[Vector, Array], Vector],
    x1: Vector,
    directions: Float[Array, "k d"],
    solver: AbstractSolver,
    span: tuple[float, float],
) -> tuple[Vector, Float[Array, ""]]:
    """Carries data `x1` back to noise; returns that noise and `log p1(x1) - log p0(noise)`."""

    def both(state: tuple[Vector, Array], t: Array) -> tuple[Vector, Array]:
        return divergence(lambda x: velocity(x, t), state[0], directions)

    start, end = span
    # run from the data's end, the second component collects minus the integral
    return solver(both, (x1, jnp.zeros(())), end, start)
