"""Lotka-Volterra as the Simformer asks it: populations seen at times that differ from row to row and from kind to kind.

    x' = alpha x - beta x y,   y' = delta x y - gamma y,   x(0) = 1, y(0) = 1/2,   0 <= t <= 15
    alpha, beta, gamma, delta = 1 + 2 / (1 + e^-z), z ~ N(0, 1), each
    prey ~ N(x(t), .1),   predators ~ N(y(t), .1), at 20 random times t each

After Gloeckler et al. 2024 (arXiv:2404.09636). The noise belongs to an observation, and is drawn where one is made:
noise on a grid, read between its points, would be smaller there, and shared by neighbors. x and y are solved in logs
(`_oscillation`) at the 150 points of `GRID`, and are linear between them.
"""

import functools
import math
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict.problem import Problem
from retrodict.variables import At
from retrodict_bench.tasks._functions import at, random_times
from retrodict_bench.tasks._laws import log_normal_seen
from retrodict_bench.tasks._oscillation import log_populations
from retrodict_bench.tasks._task import Task, simulated_task


PARAMETERS = ("alpha", "beta", "gamma", "delta")
START, END, POINTS, STEPS = (1.0, 0.5), 15.0, 150, 4
NOISE = 0.1
TIMES = 20  # of each kind in a row
SEED = 59
GRID = np.linspace(0.0, END, POINTS)


def curves(alpha: Array, beta: Array, gamma: Array, delta: Array) -> dict[str, Float[Array, "150"]]:
    """x, as `prey`, and y, as `predators`, on the grid and without noise."""
    # `zero` makes the start an array of the rates' kind, which a loop's carry has to be
    zero = jnp.zeros_like(alpha + beta + gamma + delta)
    start = (zero + math.log(START[0]), zero + math.log(START[1]))
    u, v = log_populations((alpha, beta, delta, gamma), start, times=POINTS, between=END / (POINTS - 1), steps=STEPS)
    return {"prey": jnp.exp(u), "predators": jnp.exp(v)}


def observed(
    key: PRNGKeyArray, times: dict[str, Float[Array, " k"]], **parameters: Array
) -> dict[str, Float[Array, " k"]]:
    """One draw of each kind that `times` names, at its own times, given the four `PARAMETERS`."""
    found, keys = curves(**parameters), dict(zip(("prey", "predators"), jr.split(key), strict=True))
    return {name: at(t, GRID, found[name]) + NOISE * jr.normal(keys[name], t.shape) for name, t in times.items()}


def prior() -> dict[str, Any]:
    """The four rates, independent, from 1 to 3, with mean 2."""
    import numpyro.distributions as dist

    squash = [
        dist.transforms.SigmoidTransform(),
        dist.transforms.AffineTransform(1.0, 2.0, dist.constraints.unit_interval),
    ]
    return {name: dist.TransformedDistribution(dist.Normal(0.0, 1.0), squash) for name in PARAMETERS}


def simulate(key: PRNGKeyArray, **parameters: Array) -> dict[str, At]:
    """One draw of `prey` and `predators` at `TIMES` random times each, given the four `PARAMETERS`."""
    key_seen, *keys = jr.split(key, 3)
    times = {name: random_times(k, TIMES, GRID) for name, k in zip(("prey", "predators"), keys, strict=True)}
    return {name: At(times[name], seen) for name, seen in observed(key_seen, times, **parameters).items()}


def problem() -> Problem:
    """Four rates, and two functions of time."""
    return Problem(prior(), simulate)


@functools.cache
def task() -> Task:
    """Four rates, `prey` and `predators` at times of their own; ten observations, drawn from a fixed seed."""
    return simulated_task("lotka_volterra_unstructured", problem(), seed=SEED, log_likelihood=log_likelihood)


def log_likelihood(*, prey: At, predators: At, **parameters: Array) -> Float[Array, ""]:
    """The log density of what was seen of both, points without values left out, given the four `PARAMETERS`."""
    found = curves(**parameters)
    both = (("prey", prey), ("predators", predators))
    places = {name: jnp.nan_to_num(jnp.asarray(seen.points)) for name, seen in both}  # NaN where there is no value
    each = [log_normal_seen(seen.values, at(places[name], GRID, found[name]), NOISE) for name, seen in both]
    return each[0] + each[1]
