"""Hodgkin-Huxley: a neuron that fires for a tenth of a second, what its voltage looked like, and what it cost.

    C V' = -g_Na m^3 h (V - E_Na) - g_K n^4 (V - E_K) - g_L (V - E_L) + I(t) + C .05 W'
    g' = alpha_g(V) (1 - g) - beta_g(V) g,   for the gates g = m, h, n

V in mV, t in ms from 0 to 200, conductances in mS/cm^2, C in uF/cm^2, currents in uA/cm^2. I = 4 from t = 50 to 150,
and 0 before and after; W is Brownian. V starts at V_0 = -65, and the gates where they stay at that V. With w = V - V_0
and e(x) = x / (exp(x) - 1), the rates are those of Traub and Miles, as Pospischil et al. 2008 give them:

    alpha_m = .32 e((13 - w) / 4) 4      beta_m = .28 e((w - 40) / 5) 5
    alpha_h = .128 exp((17 - w) / 18)    beta_h = 4 / (1 + exp((40 - w) / 5))
    alpha_n = .032 e((15 - w) / 5) 5     beta_n = .5 exp((10 - w) / 40)

Data, as in the Simformer (Gloeckler et al. 2024, arXiv:2404.09636), numbers instead of the whole trace:

    spikes                         how often V rises through -10 mV
    rest_mean, rest_sd             of V before the stimulus, 0 < t <= 50
    mean, variance                 of V during the stimulus, 50 < t <= 150
    skewness, kurtosis             third and fourth central moments there, over sd^3 and sd^4 (3 for a Gaussian)
    energy                         the charge that entered as sodium, int g_Na m^3 h (E_Na - V) dt, in uC/cm^2

Sodium has to be pumped out again, three ions for each ATP; at 50 kJ a mole of ATP, a uC costs .17 uJ, `PRICE`.

Solution. Staggered in time (Hines 1984): the gates live half a step from the voltage. Given V at t, each gate relaxes
from t - dt/2 to t + dt/2, exactly; given the gates in the middle of it, V relaxes from t to t + dt, exactly, noise
included. That is of second order in dt and stable at every dt, at the price of one evaluation of the rates a step.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict.problem import Problem
from retrodict_bench.tasks._task import Task, simulated_task


PARAMETERS = ("c", "g_na", "g_k", "g_l", "e_na", "e_k", "e_l")
"""Capacitance; conductances of sodium, potassium and the leak; their reversal potentials."""
RANGES = ((1.0, 2.0), (60.0, 120.0), (10.0, 30.0), (0.1, 0.5), (40.0, 70.0), (-100.0, -60.0), (-90.0, -60.0))
V_0, CURRENT, NOISE, THRESHOLD = -65.0, 4.0, 0.05, -10.0
ON, OFF, END, STEPS = 50.0, 150.0, 200.0, 5000
DT = END / STEPS
GRID = np.linspace(0.0, END, STEPS + 1)
PRICE = 50e3 / (3 * 96485.33)  # uJ for a uC

# Noise is drawn and the voltage summarized a block at a time: no row ever holds its 5000 voltages.
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
    """alpha and beta of m, h and n, per ms."""
    w = v - V_0
    m = 0.32 * 4 * _e((13 - w) / 4), 0.28 * 5 * _e((w - 40) / 5)
    h = 0.128 * jnp.exp((17 - w) / 18), 4 / (1 + jnp.exp((40 - w) / 5))
    n = 0.032 * 5 * _e((15 - w) / 5), 0.5 * jnp.exp((10 - w) / 40)
    return m, h, n


def _e(x: Array) -> Array:
    near = jnp.abs(x) < 0.02  # where float32 would lose exp(x) - 1; the series is good to x^4 / 720 there
    far = jnp.where(near, 1.0, x)
    return jnp.where(near, 1 - x / 2 + x**2 / 12, far / (jnp.exp(far) - 1))


def at_rest() -> Neuron:
    """V_0, and the gates where they stay as long as V does."""
    v = jnp.asarray(V_0)
    return Neuron(v, *(alpha / (alpha + beta) for alpha, beta in rates(v)))


def step(
    neuron: Neuron, z: Array, current: Array, noise: float, p: Mapping[str, Array]
) -> tuple[Neuron, tuple[Array, Array]]:
    """From t to t + dt with the noise z ~ N(0, 1); the voltage then, and the sodium that entered, in nC/cm^2."""
    v = neuron.v
    m, h, n = (_relaxed(g, *rate) for g, rate in zip(neuron[1:], rates(v), strict=True))
    sodium, potassium = p["g_na"] * m**3 * h, p["g_k"] * n**4
    conductance = sodium + potassium + p["g_l"]
    goal = (sodium * p["e_na"] + potassium * p["e_k"] + p["g_l"] * p["e_l"] + current) / conductance
    rate = conductance / p["c"]
    left = jnp.exp(-rate * DT)
    later = goal + (v - goal) * left + noise * jnp.sqrt((1 - left**2) / (2 * rate)) * z
    return Neuron(later, m, h, n), (later, sodium * (p["e_na"] - (v + later) / 2) * DT)


def _relaxed(gate: Array, alpha: Array, beta: Array) -> Array:
    goal = alpha / (alpha + beta)
    return goal + (gate - goal) * jnp.exp(-(alpha + beta) * DT)


Report = Callable[[Array, Array, Array], Any]


def _run(key: PRNGKeyArray, report: Report, p: Mapping[str, Array], *, current: float, noise: float) -> Any:
    """What `report` makes of every block, given V at its start, V after each step and the sodium of each step."""
    # a loop's carry has one dtype and one set of batch axes throughout
    zero = jnp.zeros_like(sum(p.values()))
    start = Neuron(*(x + zero for x in at_rest()))

    def block(neuron: Neuron, given: tuple[PRNGKeyArray, Array]) -> tuple[Neuron, Any]:
        key, applied = given
        z = jr.normal(key, (BLOCK,))
        later, (v, sodium) = lax.scan(lambda neuron, z: step(neuron, z, applied, noise, p), neuron, z)
        return later, report(neuron.v, v, sodium)

    blocks = jnp.arange(BEFORE + DURING + AFTER)
    applied = jnp.where((blocks >= BEFORE) & (blocks < BEFORE + DURING), current, 0.0)
    return lax.scan(block, start, (jr.split(key, len(blocks)), applied))[1]


def dense(
    key: PRNGKeyArray, *, current: float = CURRENT, noise: float = NOISE, **parameters: Array
) -> dict[str, Float[Array, "5001"]]:
    """The `voltage` at every point of the grid, and the `energy` spent until then, given the seven `PARAMETERS`."""
    found = _run(key, lambda *block: block[1:], parameters, current=current, noise=noise)
    v, sodium = (x.ravel() for x in found)
    # one after the other: the rounding of `cumsum`, which adds up a tree, would let the energy sink now and then
    total, spent = lax.scan(lambda total, more: (total + more, total), jnp.zeros_like(sodium[0]), sodium)
    return {
        "voltage": jnp.concatenate([jnp.full_like(v[:1], V_0), v]),
        "energy": jnp.concatenate([spent, total[None]]) / 1000,
    }


def simulate(key: PRNGKeyArray, **parameters: Array) -> dict[str, Array]:
    """One draw of the eight numbers, given the seven `PARAMETERS`."""

    def report(start: Array, v: Array, sodium: Array) -> tuple[Moments, Array, Array]:
        before = jnp.concatenate([start[None], v[:-1]])
        return moments(v), jnp.sum((before < THRESHOLD) & (v >= THRESHOLD)), jnp.sum(sodium)

    parts, crossings, sodium = _run(key, report, parameters, current=CURRENT, noise=NOISE)
    rest = merged(Moments(*(x[:BEFORE] for x in parts)))
    stimulated = merged(Moments(*(x[BEFORE : BEFORE + DURING] for x in parts)))
    size = BLOCK * DURING
    variance = stimulated.squares / size
    return {
        "spikes": jnp.sum(crossings).astype(float),
        "rest_mean": rest.mean,
        "rest_sd": jnp.sqrt(rest.squares / (BLOCK * BEFORE)),
        "mean": stimulated.mean,
        "variance": variance,
        "skewness": stimulated.cubes / size / variance**1.5,
        "kurtosis": stimulated.fourths / size / variance**2,
        "energy": jnp.sum(sodium) / 1000,
    }


def moments(v: Float[Array, " block"]) -> Moments:
    """The moments of one block."""
    mean = jnp.mean(v)
    d = v - mean
    return Moments(mean, jnp.sum(d**2), jnp.sum(d**3), jnp.sum(d**4))


def merged(blocks: Moments) -> Moments:
    """The moments of all blocks together; nothing large is subtracted from anything large, as sums of V^4 would be."""
    mean = jnp.mean(blocks.mean)
    d = blocks.mean - mean
    squares = blocks.squares + BLOCK * d**2
    cubes = blocks.cubes + 3 * d * blocks.squares + BLOCK * d**3
    fourths = blocks.fourths + 4 * d * blocks.cubes + 6 * d**2 * blocks.squares + BLOCK * d**4
    return Moments(mean, jnp.sum(squares), jnp.sum(cubes), jnp.sum(fourths))


def problem() -> Problem:
    """Seven parameters, uniform over `RANGES`, and the simulator."""
    import numpyro.distributions as dist

    prior = {name: dist.Uniform(*ends) for name, ends in zip(PARAMETERS, RANGES, strict=True)}
    positive = dict.fromkeys(("rest_sd", "variance", "kurtosis", "energy"), dist.constraints.positive)
    return Problem(prior, simulate, supports=positive)


@functools.cache
def task() -> Task:
    """Seven parameters and eight numbers; ten observations, drawn from the prior and a fixed seed when asked for."""
    return simulated_task("hodgkin_huxley", problem(), seed=SEED, nuisances=STEPS)
