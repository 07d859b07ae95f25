"""Vilar's clock: two genes that drive and stop each other, and one cell of them watched for a hundred hours.

    a' = gamma_A A (1 - a) - theta_A a                       whether A is bound to the gene of the activator, A
    r' = gamma_R A (1 - r) - theta_R r                       whether A is bound to the gene of the repressor, R
    M_A' = alpha_A (1 - a) + alpha'_A a - delta_MA M_A       transcripts
    M_R' = alpha_R (1 - r) + alpha'_R r - delta_MR M_R
    A' = beta_A M_A + theta_A a + theta_R r - A (gamma_A (1 - a) + gamma_R (1 - r) + gamma_C R + delta_A)
    R' = beta_R M_R - gamma_C A R + delta_A C - delta_R R
    C' = gamma_C A R - delta_A C                             A and R, bound to each other

Every term is a reaction that happens at random, 16 in all, and the rates above are only their means; numbers are
molecules in one cell, time is in hours. At the start both genes are free and nothing else is there. Data: `counts`
(200, 3), A, R and C every half an hour from .5 to 100. Nothing is added to them: all noise is the cell's own.

Sources. Equations, start and standard rates (`STANDARD`, with which the clock runs once in 25 h): Vilar, Kueh, Barkai
& Leibler 2002 (PNAS 99, 5988; eq. 1 and the legend of figure 1). Prior, `RANGES`, uniform: the one with which Akesson,
Singh, Wrede & Hellander (2021, IEEE/ACM Trans. Comput. Biol. Bioinform.; PMC9847490) infer this clock from such
counts, as their published material has it. Three species at 200 times: ConDiSim, by the authors of OneFlowSBI; that the
latter has the same problem is not confirmed. That times lie half an hour apart is our choice: four cycles, and a pulse
of A, which takes some hours, is seen.

Solution. Exact simulation takes 3,500 events an hour at the standard rates, and many times more in corners of the
prior, where A piles up to a million. Here each gene is what it is, free or bound, and all else follows the chemical
Langevin equation (Gillespie 2000, J. Chem. Phys. 113, 297): a reaction of propensity w has noise sqrt(w) W'. Staggered
in time (Hines 1984): a gene's state moves from t - dt/2 to t + dt/2 by the exact law of two states, given A at t; given
the genes, all else moves from t to t + dt by ROS2, linearly implicit and of second order (Verwer et al. 1999, SIAM J.
Sci. Comput. 20, 1456; gamma = 1 - 1/sqrt 2), which is stable however fast A meets R; noise passes the same matrix.

Few molecules. Where reactions are linear, Langevin's mean and covariance are exact for any number, if nothing is held
back at zero; so nothing is, and what is seen is 0 there. What would go wrong below zero is the loop by which A drives
itself, and that goes through the genes: they are never below zero, and read A before the noise of its last step, which
is what A is in the mean over a step where it lives shorter than that. Against exact simulation of 1,000 cells for 36
hours: the next rise of R through 800 comes at 32.1 h, sd 2.2 (exactly: 32.2 and 2.2; Kolmogorov-Smirnov p = .94), and
means and sds of A, R and C agree to their errors. None of 4,000 rows of the prior fails.
"""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict.problem import Problem
from retrodict_bench.tasks._task import Task, simulated_task


STANDARD = {
    "alpha_A": 50.0,
    "alpha_A_bound": 500.0,
    "alpha_R": 0.01,
    "alpha_R_bound": 50.0,
    "beta_A": 50.0,
    "beta_R": 5.0,
    "delta_MA": 10.0,
    "delta_MR": 0.5,
    "delta_A": 1.0,
    "delta_R": 0.2,
    "gamma_A": 1.0,
    "gamma_R": 1.0,
    "gamma_C": 2.0,
    "theta_A": 50.0,
    "theta_R": 100.0,
}
"""Rates per hour; `alpha_A_bound` and `alpha_R_bound` are alpha'_A and alpha'_R."""
LOW = (30.0, 200.0, 0.0, 30.0, 30.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 30.0, 80.0)
HIGH = (70.0, 600.0, 1.0, 70.0, 70.0, 10.0, 12.0, 1.0, 2.0, 0.5, 1.5, 1.5, 3.0, 70.0, 120.0)
RANGES = dict(zip(STANDARD, zip(LOW, HIGH, strict=True), strict=True))
SPECIES = ("A", "R", "C")
END, TIMES, STEPS = 100.0, 200, 50  # hours, times, and steps from one time to the next
T = np.linspace(END / TIMES, END, TIMES)
GAMMA = 1 - 1 / math.sqrt(2)
SEED = 72

Rates = Mapping[str, Array]


class Cell(NamedTuple):
    """Molecules: transcripts of both genes, activator, repressor, and the two bound to each other."""

    m_a: Array
    m_r: Array
    A: Array
    R: Array
    C: Array


class State(NamedTuple):
    """The cell at t, the genes at t - dt/2 (0 free, 1 bound), and A at t without the noise of the last step."""

    cell: Cell
    a: Array
    r: Array
    mean: Array


def propensities(y: Cell, a: Array, r: Array, p: Rates) -> tuple[Array, ...]:
    """Events an hour of the 10 reactions besides the genes' own."""
    # two numbers below zero are no meeting, which would take both of them further down
    both = jnp.where((y.A < 0) & (y.R < 0), 0.0, y.A * y.R)
    return (
        p["alpha_A"] * (1 - a) + p["alpha_A_bound"] * a,
        p["delta_MA"] * y.m_a,
        p["alpha_R"] * (1 - r) + p["alpha_R_bound"] * r,
        p["delta_MR"] * y.m_r,
        p["beta_A"] * y.m_a,
        p["delta_A"] * y.A,
        p["beta_R"] * y.m_r,
        p["delta_R"] * y.R,
        p["gamma_C"] * both,
        p["delta_A"] * y.C,
    )


def changed(m_a: Array, m_r: Array, A: Array, R: Array, meet: Array, part: Array) -> Cell:
    """What a cell gains by net births of each kind, by meetings of A and R, and by the decay of A within C."""
    return Cell(m_a, m_r, A - meet, R - meet + part, meet - part)


def drift(w: tuple[Array, ...], released: Array) -> Cell:
    """The rates of change that belong to propensities; `released` is what the genes give of A."""
    return changed(w[0] - w[1], w[2] - w[3], w[4] - w[5] + released, w[6] - w[7], w[8], w[9])


def diffusion(w: tuple[Array, ...], z: Float[Array, "6"]) -> Cell:
    """Noise in an hour's square root; births and deaths of one kind change the same and have one draw together."""
    pairs = (w[0] + w[1], w[2] + w[3], w[4] + w[5], w[6] + w[7], w[8], w[9])
    return changed(*(jnp.sqrt(jnp.maximum(rate, 0.0)) * z[i] for i, rate in enumerate(pairs)))


def implicit(y: Cell, p: Rates, h: float, g: Cell) -> Cell:
    """k with (1 - h J) k = g, where J is the derivative of `drift` at y, by elimination."""
    # a negative number must not make a loss a gain
    meet_a, meet_r = (h * p["gamma_C"] * jnp.maximum(number, 0.0) for number in (y.A, y.R))
    m_a, m_r = g.m_a / (1 + h * p["delta_MA"]), g.m_r / (1 + h * p["delta_MR"])
    part, lost = h * p["delta_A"], h * p["delta_R"]
    stay = 1 / (1 + part)  # of what met, after h
    # (1 + part + meet_r) A + meet_a R = own_a,   meet_r stay A + (1 + lost + meet_a stay) R = own_r
    own_a, own_r = g.A + h * p["beta_A"] * m_a, g.R + h * p["beta_R"] * m_r + part * stay * g.C
    of_a, of_r = 1 + part + meet_r, 1 + lost + meet_a * stay
    det = (1 + part) * of_r + meet_r * (1 + lost)  # the difference of products, without subtracting
    A, R = (own_a * of_r - meet_a * own_r) / det, (of_a * own_r - meet_r * stay * own_a) / det
    return Cell(m_a, m_r, A, R, (g.C + meet_r * A + meet_a * R) * stay)


def gene(bound: Array, A: Array, bind: Array, free: Array, dt: float, u: Array | None) -> Array:
    """Whether it is bound `dt` later, by a draw u ~ U(0, 1); without one, how probably."""
    binds = bind * jnp.maximum(A, 0.0)
    share = binds / (binds + free)
    probability = share + (bound - share) * jnp.exp(-(binds + free) * dt)
    return probability if u is None else jnp.where(u < probability, 1.0, 0.0)


def step(state: State, p: Rates, dt: float, noise: tuple[Float[Array, "2"], Float[Array, "6"]] | None) -> State:
    """The state `dt` hours later, by draws of U(0, 1) and N(0, 1), or, without any, by the rates alone."""
    y, u = state.cell, (None, None) if noise is None else noise[0]
    a = gene(state.a, state.mean, p["gamma_A"], p["theta_A"], dt, u[0])
    r = gene(state.r, state.mean, p["gamma_R"], p["theta_R"], dt, u[1])
    released, h = (state.a - a + state.r - r) / dt, GAMMA * dt
    w = propensities(y, a, r, p)
    k1 = implicit(y, p, h, drift(w, released))
    later = drift(propensities(Cell(*(x + dt * k for x, k in zip(y, k1, strict=True))), a, r, p), released)
    k2 = implicit(y, p, h, Cell(*(f - 2 * k for f, k in zip(later, k1, strict=True))))
    mean = Cell(*(x + dt * (1.5 * f + 0.5 * g) for x, f, g in zip(y, k1, k2, strict=True)))
    if noise is None:
        return State(mean, a, r, mean.A)
    jump = implicit(y, p, h, diffusion(w, math.sqrt(dt) * noise[1]))
    return State(Cell(*(x + n for x, n in zip(mean, jump, strict=True))), a, r, mean.A)


def run(
    key: PRNGKeyArray | None, p: Rates, *, times: int = TIMES, steps: int = STEPS, start: State | None = None
) -> Cell:
    """The cell at `times` times, `(times,)` each, from nothing unless `start` says so.

    Without a key it follows the rates alone, as the mean of very many cells that keep pace would.
    """
    dt, zero = END / TIMES / steps, 0.0 * p["alpha_A"]

    def interval(state: State, key: PRNGKeyArray | None) -> tuple[State, Cell]:
        if key is None:
            state = lax.scan(lambda s, _: (step(s, p, dt, None), None), state, None, length=steps)[0]
            return state, state.cell
        key_genes, key_rest = jr.split(key)
        noise = jr.uniform(key_genes, (steps, 2)), jr.normal(key_rest, (steps, 6))
        state = lax.scan(lambda s, noise: (step(s, p, dt, noise), None), state, noise)[0]
        return state, state.cell

    nothing = State(Cell(zero, zero, zero, zero, zero), zero, zero, zero)
    keys = None if key is None else jr.split(key, times)
    return lax.scan(interval, nothing if start is None else start, keys, length=times)[1]


def simulate(key: PRNGKeyArray, **rates: Array) -> dict[str, Float[Array, "200 3"]]:
    """One draw of `counts` (200, 3), given the fifteen rates of `STANDARD`."""
    found = run(key, rates)
    return {"counts": jnp.maximum(jnp.stack([found.A, found.R, found.C], axis=-1), 0.0)}


def problem() -> Problem:
    """Fifteen rates, uniform over `RANGES`, and the simulator."""
    import numpyro.distributions as dist

    return Problem({name: dist.Uniform(*ends) for name, ends in RANGES.items()}, simulate)


@functools.cache
def task() -> Task:
    """Fifteen rates and `counts` (200, 3); ten observations, drawn from the prior and a fixed seed when asked for."""
    return simulated_task("vilar", problem(), seed=SEED, nuisances=8 * TIMES * STEPS)
