"""Hodgkin-Huxley: a neuron that fires for a tenth of a second, with statistics of its voltage and its energy.

    C V' = -g_Na m^3 h (V - E_Na) - g_K n^4 (V - E_K) - g_L (V - E_L) + I(t) + C .05 W'
    g' = alpha_g(V) (1 - g) - beta_g(V) g,   for the gates g = m, h, n

V in mV, t in ms from 0 to 200, conductances in mS/cm^2, C in uF/cm^2, currents in uA/cm^2. I = 4 from t = 50 to 150,
and 0 before and after; W is Brownian. V starts at V_0 = -65, and the gates at their equilibrium for that V. With
w = V - V_0 and e(x) = x / (exp(x) - 1), the rates are those of Traub and Miles, as in Pospischil et al. 2008:

    alpha_m = .32 e((13 - w) / 4) 4      beta_m = .28 e((w - 40) / 5) 5
    alpha_h = .128 exp((17 - w) / 18)    beta_h = 4 / (1 + exp((40 - w) / 5))
    alpha_n = .032 e((15 - w) / 5) 5     beta_n = .5 exp((10 - w) / 40)

Data are statistics of the trace, as in the Simformer (Gloeckler et al. 2024, arXiv:2404.09636):

    spikes                         the number of times that V rises through -10 mV
    rest_mean, rest_sd             of V before the stimulus, 0 < t <= 50
    mean, variance                 of V during the stimulus, 50 < t <= 150
    skewness, kurtosis             third and fourth central moments there, over sd^3 and sd^4 (3 for a Gaussian)
    energy                         the charge that entered as sodium, int g_Na m^3 h (E_Na - V) dt, in uC/cm^2

Sodium has to be pumped out again, three ions for each ATP; at 50 kJ a mole of ATP, a uC costs .17 uJ, `PRICE`.

Solution. Staggered in time (Hines 1984): the gates are half a step away from the voltage. Given V at t, each gate
relaxes exactly from t - dt/2 to t + dt/2. Given the gates in the middle of the step, V relaxes exactly from t to t +
dt, including noise. This is of second order in dt and stable at every dt, with one evaluation of the rates a step.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Problem
from retrodict_bench.tasks._task import Task, simulated_task


PARAMETERS = ("c", "g_na", "g_k", "g_l", "e_na", "e_k", "e_l")
"""Capacitance; conductances of sodium, potassium and the leak; their reversal potentials."""
RANGES = ((1.0, 2.0), (60.0, 120.0), (10.0, 30.0), (0.1, 0.5), (40.0, 70.0), (-100.0, -60.0), (-90.0, -60.0))
V_0, CURRENT, NOISE, THRESHOLD = -65.0, 4.0, 0.05, -10.0
ON, OFF, END, STEPS = 50.0, 150.0, 200.0, 5000
DT = END / STEPS
GRID = np.linspace(0.0, END, STEPS + 1)
PRICE = 50e3 / (3 * 96485.33)  # uJ for a uC

# Noise is drawn and the voltage summarized block by block, so that a row never holds its 5000 voltages.
BLOCK = 50
BEFORE, DURING, AFTER = (round(time / DT) // BLOCK for time in (ON, OFF - ON, END - OFF))
SEED = 52


class Neuron(NamedTuple):
    """The voltage at t and the gates at t - dt/2."""

    v: Float[Array, ""]
    m: Float[Array, ""]
    h: Float[Array, ""]
    n: Float[Array, ""]


class Moments(NamedTuple):
    """The mean of a block of voltages and its sums of squares, cubes and fourth powers around that mean."""

    mean: Array
    squares: Array
    cubes: Array
    fourths: Array


def rates(v: Array) -> tuple[tuple[Array, Array], tuple[Array, Array], tuple[Array, Array]]:
    """Returns alpha and beta of m, h and n, per ms."""
    w = v - V_0
    m = 0.32 * 4 * _e((13 - w) / 4), 0.28 * 5 * _e((w - 40) / 5)
    h = 0.128 * jnp.exp((17 - w) / 18), 4 / (1 + jnp.exp((40 - w) / 5))
    n = 0.032 * 5 * _e((15 - w) / 5), 0.5 * jnp.exp((10 - w) / 40)
    return m, h, n


def _e(x: Array) -> Array:
    small = jnp.abs(x) < 0.02  # float32 loses the digits of exp(x) - 1, and the series errs by x^4 / 720 only
    nonzero = jnp.where(small, 1.0, x)
    return jnp.where(small, 1 - x / 2 + x**2 / 12, nonzero / (jnp.exp(nonzero) - 1))


def at_rest() -> Neuron:
    """Returns V_0 and the gates at their equilibrium for it."""
    v = jnp.asarray(V_0)
    return Neuron(v, *(alpha / (alpha + beta) for alpha, beta in rates(v)))


def step(
    neuron: Neuron, z: Array, current: Array, noise: float, p: Mapping[str, Array]
) -> tuple[Neuron, tuple[Array, Array]]:
    """Steps from t to t + dt with noise z ~ N(0, 1); also returns the new voltage and the sodium inflow, in nC/cm^2."""
    v = neuron.v
    m, h, n = (_relaxed(g, *rate) for g, rate in zip(neuron[1:], rates(v), strict=True))
    sodium, potassium = p["g_na"] * m**3 * h, p["g_k"] * n**4
    conductance = sodium + potassium + p["g_l"]
    goal = (sodium * p["e_na"] + potassium * p["e_k"] + p["g_l"] * p["e_l"] + current) / conductance
    rate = conductance / p["c"]
    decay = jnp.exp(-rate * DT)
    new_v = goal + (v - goal) * decay + noise * jnp.sqrt((1 - decay**2) / (2 * rate)) * z
    return Neuron(new_v, m, h, n), (new_v, sodium * (p["e_na"] - (v + new_v) / 2) * DT)


def _relaxed(gate: Array, alpha: Array, beta: Array) -> Array:
    goal = alpha / (alpha + beta)
    return goal + (gate - goal) * jnp.exp(-(alpha + beta) * DT)


Report = Callable[[Array, Array, Array], Any]


def _run(key: PRNGKeyArray, report: Report, p: Mapping[str, Array], *, current: float, noise: float) -> Any:
    """Returns `report` of every block, given V at its start, V after each step and the sodium of each step."""
    # a loop's carry has one dtype and one set of batch axes throughout
    zero = jnp.zeros_like(sum(p.values()))
    start = Neuron(*(x + zero for x in at_rest()))

    def block(neuron: Neuron, inputs: tuple[PRNGKeyArray, Array]) -> tuple[Neuron, Any]:
        key, applied = inputs
        z = jr.normal(key, (BLOCK,))
        end, (v, sodium) = lax.scan(lambda neuron, z: step(neuron, z, applied, noise, p), neuron, z)
        return end, report(neuron.v, v, sodium)

    blocks = jnp.arange(BEFORE + DURING + AFTER)
    applied = jnp.where((blocks >= BEFORE) & (blocks < BEFORE + DURING), current, 0.0)
    return lax.scan(block, start, (jr.split(key, len(blocks)), applied))[1]


def dense(
    key: PRNGKeyArray, *, current: float = CURRENT, noise: float = NOISE, **parameters: Array
) -> dict[str, Float[Array, "5001"]]:
    """Returns `voltage` and the `energy` spent so far at every point of the grid, given the seven `PARAMETERS`."""
    blocks = _run(key, lambda *block: block[1:], parameters, current=current, noise=noise)
    v, sodium = (x.ravel() for x in blocks)
    # added one after the other: `cumsum` adds in a tree, and its rounding would let the energy decrease
    total, spent = lax.scan(lambda total, inflow: (total + inflow, total), jnp.zeros_like(sodium[0]), sodium)
    return {
        "voltage": jnp.concatenate([jnp.full_like(v[:1], V_0), v]),
        "energy": jnp.concatenate([spent, total[None]]) / 1000,
    }


def simulate(key: PRNGKeyArray, **parameters: Array) -> dict[str, Array]:
    """Draws the eight statistics, given the seven `PARAMETERS`."""

    def report(start: Array, v: Array, sodium: Array) -> tuple[Moments, Array, Array]:
        previous = jnp.concatenate([start[None], v[:-1]])
        return moments(v), jnp.sum((previous < THRESHOLD) & (v >= THRESHOLD)), jnp.sum(sodium)

    blocks, crossings, sodium = _run(key, report, parameters, current=CURRENT, noise=NOISE)
    resting = merged(Moments(*(x[:BEFORE] for x in blocks)))
    stimulated = merged(Moments(*(x[BEFORE : BEFORE + DURING] for x in blocks)))
    size = BLOCK * DURING
    variance = stimulated.squares / size
    return {
        "spikes": jnp.sum(crossings).astype(float),
        "rest_mean": resting.mean,
        "rest_sd": jnp.sqrt(resting.squares / (BLOCK * BEFORE)),
        "mean": stimulated.mean,
        "variance": variance,
        "skewness": stimulated.cubes / size / variance**1.5,
        "kurtosis": stimulated.fourths / size / variance**2,
        "energy": jnp.sum(sodium) / 1000,
    }


def moments(v: Float[Array, " block"]) -> Moments:
    """Returns the moments of one block."""
    mean = jnp.mean(v)
    d = v - mean
    return Moments(mean, jnp.sum(d**2), jnp.sum(d**3), jnp.sum(d**4))


def merged(blocks: Moments) -> Moments:
    """Merges the moments of all blocks without differences of large numbers, such as those of sums of V^4."""
    mean = jnp.mean(blocks.mean)
    d = blocks.mean - mean
    squares = blocks.squares + BLOCK * d**2
    cubes = blocks.cubes + 3 * d * blocks.squares + BLOCK * d**3
    fourths = blocks.fourths + 4 * d * blocks.cubes + 6 * d**2 * blocks.squares + BLOCK * d**4
    return Moments(mean, jnp.sum(squares), jnp.sum(cubes), jnp.sum(fourths))


def problem() -> Problem:
    """Returns seven parameters, uniform over `RANGES`, and the simulator."""
    import numpyro.distributions as dist

    prior = {name: dist.Uniform(*ends) for name, ends in zip(PARAMETERS, RANGES, strict=True)}
    positive = dict.fromkeys(("rest_sd", "variance", "kurtosis", "energy"), dist.constraints.positive)
    return Problem(prior, simulate, supports=positive)


@functools.cache
def task() -> Task:
    """Returns the task: seven parameters and eight numbers; ten observations, simulated on first use."""
    return simulated_task("hodgkin_huxley", problem(), seed=SEED, nuisances=STEPS)
