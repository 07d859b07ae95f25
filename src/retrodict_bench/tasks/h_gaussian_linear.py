"""Hierarchical Gaussian linear: a mean for each site, and a noise scale that all sites share.

    sigma ~ HalfNormal(1),   mu_s ~ N(0, 1),   x_s ~ N(mu_s, sigma^2)

With mu integrated out, x_s ~ N(0, 1 + sigma^2). Hence sigma | x is a density of one number, drawn on a fine grid, and

    mu_s | sigma, x ~ N(x_s / (1 + sigma^2), sigma^2 / (1 + sigma^2))

One number x_s cannot tell sigma from mu_s, so the posterior of mu_s is wide for any number of sites.
"""

from collections.abc import Mapping

import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict import Plate, Problem
from retrodict_bench.tasks._laws import log_normal
from retrodict_bench.tasks._sites import draw_on_grid, sites_task
from retrodict_bench.tasks._task import Task


SCALE = 1.0  # of the half-normal
GRID = np.linspace(0.0, 8.0, 8001)  # of sigma; P(sigma > 8) = 1e-15


def simulate(key: PRNGKeyArray, sigma: Array, mu: Array) -> dict[str, Array]:
    """Draws `x` of one site."""
    return {"x": mu + sigma * jr.normal(key)}


def log_likelihood(*, sigma: Array, mu: Array, x: Array) -> Array:
    """Returns log p(x | sigma, mu) of one site."""
    return log_normal(x, mu, sigma)


def posterior(data: Mapping[str, np.ndarray], rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Draws `sigma` (n,) and `mu` (n, sites) given `x` (sites,), exactly up to the grid of sigma."""
    x, total = data["x"], 1 + GRID**2
    log_density = -0.5 * (GRID / SCALE) ** 2 - 0.5 * len(x) * np.log(total) - 0.5 * (x**2).sum() / total
    sigma = draw_on_grid(log_density, GRID, rng, n)
    share = 1 / (1 + sigma[:, None] ** 2)
    return {"sigma": sigma, "mu": rng.normal(x * share, sigma[:, None] * np.sqrt(share))}


def task() -> Task:
    """Returns the task: `sigma`, and for each of fifty sites `mu` and `x`, all scalars; references are exact."""
    import numpyro.distributions as dist

    prior = {"sigma": dist.HalfNormal(SCALE), "site": Plate("site", {"mu": dist.Normal(0.0, 1.0)})}
    return sites_task("h_gaussian_linear", Problem(prior, simulate), log_likelihood, seed=110, posterior=posterior)
