"""Two moons: a posterior with two thin crescents.

    r ~ N(.1, .01),  a ~ U(-pi/2, pi/2)                    (.01 is the standard deviation)
    x = (r cos a + .25 - |theta_0 + theta_1| / sqrt 2,  r sin a + (theta_1 - theta_0) / sqrt 2)

The noise p = x - m(theta) is a half circle in polar coordinates, and dp = r dr da, hence

    p(x | theta) = N(r; .1, .01) / (pi r),   r = |p|,   where p_0 > 0, and 0 elsewhere.

Conditionals. With s = (theta_0 + theta_1) / sqrt 2 and b = (theta_1 - theta_0) / sqrt 2, a turned square,

    p_0 = x_0 - .25 + |s|,   p_1 = x_1 - b,

so a given x maps a draw of the noise to a draw of the position, with a constant Jacobian. Draws outside the square are
rejected, which is exact. If three of the four numbers are given, this map does not exist; the fourth is then drawn on a
line, from its density on cells of 1e-5 to 5e-5.
"""

import math
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import DataError, Problem
from retrodict._types import Key
from retrodict_bench.tasks._roles import answer, generator, given_tokens
from retrodict_bench.tasks._sbibm import sbibm_task
from retrodict_bench.tasks._task import Task


RADIUS, SPREAD = 0.1, 0.01
SHIFT = 0.25  # of x_0
CELLS, MAX_BATCHES = 40_000, 500
MAX_DISTANCE = 30.0  # from the radius, in units of SPREAD: this model does not make such values
IMPOSSIBLE = "the given values are next to impossible together under two_moons: check them"


def _center(theta: Float[Array, "2"]) -> Float[Array, "2"]:
    return jnp.stack([SHIFT - jnp.abs(theta[0] + theta[1]) / math.sqrt(2), (theta[1] - theta[0]) / math.sqrt(2)])


def simulate(key: PRNGKeyArray, theta: Float[Array, "2"]) -> dict[str, Array]:
    """Draws `x` (2,) given `theta` (2,)."""
    key_radius, key_angle = jr.split(key)
    r = RADIUS + SPREAD * jr.normal(key_radius)
    a = jr.uniform(key_angle, minval=-math.pi / 2, maxval=math.pi / 2)
    return {"x": r * jnp.stack([jnp.cos(a), jnp.sin(a)]) + _center(theta)}


def log_likelihood(theta: Float[Array, "2"], x: Float[Array, "2"]) -> Float[Array, ""]:
    """Returns log p(x | theta); minus infinity left of the half circle."""
    p = x - _center(theta)
    r = jnp.hypot(p[0], p[1])
    z = (r - RADIUS) / SPREAD
    log_density = -0.5 * z**2 - math.log(SPREAD * math.sqrt(2 * math.pi)) - math.log(math.pi) - jnp.log(r)
    return jnp.where(p[0] > 0, log_density, -jnp.inf)


def conditional(roles: Any, values: Any, n: int, key: Key) -> Float[np.ndarray, "n 4"]:
    """Draws the latent ones of theta_0, theta_1, x_0, x_1 given the given ones; see `Task.conditional`."""
    mask, v = given_tokens(roles, values, n, 4)
    rng = generator(key)
    if mask.sum() == 3:
        return answer(_draw_on_line(rng, mask, v, n), roles, values)
    batches, count = [], 0
    for _ in range(MAX_BATCHES):
        draws = _accepted(rng, mask, v, max(n, 5000))
        batches.append(draws)
        count += len(draws)
        if count >= n:
            return answer(np.concatenate(batches)[:n], roles, values)
    raise DataError(IMPOSSIBLE)


def _accepted(rng: np.random.Generator, given: np.ndarray, v: np.ndarray, m: int) -> np.ndarray:
    """Draws m proposals and returns those in the square."""
    r, a = rng.normal(RADIUS, SPREAD, m), rng.uniform(-math.pi / 2, math.pi / 2, m)
    p = r[:, None] * np.stack([np.cos(a), np.sin(a)], axis=1)
    s, b = rng.uniform(-math.sqrt(2), math.sqrt(2), (2, m))
    accept = np.ones(m, bool)
    if given[2]:
        size = SHIFT + p[:, 0] - v[2]
        s, accept = np.copysign(size, s), size >= 0
    if given[3]:
        b = v[3] - p[:, 1]
    theta = np.stack([s - b, s + b], axis=1) / math.sqrt(2)
    if given[0] ^ given[1]:
        i = int(given[1])
        sign = 1 - 2 * i  # theta_1 = theta_0 + sqrt(2) b, theta_0 = theta_1 - sqrt(2) b
        solution = math.sqrt(2) * s - v[i] if given[2] else v[i] + sign * math.sqrt(2) * b
        theta[:, 1 - i] = solution if given[2:].any() else rng.uniform(-1, 1, m)
    accept &= np.all((np.abs(theta) < 1) | given[:2], axis=1)
    theta = np.where(given[:2], v[:2], theta)
    return np.concatenate([theta, p + _centers(theta)], axis=1)[accept]


def _draw_on_line(rng: np.random.Generator, given: np.ndarray, v: np.ndarray, n: int) -> np.ndarray:
    """Draws the fourth number given three, from its density on cells."""
    free = int(np.argmin(given))
    low, high = (-1.0, 1.0) if free < 2 else _centers(v[:2])[free - 2] + np.array([-2.0, 2.0]) * RADIUS
    width = (high - low) / CELLS
    rows = np.tile(v, (CELLS, 1))
    rows[:, free] = low + width * (np.arange(CELLS) + 0.5)
    log_weights = _log_noise(rows[:, 2:] - _centers(rows[:, :2]))
    if log_weights.max() < -0.5 * MAX_DISTANCE**2:
        raise DataError(IMPOSSIBLE)
    sums = np.cumsum(np.exp(log_weights - log_weights.max()))
    draws = rows[np.searchsorted(sums, sums[-1] * (1.0 - rng.random(n)))]
    draws[:, free] += width * (rng.random(n) - 0.5)
    return draws


def _centers(theta: np.ndarray) -> np.ndarray:
    # `_center` in float64 and for many rows
    s, b = theta[..., 0] + theta[..., 1], theta[..., 1] - theta[..., 0]
    return np.stack([SHIFT - np.abs(s) / math.sqrt(2), b / math.sqrt(2)], axis=-1)


def _log_noise(p: np.ndarray) -> np.ndarray:
    """Returns log p(x | theta) up to a constant."""
    r = np.maximum(np.hypot(p[..., 0], p[..., 1]), 1e-12)
    return np.where(p[..., 0] > 0, -0.5 * ((r - RADIUS) / SPREAD) ** 2 - np.log(r), -np.inf)


def task() -> Task:
    """Returns the task of sbibm, after Greenberg et al. 2019: theta ~ U(-1, 1)^2 and x (2,)."""
    import numpyro.distributions as dist

    prior = {"theta": dist.Uniform(-1.0, 1.0).expand((2,)).to_event(1)}
    structure = {"parents": {"x": ["theta"], "x[1]": ["x[0]"]}}
    problem = Problem(prior, simulate)
    return sbibm_task("two_moons", problem, log_likelihood, conditional=conditional, structure=structure)
