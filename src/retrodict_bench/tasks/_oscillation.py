"""Predators and prey, in logs: u = log prey and v = log predators,

    u' = a - b e^v,   v' = c e^u - d

These are Lotka and Volterra's equations. An epidemic is a special case: u = log of the susceptible and v = log of the
infected, as fractions of all people, a = 0, b = c = the contact rate and d = the recovery rate.

Runge-Kutta's fourth-order rule with a fixed step costs every row the same. The solver integrates the change of (u, v)
since the last output time. This change is small, while near u = -60 float32 would round each of thousands of steps by
2e-6.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


Logs = tuple[Array, Array]


def log_populations(
    rates: tuple[Array, Array, Array, Array], start: Logs, *, times: int, between: float, steps: int
) -> tuple[Float[Array, " times"], Float[Array, " times"]]:
    """Returns u and v at the `times` points 0, between, 2 between, ..., with `steps` steps from one to the next."""
    a, b, c, d = rates
    dt = between / steps

    def interval(w: Logs, _: None) -> tuple[Logs, Logs]:
        loss, gain = b * jnp.exp(w[1]), c * jnp.exp(w[0])

        def slope(x: Array, y: Array) -> Logs:
            return a - loss * jnp.exp(y), gain * jnp.exp(x) - d

        def step(change: Logs, _: None) -> tuple[Logs, None]:
            (x, y), (x1, y1) = change, slope(*change)
            x2, y2 = slope(x + dt / 2 * x1, y + dt / 2 * y1)
            x3, y3 = slope(x + dt / 2 * x2, y + dt / 2 * y2)
            x4, y4 = slope(x + dt * x3, y + dt * y3)
            return (x + dt / 6 * (x1 + 2 * (x2 + x3) + x4), y + dt / 6 * (y1 + 2 * (y2 + y3) + y4)), None

        zero = jnp.zeros_like(w[0])
        x, y = lax.scan(step, (zero, zero), None, length=steps)[0]
        w = (w[0] + x, w[1] + y)
        return w, w

    _, states = lax.scan(interval, start, None, length=times - 1)
    u, v = (jnp.concatenate([x[None], xs]) for x, xs in zip(start, states, strict=True))
    return u, v
