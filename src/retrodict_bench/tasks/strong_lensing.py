"""Strong lensing, a toy: a ring of light of unknown radius and width behind a grating of lines.

    ring    exp(-(R - radius)^2 / (2 width^2)),   R = |(X, Y) - center|,          center ~ U(-1, 1)^2
    lines   .8 sum_k exp(-(a_k X + (1 - a_k) Y - b_k)^2 / .01^2),   k = 1, ..., 20,   (a_k, b_k) ~ U(0, 1)^2
    image   (ring + lines, minus their mean, over their standard deviation) + N(0, .3^2)

on 32 x 32 pixels with centers from -2 to 2; Y changes from row to row and X from column to column. Center and lines
are nuisances: the simulator draws and discards them, so the posterior of radius and width integrates them out. A line
is thinner than a twelfth of a pixel and visible only if it passes the center of a pixel; it looks like a row of dots,
as the toy is defined. The standardization removes the overall brightness, and with it some information about the width.
"""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Problem
from retrodict_bench.tasks._task import Task, simulated_task


PIXELS, EDGE = 32, 2.0
LINES, BRIGHTNESS, THICKNESS = 20, 0.8, 0.01
NOISE = 0.3
SEED = 58

AXIS = np.linspace(-EDGE, EDGE, PIXELS)
X, Y = np.meshgrid(AXIS, AXIS)  # X changes from column to column, Y from row to row


def ring(radius: Float[Array, ""], width: Float[Array, ""], center: Float[Array, "2"]) -> Float[Array, "32 32"]:
    """Returns the ring alone, 1 at its brightest."""
    distance = jnp.hypot(X - center[0], Y - center[1])
    return jnp.exp(-0.5 * ((distance - radius) / width) ** 2)


def lines(a: Float[Array, " k"], b: Float[Array, " k"]) -> Float[Array, "32 32"]:
    """Returns the sum of the lines a X + (1 - a) Y = b."""
    offset = a[:, None, None] * X + (1 - a[:, None, None]) * Y - b[:, None, None]
    return BRIGHTNESS * jnp.sum(jnp.exp(-((offset / THICKNESS) ** 2)), axis=0)


def standardized(image: Float[Array, "32 32"]) -> Float[Array, "32 32"]:
    """Returns the image with mean 0 and standard deviation 1."""
    centered = image - jnp.mean(image)
    return centered / jnp.sqrt(jnp.mean(centered**2))


def simulate(key: PRNGKeyArray, radius: Float[Array, ""], width: Float[Array, ""]) -> dict[str, Array]:
    """Draws `image` (32, 32) given `radius` and `width`."""
    key_center, key_lines, key_noise = jr.split(key, 3)
    center = jr.uniform(key_center, (2,), minval=-1.0, maxval=1.0)
    a, b = jr.uniform(key_lines, (2, LINES))
    clean = standardized(ring(radius, width, center) + lines(a, b))
    return {"image": clean + NOISE * jr.normal(key_noise, clean.shape)}


def problem() -> Problem:
    """Returns radius ~ U(.1, 1.1), width ~ U(.01, .31) and the simulator."""
    import numpyro.distributions as dist

    return Problem({"radius": dist.Uniform(0.1, 1.1), "width": dist.Uniform(0.01, 0.31)}, simulate)


@functools.cache
def task() -> Task:
    """Returns the task: `radius`, `width` and `image` (32, 32); ten observations, simulated on first use."""
    return simulated_task("strong_lensing", problem(), seed=SEED, nuisances=42)
