"""Lotka-Volterra as the Simformer asks it: populations seen at times that differ from row to row and from kind to kind.

x' = alpha x - beta x y,   y' = delta x y - gamma y,   x(0) = 1, y(0) = 1/2,   0 <= t <= 15
alpha, beta, gamma, delta = 1 + 2 / (1 + e^-z), z ~ N(0, 1), each
prey ~ N(x(t), .1),   predators ~ N(y(t), .1), at any times t

After Gloeckler et al. 2024 (arXiv:2404.09636). The noise belongs to an observation, and is drawn where one is made:
noise on a grid, read between its points, would be smaller there, and shared by neighbors. x and y are solved in logs
(`_oscillation`) at the 150 points of `GRID`, and are linear between them.
"""

import math
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict.tasks._functions import at
from retrodict.tasks._oscillation import log_populations


PARAMETERS = ("alpha", "beta", "gamma", "delta")
START, END, POINTS, STEPS = (1.0, 0.5), 15.0, 150, 4
NOISE = 0.1
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


def dense(key: PRNGKeyArray, **parameters: Array) -> dict[str, Float[Array, "150"]]:
    """One draw of `prey` and `predators` at every point of the grid, given the four `PARAMETERS`."""
    grid = jnp.asarray(GRID, float)
    return observed(key, {"prey": grid, "predators": grid}, **parameters)


def prior() -> dict[str, Any]:
    """The four rates, independent, from 1 to 3, with mean 2."""
    import numpyro.distributions as dist

    squash = [
        dist.transforms.SigmoidTransform(),
        dist.transforms.AffineTransform(1.0, 2.0, dist.constraints.unit_interval),
    ]
    return {name: dist.TransformedDistribution(dist.Normal(0.0, 1.0), squash) for name in PARAMETERS}
