"""Gravitational waves: two black holes merge, and two detectors record four seconds of it in noise.

    strain_i(t) = h_i(t) + n_i(t), whitened,   i = Hanford, Livingston;   8192 samples at 2048 Hz

Signal. The dominant quadrupole of holes without spin, in the frequency domain: model B of Ajith et al. 2011 (Phys. Rev.
Lett. 106, 241101; arXiv:0909.2867), fitted to post-Newtonian and numerical solutions up to a mass ratio of 10. With
M = m1 + m2 in seconds (G M_sun / c^3 = 4.925 us), eta = m1 m2 / M^2, u = pi M f, v = u^(1/3):

    phase       Psi = 3 / (128 eta v^5) (1 + psi_2 v^2 + psi_3 v^3 + psi_4 v^4 + psi_6 v^6 + psi_7 v^7)
    amplitude   inspiral v^(-7/2) (1 + alpha v^2) to u_1, merger v^-2 (1 + e_1 v + e_2 v^2) to u_2, then the
                ringdown, a Lorentzian around u_2; each scaled to meet the one before, and faded out past u_3

Its first term is Newton's: h ~ f^(-7/6) and tau = 5/256 Mc^(-5/3) (pi f)^(-8/3) from frequency f to the end, with the
chirp mass Mc = eta^(3/5) M (Maggiore 2007, ch. 4; Cutler & Flanagan 1994). An inspiral alone, which ends at the
innermost stable orbit, u = 6^(-3/2), is not enough: at M = 150 suns that is 29 Hz, and only the merger is in band.

Detectors. h_i = Re F_i (1 + cos^2 iota) / 2 h_+ + Im F_i cos(iota) h_x, with F_i = e^(2 i pol) p' D_i p. D_i is half
the difference of the arms' projectors, and p = e_theta + i e_phi is perpendicular to the line of sight. The wave
arrives at the two detectors up to 10 ms apart (places: LIGO-T980044; formulas: Anderson et al. 2001, Phys. Rev. D 63,
042003).

Noise. Gaussian and stationary, its one-sided spectrum a fit to Advanced LIGO's design (Sathyaprakash & Schutz 2009,
Living Rev. Relativity 12, 2, table 1):  x = f / 215 Hz,

    S = 1e-49 / Hz (x^-4.14 - 5 x^-2 + 111 (1 - x^2 + x^4 / 2) / (1 + x^2 / 2))       above `LOW`; no signal below

Noise of this spectrum, divided by sqrt(S RATE / 2), is white with variance 1 in each sample, and is drawn so. 1e-49
cancels, and no number leaves the range of float32.

Nuisances. Time at the Earth's center, phase, direction, inclination and polarization are uniform. The loudness, which
is the network's signal-to-noise ratio rho, has a density ~ rho^-4 from 10 to 30: the law of detected sources that fill
a Euclidean space, for any masses (Schutz 2011, Class. Quantum Grav. 28, 125023). The distance follows from it, so
loudness itself carries no information about the masses.

Symmetry. The masses are unordered, and the signal depends on M and eta alone: p(m1, m2 | strain) = p(m2, m1 | strain).
A posterior has two equal modes, mirror images in m1 = m2, unless it touches that line.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from retrodict import Problem
from retrodict_bench.tasks._task import Task, simulated_task


SUN = 4.925490947e-6  # G M_sun / c^3, seconds
LIGHT = 299_792_458.0  # meters a second
RATE, SAMPLES = 2048, 8192
DURATION = SAMPLES / RATE
# The longest chirp, of 10 and 10 suns, takes 3.2 s from the lower end and must fit into the time before the merger. The
# filter rises gradually between the two, because a sharp edge in frequency rings for long in time.
LOW = (25.0, 35.0)
MERGER = (3.5, 3.7)  # seconds
LOUDNESS = (10.0, 30.0)
SEED = 58

BINS = np.arange(round(LOW[0] * DURATION), SAMPLES // 2)  # the band: LOW to just below the Nyquist frequency
FREQUENCIES = BINS / DURATION

# Hanford, then Livingston: place (meters) and directions of the two arms, in axes that turn with the Earth
PLACES = np.array(
    [(-2161414.92636, -3834695.17889, 4600350.22664), (-74276.0447238, -5496283.71971, 3224257.01744)],
)
FIRST_ARMS = np.array(
    [(-0.22389266154, 0.79983062746, 0.55690487831), (-0.95457412153, -0.14158077340, -0.26218911324)],
)
SECOND_ARMS = np.array(
    [(-0.91397818574, 0.02609403989, -0.40492342125), (0.29774156894, -0.48791033647, -0.82054461286)],
)
DETECTORS = (np.einsum("ki,kj->kij", FIRST_ARMS, FIRST_ARMS) - np.einsum("ki,kj->kij", SECOND_ARMS, SECOND_ARMS)) / 2


class Event(NamedTuple):
    """The nuisances: time, place, orientation and loudness of a merger."""

    time: Float[Array, ""]
    phase: Float[Array, ""]
    longitude: Float[Array, ""]
    sine_of_latitude: Float[Array, ""]
    cosine_of_inclination: Float[Array, ""]
    polarization: Float[Array, ""]
    loudness: Float[Array, ""]


def draw_event(key: PRNGKeyArray) -> Event:
    """Draws the nuisances."""
    time, phase, longitude, latitude, inclination, polarization, loudness = jr.uniform(key, (7,))
    low, high = LOUDNESS[1] ** -3, LOUDNESS[0] ** -3  # rho^-3 is uniform, like the volume within the distance
    return Event(
        time=MERGER[0] + (MERGER[1] - MERGER[0]) * time,
        phase=2 * math.pi * phase,
        longitude=2 * math.pi * longitude,
        sine_of_latitude=2 * latitude - 1,
        cosine_of_inclination=2 * inclination - 1,
        polarization=math.pi * polarization,
        loudness=(low + (high - low) * loudness) ** (-1 / 3),
    )


def noise_spectrum(f: Float[np.ndarray, " f"]) -> Float[np.ndarray, " f"]:
    """Returns S(f) of the design of Advanced LIGO, in units of 1e-49 / Hz."""
    x = f / 215.0
    return x**-4.14 - 5 * x**-2.0 + 111 * (1 - x**2 + x**4 / 2) / (1 + x**2 / 2)


# the factor of each frequency after the filter and whitening
FILTER = np.sin(0.5 * np.pi * np.clip((FREQUENCIES - LOW[0]) / (LOW[1] - LOW[0]), 0.0, 1.0)) ** 2
FILTER = FILTER / np.sqrt(noise_spectrum(FREQUENCIES))


def landmarks(eta: Float[Array, ""]) -> tuple[Array, Array, Array, Array]:
    """Returns u = pi M f at the start of the merger (u_1), at the ringdown (u_2), its width, and the end (u_3)."""
    u_1 = 0.066 + 0.6437 * eta - 0.05822 * eta**2 - 7.092 * eta**3
    u_2 = 0.185 + 0.1469 * eta - 0.0249 * eta**2 + 2.325 * eta**3
    width = 0.0925 - 0.4098 * eta + 1.829 * eta**2 - 2.87 * eta**3
    u_3 = 0.3236 - 0.1331 * eta - 0.2714 * eta**2 + 4.922 * eta**3
    return u_1, u_2, width, u_3


def amplitude(u: Float[Array, " f"], eta: Float[Array, ""]) -> Float[Array, " f"]:
    """Returns |h(u)|, up to a factor: u^(-7/6) for small u."""
    u_1, u_2, width, u_3 = landmarks(eta)
    alpha, e_1, e_2 = 451 * eta / 168 - 323 / 224, -1.8897, 1.6557

    def inspiral(v: Array) -> Array:
        return v**-3.5 * (1 + alpha * v**2)

    def merger(v: Array) -> Array:
        return v**-2 * (1 + e_1 * v + e_2 * v**2)

    v, v_1, v_2 = jnp.cbrt(u), jnp.cbrt(u_1), jnp.cbrt(u_2)
    scale = inspiral(v_1) / merger(v_1)
    ringdown = 1 / (1 + (2 * (u - u_2) / width) ** 2)
    unfaded = jnp.where(u < u_1, inspiral(v), scale * jnp.where(u < u_2, merger(v), merger(v_2) * ringdown))
    fade = jnp.cos(0.5 * math.pi * jnp.clip((u / u_3 - 1) / 0.1, 0.0, 1.0)) ** 2  # to 0 at 1.1 u_3
    return unfaded * fade


def phase(u: Float[Array, " f"], eta: Float[Array, ""]) -> Float[Array, " f"]:
    """Returns Psi(u) in radians; 1 / 2 pi dPsi/df is the time from f to the end, up to sign and a constant."""
    psi_2 = 3715 / 756 - 920.9 * eta + 6742 * eta**2 - 1.34e4 * eta**3
    psi_3 = -16 * math.pi + 1.702e4 * eta - 1.214e5 * eta**2 + 2.386e5 * eta**3
    psi_4 = 15293365 / 508032 - 1.254e5 * eta + 8.735e5 * eta**2 - 1.694e6 * eta**3
    psi_6 = -8.898e5 * eta + 5.981e6 * eta**2 - 1.128e7 * eta**3
    psi_7 = 8.696e5 * eta - 5.838e6 * eta**2 + 1.089e7 * eta**3
    v = jnp.cbrt(u)
    series = 1 + v**2 * (psi_2 + v * (psi_3 + v * (psi_4 + v**2 * (psi_6 + v * psi_7))))
    return 3 / (128 * eta * v**5) * series


def whitened(m1: Float[Array, ""], m2: Float[Array, ""]) -> Complex[Array, " f"]:
    """Returns the wave at `FREQUENCIES` over sqrt(S), merging at time 0; its samples have a sum of squares of 1."""
    total = m1 + m2
    eta = m1 * m2 / total**2
    u = math.pi * SUN * total * jnp.asarray(FREQUENCIES)
    # constant and slope are subtracted at the ringdown, so that the merger is at `Event.time`
    u_2 = landmarks(eta)[1]
    psi, slope = jax.value_and_grad(phase)(u_2, eta)
    angle = -(phase(u, eta) - psi - slope * (u - u_2))
    size = amplitude(u, eta) * jnp.asarray(FILTER)
    size = size / jnp.sqrt(2 / SAMPLES * jnp.sum(size**2))  # Parseval: both signs of f, the mean over samples
    return size * jnp.exp(1j * angle)


def response(event: Event) -> tuple[Complex[Array, "2"], Float[Array, "2"]]:
    """Returns the response of each detector to h_+ and h_x = -i h_+, and its delay in s after the Earth's center."""
    s, t = event.sine_of_latitude, event.longitude
    c = jnp.sqrt(1 - s**2)
    direction = jnp.stack([c * jnp.cos(t), c * jnp.sin(t), s])
    south = jnp.stack([s * jnp.cos(t), s * jnp.sin(t), -c])
    east = jnp.stack([-jnp.sin(t), jnp.cos(t), jnp.zeros_like(t)])
    plane = south + 1j * east
    pattern = jnp.exp(2j * event.polarization) * jnp.einsum("i,kij,j->k", plane, jnp.asarray(DETECTORS), plane)
    tilt = event.cosine_of_inclination
    return pattern.real * (1 + tilt**2) / 2 - 1j * pattern.imag * tilt, -jnp.asarray(PLACES / LIGHT) @ direction


def signal(m1: Float[Array, ""], m2: Float[Array, ""], event: Event) -> Float[Array, "8192 2"]:
    """Returns the whitened strain without noise; the sum of its squares is the square of the network's loudness."""
    factors, delays = response(event)
    factors = factors * event.loudness / jnp.linalg.norm(factors)
    cycles = (event.time + delays)[:, None] / DURATION * jnp.asarray(BINS)
    cycles = cycles - jnp.round(cycles)  # whole turns, of which there are thousands, would cost float32 its digits
    turn = jnp.exp(1j * (event.phase - 2 * math.pi * cycles))
    spectrum = factors[:, None] * turn * whitened(m1, m2)
    silence = jnp.zeros((2, BINS[0]), spectrum.dtype)
    return jnp.fft.irfft(jnp.concatenate([silence, spectrum], axis=1), SAMPLES).T


def simulate(key: PRNGKeyArray, m1: Float[Array, ""], m2: Float[Array, ""]) -> dict[str, Array]:
    """Draws `strain` (8192, 2), whitened, given the masses in suns, as the detectors see them (redshifted)."""
    key_event, key_noise = jr.split(key)
    return {"strain": signal(m1, m2, draw_event(key_event)) + jr.normal(key_noise, (SAMPLES, 2))}


def problem() -> Problem:
    """Returns m1, m2 ~ U(10, 80) suns, unordered (mean 45, standard deviation 20.2), and the simulator."""
    import numpyro.distributions as dist

    return Problem({"m1": dist.Uniform(10.0, 80.0), "m2": dist.Uniform(10.0, 80.0)}, simulate)


@functools.cache
def task() -> Task:
    """Returns the task: `m1`, `m2` and `strain` (8192, 2); ten observations, simulated on first use."""
    return simulated_task("gravitational_waves", problem(), seed=SEED, nuisances=7)
