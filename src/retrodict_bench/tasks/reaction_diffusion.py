"""Reaction and diffusion: a population spreads from one end of a line, observed at 101 places and 200 times.

    u_t = D u_xx + r u (1 - u / K)      0 <= x <= 10, no flux through either end (Fisher 1937; Kolmogorov et al. 1937)
    u(x, 0) = h exp(-x^2 / (2 .5^2))
    diffusion D ~ U(.02, .06),  growth r ~ U(.5, 2),  capacity K ~ U(.5, 1.5),  dose h ~ U(.1, 1)
    field (200, 101) ~ N(u, .2^2) at t = .05, .1, ..., 10 and x = 0, .1, ..., 10: row by row in time

After the larger of the two inverse problems of OneFlowSBI (arXiv:2601.22951), with the same numbers of parameters (4)
and data (20,200). Equation, prior, start and noise are our choices. Fisher's equation is a simple one with a known
solution if either of its two terms is missing. A front runs at 2 sqrt(r D) = .2 to .7, so it covers two to seven tenths
of the line, and starts later for a smaller dose. The noise is a fifth of the field, because 20,200 numbers are very
informative: posterior sds are 1 % to 10 % of the prior's.

Solution. Strang's splitting: growth over dt / 2, which has a closed form, diffusion over dt, growth over dt / 2. A step
of diffusion is a step of a random walk by up to two points of a grid, with reflecting ends and the moments of
N(0, 2 D dt) up to the fifth. With s = 2 D dt / dx^2, it steps by +-2 points with probability q each, by +-1 with p:

    q = s (3 s - 1) / 24,   p = s (4 - 3 s) / 6

Both are positive for 1/3 < s < 4/3, a factor of four of D; here s is .4 to 1.2. The step is then stable, of fourth
order in dx, and conserves the population. It subtracts nothing, so the field ahead of the front keeps its relative
precision in float32; the rounding of a cosine transform would grow there exponentially.
"""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Problem
from retrodict_bench.tasks._laws import log_normal_observed
from retrodict_bench.tasks._task import Task, simulated_task


RANGES = {"diffusion": (0.02, 0.06), "growth": (0.5, 2.0), "capacity": (0.5, 1.5), "dose": (0.1, 1.0)}
LENGTH, PLACES, END, TIMES = 10.0, 101, 10.0, 200
WIDTH = 0.5  # of the field at t = 0
NOISE = 0.2
FINER, STEPS = 2, 2  # grid steps from one place to the next, and time steps from one time to the next
X = np.linspace(0.0, LENGTH, PLACES)
T = np.linspace(END / TIMES, END, TIMES)
SEED = 71


def grown(u: Float[Array, " n"], growth: Array, capacity: Array, time: float) -> Float[Array, " n"]:
    """Returns the field after growth alone: the closed form of the logistic equation."""
    decay = jnp.exp(-growth * time)
    return u / (decay + u / capacity * (1 - decay))


def spread(u: Float[Array, " n"], s: Array) -> Float[Array, " n"]:
    """Returns the field after a step of a random walk of variance `s` grid steps, 1/3 to 4/3, with reflecting ends."""
    q = s * (3 * s - 1) / 24
    p = s * (4 - 3 * s) / 6
    w = jnp.pad(u, 2, mode="reflect")
    return (1 - 2 * p - 2 * q) * u + p * (w[1:-3] + w[3:-1]) + q * (w[:-4] + w[4:])


def curves(
    diffusion: Array, growth: Array, capacity: Array, dose: Array, *, finer: int = FINER, steps: int = STEPS
) -> Float[Array, "200 101"]:
    """Returns u at the 200 times and 101 places, without noise."""
    dx, dt = LENGTH / (PLACES - 1) / finer, END / TIMES / steps
    x = jnp.linspace(0.0, LENGTH, finer * (PLACES - 1) + 1)
    start = dose * jnp.exp(-0.5 * (x / WIDTH) ** 2) + 0 * (diffusion + growth + capacity)

    def step(u: Array, _: None) -> tuple[Array, None]:
        # the two half steps of growth between two steps of diffusion are merged into one
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
    """Draws `field` (200, 101), times by places."""
    mean = curves(diffusion, growth, capacity, dose)
    return {"field": mean + NOISE * jr.normal(key, mean.shape)}


def log_likelihood(
    *, field: Float[Array, "200 101"], diffusion: Array, growth: Array, capacity: Array, dose: Array
) -> Float[Array, ""]:
    """Returns log p(field | parameters); elements that are NaN are left out."""
    return log_normal_observed(field, curves(diffusion, growth, capacity, dose), NOISE)


def problem() -> Problem:
    """Returns four parameters, uniform over `RANGES`, and the simulator."""
    import numpyro.distributions as dist

    return Problem({name: dist.Uniform(*ends) for name, ends in RANGES.items()}, simulate)


@functools.cache
def task() -> Task:
    """Returns the task: four parameters and `field` (200, 101); ten observations from a fixed seed."""
    return simulated_task("reaction_diffusion", problem(), seed=SEED, log_likelihood=log_likelihood)
