"""Hierarchical SLCP: a center for each site, and a covariance that all sites share.

s1, s2 ~ U(.1, 3),   rho ~ U(-3, 3);   m_s ~ U(-3, 3)^2
x_s = four draws of N(m_s, S),   S as in `slcp`: standard deviations s1^2 and s2^2, correlation tanh rho
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Plate, Problem
from retrodict_bench.tasks import slcp
from retrodict_bench.tasks._sites import sites_task
from retrodict_bench.tasks._task import Task


ROOTS = (0.1, 3.0)  # of the standard deviations


def _theta(s1: Array, s2: Array, rho: Array, m: Float[Array, "2"]) -> Float[Array, "5"]:
    return jnp.concatenate([m, jnp.stack([s1, s2, rho])])


def simulate(key: PRNGKeyArray, s1: Array, s2: Array, rho: Array, m: Float[Array, "2"]) -> dict[str, Array]:
    """Draws `x` (8,) of one site, four points in the plane."""
    return slcp.simulate(key, _theta(s1, s2, rho, m))


def log_likelihood(*, s1: Array, s2: Array, rho: Array, m: Float[Array, "2"], x: Float[Array, "8"]) -> Array:
    """Returns log p(x | s1, s2, rho, m) of one site."""
    return slcp.log_likelihood(_theta(s1, s2, rho, m), x)


def task() -> Task:
    """Returns the task: `s1`, `s2` and `rho`, and for each of fifty sites `m` (2,) and `x` (8,); no references."""
    import numpyro.distributions as dist

    prior = {
        "s1": dist.Uniform(*ROOTS),
        "s2": dist.Uniform(*ROOTS),
        "rho": dist.Uniform(-slcp.REACH, slcp.REACH),
        "site": Plate("site", {"m": dist.Uniform(-slcp.REACH, slcp.REACH).expand((2,)).to_event(1)}),
    }
    return sites_task("h_slcp", Problem(prior, simulate), log_likelihood, seed=150)
