"""SLCP, simple likelihood and complex posterior: four points from one Gaussian in the plane.

    m = (theta_0, theta_1),   s_1 = theta_2^2,   s_2 = theta_3^2,   rho = tanh theta_4
    S = [[s_1^2, rho s_1 s_2], [rho s_1 s_2, s_2^2]] + e I,   e = 1e-6
    x = four draws of N(m, S), one after the other

S = L L' with L lower triangular. The square of its last element is det S / S_11, with

    det S = s_1^2 s_2^2 / cosh^2 theta_4 + e (s_1^2 + s_2^2) + e^2

This form subtracts no large numbers, because 1 - tanh^2 = 1 / cosh^2.
"""

import math
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Problem
from retrodict._types import Key
from retrodict_bench.tasks._sbibm import sbibm_task
from retrodict_bench.tasks._slcp_conditional import draw
from retrodict_bench.tasks._slcp_covariance import POINTS, REACH, cholesky
from retrodict_bench.tasks._task import Task


def simulate(key: PRNGKeyArray, theta: Float[Array, "5"]) -> dict[str, Array]:
    """Draws `x` (8,), four points in the plane, given `theta` (5,)."""
    l_11, l_21, l_22 = cholesky(theta)
    z = jr.normal(key, (POINTS, 2))
    points = theta[:2] + jnp.stack([l_11 * z[:, 0], l_21 * z[:, 0] + l_22 * z[:, 1]], axis=1)
    return {"x": points.ravel()}


def log_likelihood(theta: Float[Array, "5"], x: Float[Array, "8"]) -> Float[Array, ""]:
    """Returns log p(x | theta)."""
    l_11, l_21, l_22 = cholesky(theta)
    offset = x.reshape(POINTS, 2) - theta[:2]
    z_0 = offset[:, 0] / l_11
    z_1 = (offset[:, 1] - l_21 * z_0) / l_22
    return -0.5 * jnp.sum(z_0**2 + z_1**2) - POINTS * (jnp.log(l_11 * l_22) + math.log(2 * math.pi))


def prior() -> dict[str, Any]:
    """Returns the law theta ~ U(-3, 3)^5."""
    import numpyro.distributions as dist

    return {"theta": dist.Uniform(-REACH, REACH).expand((5,)).to_event(1)}


def conditional(roles: Any, values: Any, n: int, key: Key) -> Float[np.ndarray, "n 13"]:
    """Draws the latent ones of five theta and eight x given the given ones; see `Task.conditional`."""
    return draw(roles, values, n, key)


def task() -> Task:
    """Returns the task of sbibm, after Papamakarios et al. 2019: theta ~ U(-3, 3)^5 and x (8,)."""
    second_of_point = {f"x[{2 * i + 1}]": [f"x[{2 * i}]"] for i in range(POINTS)}
    structure = {"parents": {"x": ["theta"], **second_of_point}, "exchangeable": {"x": POINTS}}
    problem = Problem(prior(), simulate)
    return sbibm_task("slcp", problem, log_likelihood, conditional=conditional, structure=structure)
