"""Reaction and diffusion: a population spreads from one end of a line, and is seen at 101 places 200 times.

    u_t = D u_xx + r u (1 - u / K)      0 <= x <= 10, no flux through either end (Fisher 1937; Kolmogorov et al. 1937)
    u(x, 0) = h exp(-x^2 / (2 .5^2))
    diffusion D ~ U(.02, .06),  growth r ~ U(.5, 2),  capacity K ~ U(.5, 1.5),  dose h ~ U(.1, 1)
    field (200, 101) ~ N(u, .2^2) at t = .05, .1, ..., 10 and x = 0, .1, ..., 10: row by row in time

After the larger of the two inverse problems of OneFlowSBI (arXiv:2601.22951), of which 4 parameters and 20,200 numbers
are known here. Equation, prior, start and noise are ours: Fisher's is the plainest equation of this kind with a known
answer wherever one of its two parts is missing; a front runs at 2 sqrt(r D) = .2 to .7, two to seven tenths of the
line, and later with a smaller dose. Noise is as large as a fifth of the field, because 20,200 numbers say much: by the
Fisher information at 200 draws of the prior, and a Gaussian of the prior's covariance besides, posterior sds are in the
median .10, .046, .014 and .069 of the prior's, of D, r, K and h. No row fails.

Solution. Strang's splitting: growth over dt / 2, which has a closed form, diffusion over dt, growth over dt / 2. A step
of diffusion is a step of a random walk, by up to two places of a grid, its walls mirrors, with the moments of
N(0, 2 D dt) up to the fifth. With s = 2 D dt / dx^2, that is by +-2 places with probability q each, +-1 with p:

    q = s (3 s - 1) / 24,   p = s (4 - 3 s) / 6

Both are positive for 1/3 < s < 4/3, a factor of four of D, and .4 to 1.2 here. So it is stable, of fourth order in dx,
and loses nobody. Nothing is ever subtracted: the field ahead of the front keeps its relative precision in float32,
where a cosine transform would sow 1e-7 that then grow e^20 times. Steps of .025 in time and .05 in place are within
7e-5 of a solution with a quarter of them in place and a sixteenth in time, in each of 20 draws of the prior.
"""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict.problem import Problem
from retrodict_bench.tasks._laws import log_normal_seen
from retrodict_bench.tasks._task import Task, simulated_task


RANGES = {"diffusion": (0.02, 0.06), "growth": (0.5, 2.0), "capacity": (0.5, 1.5), "dose": (0.1, 1.0)}
LENGTH, PLACES, END, TIMES = 10.0, 101, 10.0, 200
WIDTH = 0.5  # of the field at t = 0
NOISE = 0.2
FINER, STEPS = 2, 2  # steps of the grid from one place to the next, and of time
X = np.linspace(0.0, LENGTH, PLACES)
T = np.linspace(END / TIMES, END, TIMES)
SEED = 71


def grown(u: Float[Array, " n"], growth: Array, capacity: Array, time: float) -> Float[Array, " n"]:
    """The field after a time without diffusion: the logistic equation's closed form."""
    left = jnp.exp(-growth * time)
    return u / (left + u / capacity * (1 - left))


def spread(u: Float[Array, " n"], s: Array) -> Float[Array, " n"]:
    """The field after one step of a random walk of variance `s` places, from 1/3 to 4/3, between mirrors."""
    q = s * (3 * s - 1) / 24
    p = s * (4 - 3 * s) / 6
    w = jnp.pad(u, 2, mode="reflect")
    return (1 - 2 * p - 2 * q) * u + p * (w[1:-3] + w[3:-1]) + q * (w[:-4] + w[4:])


def curves(
    diffusion: Array, growth: Array, capacity: Array, dose: Array, *, finer: int = FINER, steps: int = STEPS
) -> Float[Array, "200 101"]:
    """u at the 200 times and 101 places, without noise."""
    dx, dt = LENGTH / (PLACES - 1) / finer, END / TIMES / steps
    x = jnp.linspace(0.0, LENGTH, finer * (PLACES - 1) + 1)
    start = dose * jnp.exp(-0.5 * (x / WIDTH) ** 2) + 0 * (diffusion + growth + capacity)

    def step(u: Array, _: None) -> tuple[Array, None]:
        # two halves of growth, between one walk and the next, are one
        return grown(spread(u, 2 * diffusion * dt / dx**2), growth, capacity, dt), None

    def interval(u: Array, _: None) -> tuple[Array, Array]:
        u = grown(u, growth, capacity, dt / 2)
        u = lax.scan(step, u, None, length=steps - 1)[0]
        u = grown(spread(u, 2 * diffusion * dt / dx**2), growth, capacity, dt / 2)
        return u, u[::finer]

    return lax.scan(interval, start, None, length=TIMES)[1]


def simulate(
    key: PRNGKeyArray, diffusion: Array, growth: Array, capacity: Array, dose: Array
) -> dict[str, Float[Array, "200 101"]]:
    """One draw of `field` (200, 101), times by places."""
    found = curves(diffusion, growth, capacity, dose)
    return {"field": found + NOISE * jr.normal(key, found.shape)}


def log_likelihood(
    *, field: Float[Array, "200 101"], diffusion: Array, growth: Array, capacity: Array, dose: Array
) -> Float[Array, ""]:
    """log p(field | parameters); elements that are NaN are left out."""
    return log_normal_seen(field, curves(diffusion, growth, capacity, dose), NOISE)


def problem() -> Problem:
    """Four parameters, uniform over `RANGES`, and the simulator."""
    import numpyro.distributions as dist

    return Problem({name: dist.Uniform(*ends) for name, ends in RANGES.items()}, simulate)


@functools.cache
def task() -> Task:
    """Four parameters and `field` (200, 101); ten observations, drawn from the prior and a fixed seed."""
    return simulated_task("reaction_diffusion", problem(), seed=SEED, log_likelihood=log_likelihood)
