"""An epidemic whose contact rate is a function of time.

    S' = -beta(t) S I,   I' = beta(t) S I - gamma I,   A' = I

S are susceptible, I infected, and A is the total time spent infected. gamma A have left I; several ends of the disease
share it in proportion to their rates. S + I + gamma A is constant.

Runge-Kutta's fourth-order rule keeps that sum to rounding, because the sum is linear. beta is linear between the points
of its grid. No step crosses such a point: the slope of beta jumps there, and the order would be lost.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


State = tuple[Array, Array, Array]  # S, I and A


def epidemic(
    contact: Float[Array, " k"],
    removal: Float[Array, ""],
    start: tuple[Float[Array, ""], Float[Array, ""]],
    *,
    between: float,
    steps: int,
) -> tuple[Float[Array, " k"], Float[Array, " k"], Float[Array, " k"]]:
    """Returns S, I and A at the points of the grid of beta.

    Args:
        contact: beta.
        removal: gamma.
        start: S and I at the first point; A is 0 there.
        between: the time from one point to the next.
        steps: the number of steps from one point to the next.
    """
    dt = between / steps
    zero = jnp.zeros_like(contact[0] + removal + start[0] + start[1])

    def slope(beta: Array, w: State) -> State:
        infections = beta * w[0] * w[1]
        return -infections, infections - removal * w[1], w[1]

    def moved(w: State, by: float, k: State) -> State:
        return w[0] + by * k[0], w[1] + by * k[1], w[2] + by * k[2]

    def interval(w: State, ends: tuple[Array, Array]) -> tuple[State, State]:
        first, last = ends

        def step(w: State, i: Array) -> tuple[State, None]:
            b1, b2, b3 = (first + (last - first) * (i + share) / steps for share in (0.0, 0.5, 1.0))
            k1 = slope(b1, w)
            k2 = slope(b2, moved(w, dt / 2, k1))
            k3 = slope(b2, moved(w, dt / 2, k2))
            k4 = slope(b3, moved(w, dt, k3))
            total = moved(moved(k1, 2.0, moved(k2, 1.0, k3)), 1.0, k4)  # six times the mean slope
            return moved(w, dt / 6, total), None

        w = lax.scan(step, w, jnp.arange(steps))[0]
        return w, w

    initial = (start[0] + zero, start[1] + zero, zero)
    _, states = lax.scan(interval, initial, (contact[:-1], contact[1:]))
    s, i, a = (jnp.concatenate([x[None], xs]) for x, xs in zip(initial, states, strict=True))
    return s, i, a
