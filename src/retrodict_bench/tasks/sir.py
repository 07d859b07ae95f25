"""SIR: an epidemic among a million people, with tests of a thousand, after the benchmark sbibm.

    S' = -beta S I / N,   I' = beta S I / N - gamma I,   N = 1e6,   I(0) = 1, S(0) = N - 1
    theta = (beta, gamma);   log beta ~ N(log .4, .5),   log gamma ~ N(log .125, .2)
    x ~ Binomial(1000, I / N) at day 0, 17, 34, ..., 153

The counts x are treated as real numbers, as in sbibm.
"""

import math

import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Problem
from retrodict_bench.tasks._oscillation import log_populations
from retrodict_bench.tasks._sbibm import sbibm_task
from retrodict_bench.tasks._task import Task


PEOPLE, TESTED = 1e6, 1000
TIMES, BETWEEN, STEPS = 10, 17.0, 68


def log_infected(theta: Float[Array, "2"]) -> Float[Array, "10"]:
    """Returns log(I / N), at most 0."""
    beta, gamma = theta
    start = (jnp.log1p(jnp.asarray(-1.0 / PEOPLE)), jnp.asarray(-math.log(PEOPLE)))
    rates = (jnp.zeros_like(beta), beta, beta, gamma)
    return jnp.minimum(log_populations(rates, start, times=TIMES, between=BETWEEN, steps=STEPS)[1], 0.0)


def simulate(key: PRNGKeyArray, theta: Float[Array, "2"]) -> dict[str, Array]:
    """Draws `x` (10,), counts from 0 to 1000, given `theta` (2,)."""
    return {"x": jr.binomial(key, TESTED, jnp.exp(log_infected(theta)))}


def log_likelihood(theta: Float[Array, "2"], x: Float[Array, "10"]) -> Float[Array, ""]:
    """Returns log P(x | theta)."""
    log_p = log_infected(theta)
    log_binomial = gammaln(TESTED + 1.0) - gammaln(x + 1.0) - gammaln(TESTED - x + 1.0)
    return jnp.sum(log_binomial + x * log_p + (TESTED - x) * jnp.log1p(-jnp.exp(log_p)))


def task() -> Task:
    """Returns the task of sbibm: theta (2,), positive, and x (10,)."""
    import numpyro.distributions as dist

    location = jnp.log(jnp.array([0.4, 0.125]))
    prior = {"theta": dist.LogNormal(location, jnp.array([0.5, 0.2])).to_event(1)}
    return sbibm_task("sir", Problem(prior, simulate), log_likelihood, structure={"parents": {"x": ["theta"]}})
