"""Conjugate Gaussian sites: a hierarchy with a closed-form posterior.

    mu ~ N(0, a),   theta_s ~ N(mu, b),   y_s ~ N(theta_s, c),   variances a = 1, b = .1, c = .1

With theta integrated out, y_s ~ N(mu, b + c), hence with n sites

    mu | y           precision 1/a + n/(b + c),   mean [sum_s y_s / (b + c)] / precision
    theta_s | mu, y  precision 1/b + 1/c,         mean (mu/b + y_s/c) / precision
"""

import math
from collections.abc import Mapping

import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict import Plate, Problem
from retrodict_bench.tasks._laws import log_normal
from retrodict_bench.tasks._sites import sites_task
from retrodict_bench.tasks._task import Task


A, B, C = 1.0, 0.1, 0.1  # variances


def simulate(key: PRNGKeyArray, mu: Array, theta: Array) -> dict[str, Array]:
    """Draws `y` of one site."""
    return {"y": theta + math.sqrt(C) * jr.normal(key)}


def log_likelihood(*, mu: Array, theta: Array, y: Array) -> Array:
    """Returns log p(y | theta) of one site."""
    return log_normal(y, theta, math.sqrt(C))


def posterior(data: Mapping[str, np.ndarray], rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Draws `mu` (n,) and `theta` (n, sites), exactly, given `y` (sites,)."""
    y = data["y"]
    precision = 1 / A + len(y) / (B + C)
    mu = rng.normal(y.sum() / (B + C) / precision, precision**-0.5, n)
    site_precision = 1 / B + 1 / C
    theta = rng.normal((mu[:, None] / B + y / C) / site_precision, site_precision**-0.5)
    return {"mu": mu, "theta": theta}


def task() -> Task:
    """Returns the task: `mu`, and for each of fifty sites `theta` and `y`, all scalars; references are exact."""
    import numpyro.distributions as dist

    prior = {
        "mu": dist.Normal(0.0, math.sqrt(A)),
        "site": Plate("site", {"theta": lambda mu: dist.Normal(mu, math.sqrt(B))}),
    }
    return sites_task("h_conjugate", Problem(prior, simulate), log_likelihood, seed=100, posterior=posterior)
