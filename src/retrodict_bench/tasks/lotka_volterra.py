"""Lotka-Volterra: predators and prey for twenty days, after the benchmark sbibm.

X' = alpha X - beta X Y,   Y' = -gamma Y + delta X Y,   X(0) = 30, Y(0) = 1
theta = (alpha, beta, gamma, delta);   log alpha, log gamma ~ N(-.125, .5),   log beta, log delta ~ N(-3, .5)
x ~ LogNormal(log u, .1) for u = X, then Y, at t = 0, 2.1, 4.2, ..., 18.9, with u clipped to 1e-10 .. 1e4
"""

import math

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Problem
from retrodict_bench.tasks._oscillation import log_populations
from retrodict_bench.tasks._sbibm import sbibm_task
from retrodict_bench.tasks._task import Task


START, TIMES, BETWEEN, STEPS = (30.0, 1.0), 10, 2.1, 210
NOISE, LOW, HIGH = 0.1, 1e-10, 1e4


def log_medians(theta: Float[Array, "4"]) -> Float[Array, "20"]:
    """Returns log u, prey first."""
    start = (jnp.asarray(math.log(START[0])), jnp.asarray(math.log(START[1])))
    alpha, beta, gamma, delta = theta
    logs = log_populations((alpha, beta, delta, gamma), start, times=TIMES, between=BETWEEN, steps=STEPS)
    return jnp.clip(jnp.concatenate(logs), math.log(LOW), math.log(HIGH))


def simulate(key: PRNGKeyArray, theta: Float[Array, "4"]) -> dict[str, Array]:
    """Draws `x` (20,), positive, given `theta` (4,)."""
    return {"x": jnp.exp(log_medians(theta) + NOISE * jr.normal(key, (2 * TIMES,)))}


def log_likelihood(theta: Float[Array, "4"], x: Float[Array, "20"]) -> Float[Array, ""]:
    """Returns log p(x | theta)."""
    z = (jnp.log(x) - log_medians(theta)) / NOISE
    return jnp.sum(-0.5 * z**2 - jnp.log(x)) - 2 * TIMES * math.log(NOISE * math.sqrt(2 * math.pi))


def task() -> Task:
    """Returns the task of sbibm: theta (4,) and x (20,), both positive."""
    import numpyro.distributions as dist

    prior = {"theta": dist.LogNormal(jnp.array([-0.125, -3.0, -0.125, -3.0]), 0.5).to_event(1)}
    problem = Problem(prior, simulate, supports={"x": dist.constraints.positive})
    return sbibm_task("lotka_volterra", problem, log_likelihood, structure={"parents": {"x": ["theta"]}})
