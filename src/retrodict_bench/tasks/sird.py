"""SIRD: an epidemic whose contact rate is an unknown function of time, after the Simformer.

    S' = -beta(t) S I,   I' = beta(t) S I - (gamma + delta) I,   R' = gamma I,   D' = delta I,   0 <= t <= 50
    gamma, delta ~ U(0, .5), the rates of recovery and of death;   S(0) = 1, I(0) ~ U(0, .2), R(0) = D(0) = 0
    beta(t) = 1 / (1 + e^-f(t)), f a Gaussian process with cov(f(s), f(t)) = 2.5^2 exp(-(s - t)^2 / (2 * 7^2))
    infected, recovered, dead ~ LogNormal(log(u + 1e-8), .05) for u = I(t), R(t), D(t), at 20 random times t each

After Gloeckler et al. 2024 (arXiv:2404.09636): S + I + R + D is 1 + I(0), as there, and I(0) is an unobserved nuisance.
Noise belongs to an observation and is drawn at its time. The functions have values on the 100 points of `GRID` and are
linear between them.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import At, Function, Problem
from retrodict_bench.tasks._epidemic import epidemic
from retrodict_bench.tasks._functions import cholesky, interpolate, random_times
from retrodict_bench.tasks._task import Task, simulated_task


END, POINTS, STEPS = 50.0, 100, 4
AMPLITUDE, LENGTH = 2.5, 7.0
MAX_INFECTED = 0.2
FLOOR, NOISE = 1e-8, 0.05
GRID = np.linspace(0.0, END, POINTS)
OBSERVED = ("infected", "recovered", "dead")
TIMES = 20  # of each function in a row
SEED = 60


def draw_start(key: PRNGKeyArray) -> Float[Array, ""]:
    """Draws I(0)."""
    return jr.uniform(key, maxval=MAX_INFECTED)


def curves(
    contact: Float[Array, "100"], start: Float[Array, ""], gamma: Array, delta: Array
) -> dict[str, Float[Array, "100"]]:
    """Returns S, I, R and D on the grid, without noise, as `susceptible` and `OBSERVED`, given beta(t) and I(0)."""
    initial = (jnp.ones_like(start), start)
    s, i, a = epidemic(contact, gamma + delta, initial, between=END / (POINTS - 1), steps=STEPS)
    return {"susceptible": s, "infected": i, "recovered": gamma * a, "dead": delta * a}


def observed(
    key: PRNGKeyArray, times: Mapping[str, Float[Array, " k"]], contact: Float[Array, "100"], gamma: Array, delta: Array
) -> dict[str, Float[Array, " k"]]:
    """Draws those of `OBSERVED` that `times` names, each at its times, given beta(t) on the grid."""
    # separate keys: I(0) and the noise are independent
    key_start, key_noise = jr.split(key)
    exact = curves(contact, draw_start(key_start), gamma, delta)
    keys = dict(zip(OBSERVED, jr.split(key_noise, len(OBSERVED)), strict=True))
    return {name: _noisy(keys[name], interpolate(t, GRID, exact[name])) for name, t in times.items()}


def _noisy(key: PRNGKeyArray, u: Float[Array, " k"]) -> Float[Array, " k"]:
    return jnp.exp(jnp.log(u + FLOOR) + NOISE * jr.normal(key, u.shape))


def prior() -> dict[str, Any]:
    """Returns the laws of gamma and delta, independent, with mean 1/4; that of beta(t) is `contact_prior`."""
    import numpyro.distributions as dist

    return {"gamma": dist.Uniform(0.0, 0.5), "delta": dist.Uniform(0.0, 0.5)}


def contact_prior() -> Function:
    """Returns the law of beta(t), from 0 to 1: the logistic of a Gaussian process."""
    import numpyro.distributions as dist

    factor = jnp.asarray(cholesky(tuple(GRID.tolist()), AMPLITUDE, LENGTH), float)
    gaussian = dist.MultivariateNormal(jnp.zeros(POINTS), scale_tril=factor)
    return Function(dist.TransformedDistribution(gaussian, dist.transforms.SigmoidTransform()), GRID, TIMES)


def simulate(key: PRNGKeyArray, gamma: Array, delta: Array, contact: Float[Array, "100"]) -> dict[str, At]:
    """Draws each of `OBSERVED` at `TIMES` random times, given both rates and beta(t) on the grid."""
    key_values, *keys = jr.split(key, 1 + len(OBSERVED))
    times = {name: random_times(k, TIMES, GRID) for name, k in zip(OBSERVED, keys, strict=True)}
    values = observed(key_values, times, contact, gamma, delta)
    return {name: At(times[name], values[name]) for name in times}


def problem() -> Problem:
    """Returns prior and simulator: two rates, the function `contact`, and three observed functions."""
    import numpyro.distributions as dist

    positive = dict.fromkeys(OBSERVED, dist.constraints.positive)
    return Problem({**prior(), "contact": contact_prior()}, simulate, supports=positive)


@functools.cache
def task() -> Task:
    """Returns the task: two rates, `contact`, and `OBSERVED`, each at its times; ten observations from a fixed seed."""
    return simulated_task("sird", problem(), seed=SEED, nuisances=1)
