"""Blood flow in the leg arteries of many patients: a lumped-parameter network of vessels with windkessel outlets.

The heart's flow Q(t) enters the abdominal aorta, which forks into two iliac arteries, each ending in an outlet:

    vessel   C dP/dt = Q_in - Q_out,   L dQ_in/dt = P_in - P - R Q_in      (P at its far end)
             R = 8 mu l / (pi r^4),   L = rho l / (pi r^2),   C = 3 l pi r^3 / (2 E h)
    outlet   P = Rp Q + Pc,   Cd dPc/dt = Q - Pc / Rd

The equations are linear, so the periodic state has an exact solution for each Fourier mode. With w = 2 pi k / period
for the k-th mode of Q,

    outlet's impedance    Z = Rp + Rd / (1 + i w Rd Cd)
    vessel's              Z = R + i w L + Z' / (1 + i w C Z'),   Z' the impedance downstream of it
    fork's                1 / Z' = 1 / Z_l + 1 / Z_r

and P = Z Q at the inlet. At the fork the flow that C does not store divides in proportion to 1 / Z_l and 1 / Z_r.

    shared     stiffness ~ LogNormal(0, .3)           E h, relative to the values below
               viscosity ~ LogNormal(log 4, .2)       mu, mPa s
               inflow ~ LogNormal(log 7.5, .2)        the mean of Q, ml/s
    a patient's radius ~ LogNormal(0, .1)             of all three vessels, relative to the values below
               left, right ~ LogNormal(0, .3)         resistance Rd of the outlets, likewise
    pressure (12,)  at the inlet, mmHg, + N(0, 2^2);   flow (12,)  into the left iliac, ml/s, + N(0, .5^2)
                    at twelve equidistant phases of the cycle from its start

Sources. Equations: the lumped-parameter vessel and outlet of reduced-order models (Pfaller et al.
2022, International Journal for Numerical Methods in Biomedical Engineering 38, e3639). Lengths, radii (at diastole),
moduli E, density, viscosity 4 mPa s, Rp, Rd, Cd, the cycle of 1.1 s: the aortic bifurcation of the benchmark of Boileau
et al. 2015 (same journal 31, e02732). Wall thickness h: 12 % of the radius, a textbook value. Our choices: a systole of
.35 s, in which Q is a squared sine (0 otherwise) up to its twentieth mode; 7.5 ml/s, which gives a mean pressure of
89 mmHg; the width of every prior; the noise; and Rp and Rd in proportion to viscosity as R is, because viscosity would
otherwise change the pressure by less than a thousandth. h is proportional to a patient's radius.
"""

import functools
import math
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from retrodict import Plate, Problem
from retrodict_bench.tasks._laws import log_normal
from retrodict_bench.tasks._sites import sites_task
from retrodict_bench.tasks._task import Task, frozen


# SI units: m, Pa, s, kg
DENSITY, VISCOSITY = 1060.0, 4e-3
AORTA = {"length": 0.086, "radius": 7.58e-3, "modulus": 5e5}
ILIAC = {"length": 0.085, "radius": 5.49e-3, "modulus": 7e5}
WALL = 0.12  # thickness over radius
PROXIMAL, DISTAL, COMPLIANCE = 6.8123e7, 3.1013e9, 3.6664e-10
PERIOD, SYSTOLE = 1.1, 0.35
MEAN_FLOW = 7.5  # ml/s
WAVES, PHASES, PATIENTS = 20, 12, 8
PRESSURE_NOISE, FLOW_NOISE = 2.0, 0.5  # mmHg, ml/s
MMHG, ML = 133.322, 1e-6  # Pa, m^3

Wave = Complex[Array, "21"]


@functools.cache
def pulse() -> Complex[np.ndarray, "21"]:
    """Returns the Fourier modes of the heart's flow of mean 1: Q(t) = Re sum_k pulse_k e^(2 pi i k t / period)."""
    # of sin^2(pi t / d) = (1 - cos(2 pi t / d)) / 2 on (0, d), in units of the period
    k, d = np.arange(WAVES + 1), SYSTOLE / PERIOD

    def integral(f: np.ndarray) -> np.ndarray:  # of e^(-2 pi i f t) over (0, d)
        return d * np.exp(-1j * np.pi * f * d) * np.sinc(f * d)

    modes = integral(k) / 2 - (integral(k - 1 / d) + integral(k + 1 / d)) / 4
    return frozen(modes / modes[0].real * np.where(k == 0, 1.0, 2.0))


def vessel(geometry: dict[str, float], stiffness: Array, viscosity: Array, radius: Array) -> tuple[Array, Array, Array]:
    """Returns R in Pa s/m^3, L in Pa s^2/m^3 and C in m^3/Pa of one vessel; `viscosity` in Pa s."""
    r = radius * geometry["radius"]
    resistance = 8 * viscosity * geometry["length"] / (math.pi * r**4)
    inertance = DENSITY * geometry["length"] / (math.pi * r**2)
    capacity = 3 * geometry["length"] * math.pi * r**2 / (2 * stiffness * geometry["modulus"] * WALL)
    return resistance, inertance, capacity


def outlet(factor: Array, viscosity: Array) -> tuple[Array, Array, float]:
    """Returns Rp and Rd in Pa s/m^3 and Cd in m^3/Pa; `viscosity` in Pa s."""
    relative = viscosity / VISCOSITY
    return PROXIMAL * relative, DISTAL * relative * factor, COMPLIANCE


def curves(
    phases: Float[Array, " k"],
    stiffness: Array,
    viscosity: Array,
    inflow: Array,
    radius: Array,
    left: Array,
    right: Array,
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Returns inlet pressure in mmHg and flow into the left iliac in ml/s at phases from 0 to 1, without noise."""
    w = jnp.asarray(2 * np.pi / PERIOD * np.arange(WAVES + 1))
    mu = viscosity * 1e-3
    aorta, iliac = (vessel(geometry, stiffness, mu, radius) for geometry in (AORTA, ILIAC))

    def leg_impedance(factor: Array) -> Wave:
        proximal, distal, capacity = outlet(factor, mu)
        return _impedance(w, iliac, proximal + distal / (1 + 1j * w * distal * capacity))

    z_left, z_right = leg_impedance(left), leg_impedance(right)
    fork = z_left * z_right / (z_left + z_right)
    flow = inflow * jnp.asarray(pulse())  # ml/s
    pressure = _impedance(w, aorta, fork) * flow
    # the flow that the aorta does not store divides in inverse proportion to the impedances of the legs
    left_flow = flow / (1 + 1j * w * aorta[2] * fork) * fork / z_left
    turns = jnp.exp(2j * jnp.pi * phases[:, None] * jnp.arange(WAVES + 1))
    return (turns @ pressure).real * (ML / MMHG), (turns @ left_flow).real


def _impedance(w: Float[Array, "21"], vessel: tuple[Array, Array, Array], downstream: Wave) -> Wave:
    """Returns the impedance of a vessel together with that downstream of it."""
    resistance, inertance, capacity = vessel
    return resistance + 1j * w * inertance + downstream / (1 + 1j * w * capacity * downstream)


def simulate(
    key: PRNGKeyArray, stiffness: Array, viscosity: Array, inflow: Array, radius: Array, left: Array, right: Array
) -> dict[str, Float[Array, "12"]]:
    """Draws `pressure` and `flow` (12,) of one patient, in mmHg and ml/s."""
    key_pressure, key_flow = jr.split(key)
    pressure, flow = curves(_phases(), stiffness, viscosity, inflow, radius, left, right)
    return {
        "pressure": pressure + PRESSURE_NOISE * jr.normal(key_pressure, (PHASES,)),
        "flow": flow + FLOW_NOISE * jr.normal(key_flow, (PHASES,)),
    }


def log_likelihood(*, pressure: Float[Array, "12"], flow: Float[Array, "12"], **parameters: Array) -> Float[Array, ""]:
    """Returns log p(pressure, flow | parameters) of one patient."""
    means = curves(_phases(), **parameters)
    return jnp.sum(log_normal(pressure, means[0], PRESSURE_NOISE) + log_normal(flow, means[1], FLOW_NOISE))


def _phases() -> Float[Array, "12"]:
    return jnp.arange(PHASES) / PHASES


def prior() -> dict[str, Any]:
    """Returns the laws of the module's first lines, all positive; the plate is `site`, a patient."""
    import numpyro.distributions as dist

    resistance = dist.LogNormal(0.0, 0.3)
    return {
        "stiffness": dist.LogNormal(0.0, 0.3),
        "viscosity": dist.LogNormal(math.log(VISCOSITY * 1e3), 0.2),
        "inflow": dist.LogNormal(math.log(MEAN_FLOW), 0.2),
        "site": Plate("site", {"radius": dist.LogNormal(0.0, 0.1), "left": resistance, "right": resistance}),
    }


def task() -> Task:
    """Returns the task: three shared parameters, and three parameters and two curves (12,) for each of 8 patients."""
    return sites_task("blood_flow", Problem(prior(), simulate), log_likelihood, seed=190, sites=PATIENTS)
