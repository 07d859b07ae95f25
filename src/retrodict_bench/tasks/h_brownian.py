"""Hierarchical Brownian: sites observed with noise of known, varying size.

    mu ~ N(0, 1),   theta_s ~ N(mu, .1^2)                          (.1 is the standard deviation)
    y_si ~ N(theta_s, f_si^2),   f_si ~ Exponential(1),   i = 1, ..., 5

The noise scale f_si is known: it is the point of the function `y`. Both integrals have closed forms. With the
precisions p_s = sum_i 1 / f_si^2 and the weighted means m_s = sum_i (y_si / f_si^2) / p_s,

    m_s | mu ~ N(mu, v_s),  v_s = .1^2 + 1 / p_s
    mu | y          precision 1 + sum_s 1 / v_s,  mean [sum_s m_s / v_s] / precision
    theta_s | mu, y precision 1 / .1^2 + p_s,     mean (mu / .1^2 + p_s m_s) / precision
"""

from collections.abc import Mapping

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict import At, Plate, Problem
from retrodict_bench.tasks._laws import log_normal
from retrodict_bench.tasks._sites import sites_task
from retrodict_bench.tasks._task import Task


SPREAD = 0.1  # of theta around mu
N_VALUES = 5  # of a site


def simulate(key: PRNGKeyArray, mu: Array, theta: Array) -> dict[str, At]:
    """Draws `y` of one site, five values at five noise scales."""
    key_scale, key_noise = jr.split(key)
    scales = jr.exponential(key_scale, (N_VALUES,))
    return {"y": At(scales, theta + scales * jr.normal(key_noise, (N_VALUES,)))}


def log_likelihood(*, mu: Array, theta: Array, y: At) -> Array:
    """Returns log p(y | theta) of one site, given its noise scales."""
    return jnp.sum(log_normal(y.values, theta, y.points))


def posterior(data: Mapping[str, np.ndarray], rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Draws `mu` (n,) and `theta` (n, sites), exactly, given `y` and its noise scales `y.at`, (sites, 5) each."""
    weight = data["y.at"] ** -2.0
    p = weight.sum(1)
    m = (weight * data["y"]).sum(1) / p
    v = SPREAD**2 + 1 / p
    precision = 1 + (1 / v).sum()
    mu = rng.normal((m / v).sum() / precision, precision**-0.5, n)
    site_precision = SPREAD**-2 + p
    theta = rng.normal((mu[:, None] / SPREAD**2 + p * m) / site_precision, site_precision**-0.5)
    return {"mu": mu, "theta": theta}


def task() -> Task:
    """Returns the task: `mu`, and for each of fifty sites `theta` and the function `y`; references are exact."""
    import numpyro.distributions as dist

    prior = {
        "mu": dist.Normal(0.0, 1.0),
        "site": Plate("site", {"theta": lambda mu: dist.Normal(mu, SPREAD)}),
    }
    return sites_task("h_brownian", Problem(prior, simulate), log_likelihood, seed=170, posterior=posterior)
