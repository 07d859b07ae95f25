"""SEIR at many sites: one disease, a season for each site, and five counts of new cases on random days.

    S' = -beta S I / N + m (E + I + R)      births make up for deaths, so that S + E + I + R = N = 10,000 always
    E' = beta S I / N - (alpha + m) E       exposed for 1 / alpha days
    I' = alpha E - (sigma + m) I            infectious for 1 / sigma days
    R' = sigma I - m R                      t in days, m = 1/50 a day
    beta(t) = beta0 [1 + A sin(2 pi t / T - phi)]

    shared   beta0 ~ U(.1, 2),  alpha ~ U(1/30, 1/7),  sigma ~ U(1/21, 1/7), all a day
    a site's A ~ U(.2, .5),  T ~ Gamma(365/7, rate 1/7), of mean 365 days and sd 51,  phi ~ U(0, pi)
    cases(t) = k + u,  k ~ Poisson(max(alpha E(t), .1)),  u ~ U(0, 1),  at five times t ~ U(0, 365), known

The run begins 730 days before t = 0 with ten people infected and nobody exposed or recovered; at t = 0 the state does
not depend on this start. u gives the counts a density: k is the integer part of `cases`. Model and constants are those
of the prototype of tokenised flow matching for hierarchies (arXiv:2604.20723). Its m is 1/50 a day, as stated there;
this suits short-lived animals rather than people, and keeps the disease endemic wherever it spreads.

Solution. Runge-Kutta's fourth-order rule in shares of N, with two steps a day, keeps S + E + I + R to rounding, because
the sum is linear. Incidence is within .1 % of an adaptive solver's all over the prior.
"""

import math
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import At, Plate, Problem
from retrodict_bench.tasks._functions import interpolate, random_times
from retrodict_bench.tasks._laws import log_poisson
from retrodict_bench.tasks._sites import sites_task
from retrodict_bench.tasks._task import Task


PEOPLE, INFECTED = 10_000, 0.001
TURNOVER = 1 / 50  # a day
WARM_UP, DAYS, STEPS = 730, 365, 2  # days before and after t = 0, steps a day
MIN_RATE = 0.1  # of the Poisson law, cases a day
N_COUNTS = 5  # of a site
GRID = np.linspace(0.0, DAYS, DAYS + 1)
SHARED, OWN = ("beta0", "alpha", "sigma"), ("A", "T", "phi")

Shares = Float[Array, "4"]  # of S, E, I and R


def curves(beta0: Array, alpha: Array, sigma: Array, A: Array, T: Array, phi: Array) -> Float[Array, "366 4"]:
    """Returns the numbers of susceptible, exposed, infectious and recovered people at day 0, 1, ..., 365."""
    dt = 1 / STEPS

    def slope(t: Array, w: Shares) -> Shares:
        s, e, i, r = w
        beta = beta0 * (1 + A * jnp.sin(2 * math.pi * t / T - phi))
        new = beta * s * i
        return jnp.stack(
            [
                -new + TURNOVER * (e + i + r),
                new - (alpha + TURNOVER) * e,
                alpha * e - (sigma + TURNOVER) * i,
                sigma * i - TURNOVER * r,
            ]
        )

    def step(w: Shares, t: Array) -> tuple[Shares, None]:
        k1 = slope(t, w)
        k2 = slope(t + dt / 2, w + dt / 2 * k1)
        k3 = slope(t + dt / 2, w + dt / 2 * k2)
        k4 = slope(t + dt, w + dt * k3)
        return w + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    def day(w: Shares, t: Array) -> tuple[Shares, Shares]:
        w = lax.scan(step, w, t + dt * jnp.arange(STEPS))[0]
        return w, w

    start = jnp.array([1 - INFECTED, 0.0, INFECTED, 0.0]) + 0 * (beta0 + alpha + sigma + A + T + phi)
    start = lax.scan(lambda w, t: (day(w, t)[0], None), start, jnp.arange(-WARM_UP, 0.0))[0]
    _, days = lax.scan(day, start, jnp.arange(0.0, DAYS))
    return PEOPLE * jnp.concatenate([start[None], days])


def means(
    times: Float[Array, " k"], beta0: Array, alpha: Array, sigma: Array, A: Array, T: Array, phi: Array
) -> Float[Array, " k"]:
    """Returns the mean number of new cases a day at these times, linear between days."""
    return jnp.maximum(interpolate(times, GRID, alpha * curves(beta0, alpha, sigma, A, T, phi)[:, 1]), MIN_RATE)


def simulate(
    key: PRNGKeyArray, beta0: Array, alpha: Array, sigma: Array, A: Array, T: Array, phi: Array
) -> dict[str, At]:
    """Draws `cases` of one site, five counts plus a fraction, at five times."""
    key_times, key_count, key_fraction = jr.split(key, 3)
    times = random_times(key_times, N_COUNTS, GRID)
    count = jr.poisson(key_count, means(times, beta0, alpha, sigma, A, T, phi))
    return {"cases": At(times, count + jr.uniform(key_fraction, (N_COUNTS,)))}


def log_likelihood(
    *, cases: At, beta0: Array, alpha: Array, sigma: Array, A: Array, T: Array, phi: Array
) -> Float[Array, ""]:
    """Returns log p(cases | parameters) of one site, given the times."""
    return jnp.sum(log_poisson(jnp.floor(cases.values), means(cases.points, beta0, alpha, sigma, A, T, phi)))


def prior() -> dict[str, Any]:
    """Returns the laws of the module's first lines; the plate is `site`."""
    import numpyro.distributions as dist

    return {
        "beta0": dist.Uniform(0.1, 2.0),
        "alpha": dist.Uniform(1 / 30, 1 / 7),
        "sigma": dist.Uniform(1 / 21, 1 / 7),
        "site": Plate(
            "site",
            {"A": dist.Uniform(0.2, 0.5), "T": dist.Gamma(365 / 7, 1 / 7), "phi": dist.Uniform(0.0, math.pi)},
        ),
    }


def task() -> Task:
    """Returns the task: three shared rates, and for each of fifty sites a season (`A`, `T`, `phi`) and `cases`."""
    import numpyro.distributions as dist

    problem = Problem(prior(), simulate, supports={"cases": dist.constraints.positive})
    return sites_task("seir", problem, log_likelihood, seed=180)
