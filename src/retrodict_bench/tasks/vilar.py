"""Vilar's clock: a genetic oscillator of an activator and a repressor, one cell observed for a hundred hours.

    a' = gamma_A A (1 - a) - theta_A a                       1 if A is bound to the gene of the activator, A
    r' = gamma_R A (1 - r) - theta_R r                       1 if A is bound to the gene of the repressor, R
    M_A' = alpha_A (1 - a) + alpha'_A a - delta_MA M_A       transcripts
    M_R' = alpha_R (1 - r) + alpha'_R r - delta_MR M_R
    A' = beta_A M_A + theta_A a + theta_R r - A (gamma_A (1 - a) + gamma_R (1 - r) + gamma_C R + delta_A)
    R' = beta_R M_R - gamma_C A R + delta_A C - delta_R R
    C' = gamma_C A R - delta_A C                             A and R, bound to each other

Every term is a random reaction, 16 in all, and the rates above are their means. Numbers are molecules in one cell, time
is in hours. At the start both genes are free and all other numbers are zero. Data: `counts` (200, 3), A, R and C every
half an hour from .5 to 100, without measurement noise.

Sources. Equations, start and standard rates (`STANDARD`, with a period of 25 h): Vilar, Kueh, Barkai & Leibler 2002
(PNAS 99, 5988; eq. 1 and the legend of figure 1). The prior is uniform over `RANGES`, as in the published material of
Akesson, Singh, Wrede & Hellander (2021, IEEE/ACM Trans. Comput. Biol. Bioinform.; PMC9847490), who infer this clock
from such counts. Three species at 200 times: ConDiSim, by the authors of OneFlowSBI; whether OneFlowSBI has the same
problem is not confirmed. The half hour between times is our choice: the data show four cycles, and pulses of A, which
take some hours.

Solution. Exact simulation would take thousands of events an hour, and many more in corners of the prior. Here each gene
is either free or bound, and all other numbers follow the chemical Langevin equation (Gillespie 2000, J. Chem. Phys.
113, 297): a reaction of propensity w has noise sqrt(w) W'. The steps are staggered in time (Hines 1984). A gene's state
moves from t - dt/2 to t + dt/2 by the exact law of two states, given A at t. Given the genes, all other numbers move
from t to t + dt by ROS2, which is linearly implicit and of second order (Verwer et al. 1999, SIAM J. Sci. Comput. 20,
1456; gamma = 1 - 1/sqrt 2) and is stable for any rate at which A meets R. The noise is multiplied by the same
inverse matrix.

Few molecules. For linear reactions, Langevin's mean and covariance are exact for any number if no number is bounded at
zero. So numbers are not bounded, and negative ones are 0 in the data. The only dangerous loop below zero is that of A
with itself, and it goes through the genes. Their rates are never negative, and depend on A without the noise of its
last step, which is the mean of A over a step if A lives shorter than that. Cycle times, means and sds agree with exact
simulation to its errors.
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

from retrodict import Problem
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
    """The numbers of molecules: transcripts of both genes, activator, repressor, and the two bound to each other."""

    m_a: Array
    m_r: Array
    A: Array
    R: Array
    C: Array


class CellState(NamedTuple):
    """A cell at t, its genes at t - dt/2 (0 free, 1 bound), and A at t without the noise of the last step."""

    cell: Cell
    a: Array
    r: Array
    mean: Array


def propensities(y: Cell, a: Array, r: Array, p: Rates) -> tuple[Array, ...]:
    """Returns the events an hour of the 10 reactions that are not those of the genes."""
    # two negative numbers have a positive product, and a meeting would decrease both further
    pairs = jnp.where((y.A < 0) & (y.R < 0), 0.0, y.A * y.R)
    return (
        p["alpha_A"] * (1 - a) + p["alpha_A_bound"] * a,
        p["delta_MA"] * y.m_a,
        p["alpha_R"] * (1 - r) + p["alpha_R_bound"] * r,
        p["delta_MR"] * y.m_r,
        p["beta_A"] * y.m_a,
        p["delta_A"] * y.A,
        p["beta_R"] * y.m_r,
        p["delta_R"] * y.R,
        p["gamma_C"] * pairs,
        p["delta_A"] * y.C,
    )


def changed(m_a: Array, m_r: Array, A: Array, R: Array, meet: Array, decay: Array) -> Cell:
    """Returns the change of a cell by net births of each kind, meetings of A and R, and the decay of A within C."""
    return Cell(m_a, m_r, A - meet, R - meet + decay, meet - decay)


def drift(w: tuple[Array, ...], released: Array) -> Cell:
    """Returns the rates of change by these propensities; `released` is the A that the genes release."""
    return changed(w[0] - w[1], w[2] - w[3], w[4] - w[5] + released, w[6] - w[7], w[8], w[9])


def diffusion(w: tuple[Array, ...], z: Float[Array, "6"]) -> Cell:
    """Returns the noise, per square root of an hour; births and deaths of one kind share one draw."""
    pairs = (w[0] + w[1], w[2] + w[3], w[4] + w[5], w[6] + w[7], w[8], w[9])
    return changed(*(jnp.sqrt(jnp.maximum(rate, 0.0)) * z[i] for i, rate in enumerate(pairs)))


def implicit(y: Cell, p: Rates, h: float, g: Cell) -> Cell:
    """Solves (1 - h J) k = g for k by elimination; J is the derivative of `drift` at y."""
    # a negative number must not turn a loss into a gain
    meet_a, meet_r = (h * p["gamma_C"] * jnp.maximum(number, 0.0) for number in (y.A, y.R))
    m_a, m_r = g.m_a / (1 + h * p["delta_MA"]), g.m_r / (1 + h * p["delta_MR"])
    decay_a, decay_r = h * p["delta_A"], h * p["delta_R"]
    stay = 1 / (1 + decay_a)  # the share of pairs left after h
    # (1 + decay_a + meet_r) A + meet_a R = rhs_a,   meet_r stay A + (1 + decay_r + meet_a stay) R = rhs_r
    rhs_a, rhs_r = g.A + h * p["beta_A"] * m_a, g.R + h * p["beta_R"] * m_r + decay_a * stay * g.C
    diagonal_a, diagonal_r = 1 + decay_a + meet_r, 1 + decay_r + meet_a * stay
    det = (1 + decay_a) * diagonal_r + meet_r * (1 + decay_r)  # the determinant, without a difference
    A, R = (rhs_a * diagonal_r - meet_a * rhs_r) / det, (diagonal_a * rhs_r - meet_r * stay * rhs_a) / det
    return Cell(m_a, m_r, A, R, (g.C + meet_r * A + meet_a * R) * stay)


def gene(bound: Array, A: Array, bind: Array, free: Array, dt: float, u: Array | None) -> Array:
    """Whether a gene is bound `dt` later, by a draw u ~ U(0, 1); its probability if u is `None`."""
    binds = bind * jnp.maximum(A, 0.0)
    share = binds / (binds + free)
    probability = share + (bound - share) * jnp.exp(-(binds + free) * dt)
    return probability if u is None else jnp.where(u < probability, 1.0, 0.0)


def step(state: CellState, p: Rates, dt: float, noise: tuple[Float[Array, "2"], Float[Array, "6"]] | None) -> CellState:
    """Returns the state `dt` hours later, by draws of U(0, 1) and N(0, 1), or by mean rates if `noise` is `None`."""
    y, u = state.cell, (None, None) if noise is None else noise[0]
    a = gene(state.a, state.mean, p["gamma_A"], p["theta_A"], dt, u[0])
    r = gene(state.r, state.mean, p["gamma_R"], p["theta_R"], dt, u[1])
    released, h = (state.a - a + state.r - r) / dt, GAMMA * dt
    w = propensities(y, a, r, p)
    k1 = implicit(y, p, h, drift(w, released))
    end_drift = drift(propensities(Cell(*(x + dt * k for x, k in zip(y, k1, strict=True))), a, r, p), released)
    k2 = implicit(y, p, h, Cell(*(f - 2 * k for f, k in zip(end_drift, k1, strict=True))))
    mean = Cell(*(x + dt * (1.5 * f + 0.5 * g) for x, f, g in zip(y, k1, k2, strict=True)))
    if noise is None:
        return CellState(mean, a, r, mean.A)
    jump = implicit(y, p, h, diffusion(w, math.sqrt(dt) * noise[1]))
    return CellState(Cell(*(x + n for x, n in zip(mean, jump, strict=True))), a, r, mean.A)


def run(
    key: PRNGKeyArray | None, p: Rates, *, times: int = TIMES, steps: int = STEPS, start: CellState | None = None
) -> Cell:
    """Returns the cell at `times` times, `(times,)` each, from free genes and no molecules, or from `start`.

    Without a key it follows the mean rates, as the mean of very many synchronous cells would.
    """
    dt, zero = END / TIMES / steps, 0.0 * p["alpha_A"]

    def interval(state: CellState, key: PRNGKeyArray | None) -> tuple[CellState, Cell]:
        if key is None:
            state = lax.scan(lambda s, _: (step(s, p, dt, None), None), state, None, length=steps)[0]
            return state, state.cell
        key_genes, key_cell = jr.split(key)
        noise = jr.uniform(key_genes, (steps, 2)), jr.normal(key_cell, (steps, 6))
        state = lax.scan(lambda s, noise: (step(s, p, dt, noise), None), state, noise)[0]
        return state, state.cell

    empty = CellState(Cell(zero, zero, zero, zero, zero), zero, zero, zero)
    keys = None if key is None else jr.split(key, times)
    return lax.scan(interval, empty if start is None else start, keys, length=times)[1]


def simulate(key: PRNGKeyArray, **rates: Array) -> dict[str, Float[Array, "200 3"]]:
    """Draws `counts` (200, 3), given the fifteen rates of `STANDARD`."""
    cell = run(key, rates)
    return {"counts": jnp.maximum(jnp.stack([cell.A, cell.R, cell.C], axis=-1), 0.0)}


def problem() -> Problem:
    """Returns fifteen rates, uniform over `RANGES`, and the simulator."""
    import numpyro.distributions as dist

    return Problem({name: dist.Uniform(*ends) for name, ends in RANGES.items()}, simulate)


@functools.cache
def task() -> Task:
    """Returns the task: fifteen rates and `counts` (200, 3); ten observations, simulated on first use."""
    return simulated_task("vilar", problem(), seed=SEED, nuisances=8 * TIMES * STEPS)
