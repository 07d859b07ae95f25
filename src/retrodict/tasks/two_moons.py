"""Two moons: a posterior of two thin crescents.

    r ~ N(.1, .01),  a ~ U(-pi/2, pi/2)                    (.01 is the standard deviation)
    x = (r cos a + .25 - |theta_0 + theta_1| / sqrt 2,  r sin a + (theta_1 - theta_0) / sqrt 2)

The noise p = x - m(theta) is a half circle in polar coordinates, and dp = r dr da, hence

    p(x | theta) = N(r; .1, .01) / (pi r),   r = |p|,   where p_0 > 0, and 0 elsewhere.
"""

import math

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict.problem import Problem
from retrodict.tasks._sbibm import sbibm_task
from retrodict.tasks._task import Task


RADIUS, SPREAD = 0.1, 0.01


def _center(theta: Float[Array, "2"]) -> Float[Array, "2"]:
    return jnp.stack([0.25 - jnp.abs(theta[0] + theta[1]) / math.sqrt(2), (theta[1] - theta[0]) / math.sqrt(2)])


def simulate(key: PRNGKeyArray, theta: Float[Array, "2"]) -> dict[str, Array]:
    """One draw of `x` (2,) given `theta` (2,)."""
    key_radius, key_angle = jr.split(key)
    r = RADIUS + SPREAD * jr.normal(key_radius)
    a = jr.uniform(key_angle, minval=-math.pi / 2, maxval=math.pi / 2)
    return {"x": r * jnp.stack([jnp.cos(a), jnp.sin(a)]) + _center(theta)}


def log_likelihood(theta: Float[Array, "2"], x: Float[Array, "2"]) -> Float[Array, ""]:
    """log p(x | theta); minus infinity left of the half circle."""
    p = x - _center(theta)
    r = jnp.hypot(p[0], p[1])
    z = (r - RADIUS) / SPREAD
    log_density = -0.5 * z**2 - math.log(SPREAD * math.sqrt(2 * math.pi)) - math.log(math.pi) - jnp.log(r)
    return jnp.where(p[0] > 0, log_density, -jnp.inf)


def task() -> Task:
    """theta ~ U(-1, 1)^2, x (2,); the task of sbibm, after Greenberg et al. 2019."""
    import numpyro.distributions as dist

    prior = {"theta": dist.Uniform(-1.0, 1.0).expand((2,)).to_event(1)}
    return sbibm_task("two_moons", Problem(prior, simulate), log_likelihood)
