"""Gaussian mixture: a posterior with two scales.

    x ~ 1/2 N(theta, I) + 1/2 N(theta, .01 I)

One coin is thrown for the whole vector, not one for each element, as sbibm does since 1.1.0.
"""

import math

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Problem
from retrodict_bench.tasks._sbibm import sbibm_task
from retrodict_bench.tasks._task import Task


WIDE, NARROW = 1.0, 0.1


def simulate(key: PRNGKeyArray, theta: Float[Array, "2"]) -> dict[str, Array]:
    """Draws `x` (2,) given `theta` (2,)."""
    key_coin, key_noise = jr.split(key)
    scale = jnp.where(jr.bernoulli(key_coin), WIDE, NARROW)
    return {"x": theta + scale * jr.normal(key_noise, (2,))}


def log_likelihood(theta: Float[Array, "2"], x: Float[Array, "2"]) -> Float[Array, ""]:
    """Returns log p(x | theta)."""
    square = jnp.sum((x - theta) ** 2)
    wide, narrow = (-0.5 * square / s**2 - math.log(4 * math.pi * s**2) for s in (WIDE, NARROW))
    return jnp.logaddexp(wide, narrow)


def task() -> Task:
    """Returns the task of sbibm, after Sisson et al. 2007: theta ~ U(-10, 10)^2 and x (2,)."""
    import numpyro.distributions as dist

    prior = {"theta": dist.Uniform(-10.0, 10.0).expand((2,)).to_event(1)}
    structure = {"parents": {"x": ["theta"], "x[1]": ["x[0]"]}}  # one coin for both elements
    return sbibm_task("gaussian_mixture", Problem(prior, simulate), log_likelihood, structure=structure)
