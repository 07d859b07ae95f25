"""Hierarchical SIR: one disease in many towns, each with its contact rate.

    log gamma ~ N(log .125, .2);   log beta_s ~ N(log .4, .5);   x_s (10,) as `sir` draws it given (beta_s, gamma)

The counts are treated as real numbers, as in `sir`.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Plate, Problem
from retrodict_bench.tasks import sir
from retrodict_bench.tasks._sites import sites_task
from retrodict_bench.tasks._task import Task


BETA, GAMMA = (math.log(0.4), 0.5), (math.log(0.125), 0.2)


def simulate(key: PRNGKeyArray, gamma: Array, beta: Array) -> dict[str, Array]:
    """Draws `x` (10,) of one site, counts from 0 to 1000."""
    return sir.simulate(key, jnp.stack([beta, gamma]))


def log_likelihood(*, gamma: Array, beta: Array, x: Float[Array, "10"]) -> Array:
    """Returns log P(x | beta, gamma) of one site."""
    return sir.log_likelihood(jnp.stack([beta, gamma]), x)


def task() -> Task:
    """Returns the task: `gamma`, and for each of fifty sites `beta` and `x` (10,), rates a day; no references."""
    import numpyro.distributions as dist

    prior = {"gamma": dist.LogNormal(*GAMMA), "site": Plate("site", {"beta": dist.LogNormal(*BETA)})}
    return sites_task("h_sir", Problem(prior, simulate), log_likelihood, seed=160)
