"""Lotka-Volterra after the Simformer: populations observed at times that differ between rows and between species.

    x' = alpha x - beta x y,   y' = delta x y - gamma y,   x(0) = 1, y(0) = 1/2,   0 <= t <= 15
    alpha, beta, gamma, delta = 1 + 2 / (1 + e^-z), z ~ N(0, 1), each
    prey ~ N(x(t), .1),   predators ~ N(y(t), .1), at 20 random times t each

After Gloeckler et al. 2024 (arXiv:2404.09636). Noise belongs to an observation and is drawn at its time: noise on a
grid, interpolated between its points, would be smaller there and correlated between neighbors. x and y are solved in
logs (`_oscillation`) at the 150 points of `GRID` and are linear between them.
"""

import functools
import math
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import At, Problem
from retrodict_bench.tasks._functions import interpolate, random_times
from retrodict_bench.tasks._laws import log_normal_observed
from retrodict_bench.tasks._oscillation import log_populations
from retrodict_bench.tasks._task import Task, simulated_task


PARAMETERS, SPECIES = ("alpha", "beta", "gamma", "delta"), ("prey", "predators")
START, END, POINTS, STEPS = (1.0, 0.5), 15.0, 150, 4
NOISE = 0.1
TIMES = 20  # of each species in a row
SEED = 59
GRID = np.linspace(0.0, END, POINTS)


def curves(alpha: Array, beta: Array, gamma: Array, delta: Array) -> dict[str, Float[Array, "150"]]:
    """Returns x, as `prey`, and y, as `predators`, on the grid, without noise."""
    # `zero` gives the start the dtype and batch axes of the rates, as a loop's carry needs
    zero = jnp.zeros_like(alpha + beta + gamma + delta)
    start = (zero + math.log(START[0]), zero + math.log(START[1]))
    u, v = log_populations((alpha, beta, delta, gamma), start, times=POINTS, between=END / (POINTS - 1), steps=STEPS)
    return {"prey": jnp.exp(u), "predators": jnp.exp(v)}


def observed(
    key: PRNGKeyArray, times: dict[str, Float[Array, " k"]], **parameters: Array
) -> dict[str, Float[Array, " k"]]:
    """Draws the species that `times` names, each at its times, given the four `PARAMETERS`."""
    exact, keys = curves(**parameters), dict(zip(SPECIES, jr.split(key), strict=True))
    means = {name: interpolate(t, GRID, exact[name]) for name, t in times.items()}
    return {name: mean + NOISE * jr.normal(keys[name], mean.shape) for name, mean in means.items()}


def prior() -> dict[str, Any]:
    """Returns the laws of the four rates, independent, from 1 to 3, with mean 2."""
    import numpyro.distributions as dist

    squash = [
        dist.transforms.SigmoidTransform(),
        dist.transforms.AffineTransform(1.0, 2.0, dist.constraints.unit_interval),
    ]
    return {name: dist.TransformedDistribution(dist.Normal(0.0, 1.0), squash) for name in PARAMETERS}


def simulate(key: PRNGKeyArray, **parameters: Array) -> dict[str, At]:
    """Draws `prey` and `predators` at `TIMES` random times each, given the four `PARAMETERS`."""
    key_values, *keys = jr.split(key, 3)
    times = {name: random_times(k, TIMES, GRID) for name, k in zip(SPECIES, keys, strict=True)}
    values = observed(key_values, times, **parameters)
    return {name: At(times[name], values[name]) for name in times}


def problem() -> Problem:
    """Returns prior and simulator: four rates and two functions of time."""
    return Problem(prior(), simulate)


@functools.cache
def task() -> Task:
    """Returns the task: four rates, `prey` and `predators`, each at its times; ten observations from a fixed seed."""
    return simulated_task("lotka_volterra_unstructured", problem(), seed=SEED, log_likelihood=log_likelihood)


def log_likelihood(*, prey: At, predators: At, **parameters: Array) -> Float[Array, ""]:
    """Returns the log density of both species given the four `PARAMETERS`; values that are NaN are left out."""
    exact = curves(**parameters)

    def log_density(name: str, series: At) -> Array:
        points = jnp.nan_to_num(jnp.asarray(series.points))  # NaN if there is no value
        return log_normal_observed(series.values, interpolate(points, GRID, exact[name]), NOISE)

    return log_density("prey", prey) + log_density("predators", predators)
