"""Gaussian linear: a Gaussian likelihood and prior.

    theta ~ N(0, v I),   x ~ N(theta, v I),   v = .1, ten dimensions

Prior and likelihood have the same variance, hence theta | x ~ N(x / 2, v/2 I).
"""

import math

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Problem
from retrodict_bench.tasks._sbibm import sbibm_task
from retrodict_bench.tasks._task import Task


DIMENSION, VARIANCE = 10, 0.1
STRUCTURE = {"parents": {f"x[{i}]": [f"theta[{i}]"] for i in range(DIMENSION)}}


def simulate(key: PRNGKeyArray, theta: Float[Array, "10"]) -> dict[str, Array]:
    """Draws `x` (10,) given `theta` (10,)."""
    return {"x": theta + math.sqrt(VARIANCE) * jr.normal(key, (DIMENSION,))}


def log_likelihood(theta: Float[Array, "10"], x: Float[Array, "10"]) -> Float[Array, ""]:
    """Returns log p(x | theta)."""
    return -0.5 * jnp.sum((x - theta) ** 2) / VARIANCE - 0.5 * DIMENSION * math.log(2 * math.pi * VARIANCE)


def task() -> Task:
    """Returns the task of sbibm: theta ~ N(0, .1 I) (variance .1) and x (10,)."""
    import numpyro.distributions as dist

    prior = {"theta": dist.Normal(0.0, math.sqrt(VARIANCE)).expand((DIMENSION,)).to_event(1)}
    return sbibm_task("gaussian_linear", Problem(prior, simulate), log_likelihood, structure=STRUCTURE)
