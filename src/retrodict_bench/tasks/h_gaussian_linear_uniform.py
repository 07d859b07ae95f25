"""Hierarchical Gaussian linear with a uniform prior: sites that are nearly independent.

    sigma ~ HalfNormal(.1),   mu_s ~ U(-10, 10),   x_s ~ N(mu_s, sigma^2)

With mu integrated out, p(x_s | sigma) = [F((10 - x_s) / sigma) - F((-10 - x_s) / sigma)] / 20, where F is the normal
distribution function: only sites near the ends of the interval inform sigma. Given sigma, mu_s is N(x_s, sigma^2)
truncated to (-10, 10).
"""

from collections.abc import Mapping

import numpy as np

from retrodict import Plate, Problem
from retrodict_bench.tasks._laws import draw_truncated_normal, log_mass_between
from retrodict_bench.tasks._sites import draw_on_grid, sites_task
from retrodict_bench.tasks._task import Task
from retrodict_bench.tasks.h_gaussian_linear import log_likelihood, simulate


SCALE, REACH = 0.1, 10.0
GRID = np.linspace(1e-5, 0.8, 8001)  # of sigma; P(sigma > .8) = 1e-15


def posterior(data: Mapping[str, np.ndarray], rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Draws `sigma` (n,) and `mu` (n, sites) given `x` (sites,), exactly up to the grid of sigma."""
    x = data["x"]
    masses = log_mass_between((-REACH - x[:, None]) / GRID, (REACH - x[:, None]) / GRID)
    sigma = draw_on_grid(-0.5 * (GRID / SCALE) ** 2 + masses.sum(0), GRID, rng, n)
    return {"sigma": sigma, "mu": draw_truncated_normal(rng, x, sigma[:, None], -REACH, REACH, (n, len(x)))}


def task() -> Task:
    """Returns the task: `sigma`, and for each of fifty sites `mu` and `x`, all scalars; references are exact."""
    import numpyro.distributions as dist

    prior = {"sigma": dist.HalfNormal(SCALE), "site": Plate("site", {"mu": dist.Uniform(-REACH, REACH)})}
    problem = Problem(prior, simulate)
    return sites_task("h_gaussian_linear_uniform", problem, log_likelihood, seed=120, posterior=posterior)
