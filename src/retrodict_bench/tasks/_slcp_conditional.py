"""Every conditional of slcp.

Parameters. Particles go from the prior to the posterior by tempering, p(given | theta)^b with b from 0 to 1 in steps
that leave half of them effective. If only one number of a point is given, the point enters with the marginal density of
that number. The likelihood depends on theta_2 and theta_3 through their squares, so both stay positive and get random
signs at the end. Between two temperatures, Metropolis moves every particle by

    theta + g (theta' - theta''),   theta', theta'' from the other half of the particles,

with steps g of all sizes and in random subsets of the coordinates (ter Braak 2006). Differences of particles have the
shape of the posterior. Each half moves while the other one is fixed, so each move leaves the posterior invariant. In
half of the moves the means are drawn independently, from a Gaussian q: their law given the other three numbers under a
wide Gaussian prior. Otherwise few data points would make a funnel, where a small scale pins the means to a point, and
steps of one size neither enter nor leave it. Tests against sbibm's reference show that the particles have converged.

Data. Given theta, latent numbers are drawn from the plane Gaussian, conditional on the other number of their point if
that is given.
"""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from retrodict._types import Key, as_key
from retrodict_bench.tasks._roles import answer, generator, given_tokens
from retrodict_bench.tasks._slcp_covariance import JITTER, POINTS, REACH, cholesky


MIN_PARTICLES = 10_000
MOVES, FINAL_ROUNDS = 10, 15  # moves for each temperature, and rounds of as many moves at b = 1


def draw(roles: Any, values: Any, n: int, key: Key) -> Float[np.ndarray, "n 13"]:
    """Draws the latent tokens given the given ones; see `Task.conditional`."""
    mask, v = given_tokens(roles, values, n, 5 + 2 * POINTS)
    key_theta, key_rest = jr.split(as_key(key))
    rng = generator(key_rest)
    if mask[:5].all() or not mask[5:].any():
        theta = rng.uniform(-REACH, REACH, (n, 5))
    else:
        cloud = _tempered(key_theta, v, max(MIN_PARTICLES, n + n % 2))
        theta = np.asarray(cloud, np.float64)[rng.permutation(len(cloud))[:n]]
        theta[:, 2:4] *= rng.choice([-1.0, 1.0], (n, 2))
    theta = np.where(mask[:5], v[:5], theta)
    return answer(np.concatenate([theta, _points(rng, theta, v[5:])], axis=1), roles, values)


def _points(rng: np.random.Generator, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Draws the numbers that are NaN in `x`, given theta and the others, and returns all eight."""
    mean, s = theta[:, :2], theta[:, 2:4] ** 2
    variance = s**2 + JITTER
    covariance = np.tanh(theta[:, 4]) * s[:, 0] * s[:, 1]
    determinant = (s[:, 0] * s[:, 1] / np.cosh(theta[:, 4])) ** 2 + JITTER * (s**2).sum(1) + JITTER**2
    points = np.empty((len(theta), POINTS, 2))
    for i, point in enumerate(x.reshape(POINTS, 2)):
        first = 0 if np.isfinite(point[0]) or not np.isfinite(point[1]) else 1
        second = 1 - first
        z = rng.standard_normal((2, len(theta)))
        a = point[first] if np.isfinite(point[first]) else mean[:, first] + np.sqrt(variance[:, first]) * z[0]
        b = mean[:, second] + covariance / variance[:, first] * (a - mean[:, first])
        points[:, i, first] = a
        sd = np.sqrt(determinant / variance[:, first])
        points[:, i, second] = point[second] if np.isfinite(point[second]) else b + sd * z[1]
    return points.reshape(len(theta), -1)


def _tempered(key: Any, v: np.ndarray, particles: int) -> Float[Array, "particles 5"]:
    """Draws particles of p(theta | given), theta_2 and theta_3 positive."""
    key, key_start = jr.split(key)
    tokens = jnp.asarray(v, jnp.float32)
    free = jnp.isnan(tokens[:5])
    theta = jnp.where(free, jr.uniform(key_start, (particles, 5), minval=-REACH, maxval=REACH), tokens[:5])
    cloud, b, rounds = _folded(theta), jnp.asarray(0.0), FINAL_ROUNDS
    while rounds > 0:
        key, key_step = jr.split(key)
        rounds -= bool(b >= 1.0)
        cloud, b = _step(key_step, cloud, b, free, tokens[5:])
    return cloud


def _folded(theta: Float[Array, "*n 5"]) -> Float[Array, "*n 5"]:
    return theta.at[..., 2:4].set(jnp.abs(theta[..., 2:4]))


def _log_given(theta: Float[Array, "5"], x: Float[Array, "8"]) -> Float[Array, ""]:
    """Returns log p(x | theta) of the numbers that are not NaN, up to a constant."""
    l_11, l_21, l_22 = cholesky(theta)
    x_0, x_1 = x[0::2], x[1::2]
    has_0, has_1 = ~jnp.isnan(x_0), ~jnp.isnan(x_1)
    z_0 = jnp.where(has_0, (x_0 - theta[0]) / l_11, 0.0)
    # without the first number, the second one has the marginal sd hypot(l_21, l_22)
    sd = jnp.where(has_0, l_22, jnp.hypot(l_21, l_22))
    z_1 = jnp.where(has_1, (x_1 - theta[1] - l_21 * z_0) / sd, 0.0)
    return -jnp.sum(0.5 * (z_0**2 + z_1**2) + has_0 * jnp.log(l_11) + has_1 * jnp.log(sd))


@jax.jit
def _step(
    key: Array, cloud: Float[Array, "n 5"], b: Array, free: Array, x: Float[Array, "8"]
) -> tuple[Float[Array, "n 5"], Array]:
    """Moves the particles to the next temperature b: weights, resampling, Metropolis."""
    key_pick, key_moves = jr.split(key)
    data = jax.vmap(lambda theta: _log_given(theta, x))(cloud)
    step = _next_step(data, 1.0 - b)
    sums = jnp.cumsum(jax.nn.softmax(step * data))
    comb = (jnp.arange(len(cloud)) + jr.uniform(key_pick)) / len(cloud)
    pick = jnp.minimum(jnp.searchsorted(sums / sums[-1], comb), len(cloud) - 1)
    cloud, b = cloud[pick], b + step

    def move(halves: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], None]:
        moving, fixed = halves
        for k in jr.split(key, 2):
            moving, fixed = fixed, _metropolis(k, moving, fixed, free, x, b)
        return (moving, fixed), None

    # copies of one particle are neighbors, and go to different halves
    halves, _ = lax.scan(move, (cloud[::2], cloud[1::2]), jr.split(key_moves, MOVES))
    return jnp.concatenate(halves), jnp.where(b > 1.0 - 1e-6, 1.0, b)


def _next_step(data: Float[Array, " n"], longest: Array) -> Array:
    """Returns the longest step of b that leaves half of the particles effective, by bisection."""

    def effective(step: Array) -> Array:
        weights = jax.nn.softmax(step * data)
        return 1.0 / (len(data) * jnp.sum(weights**2))

    def halve(ends: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        middle = jnp.sqrt(ends[0] * ends[1])  # on a log scale: the first steps may be tiny
        accept = effective(middle) > 0.5
        return (jnp.where(accept, middle, ends[0]), jnp.where(accept, ends[1], middle)), None

    ends, _ = lax.scan(halve, (1e-9 * longest, longest), None, length=20)
    return jnp.where(effective(longest) > 0.5, longest, ends[0])


def _metropolis(
    key: Array, moving: Float[Array, "half 5"], fixed: Float[Array, "half 5"], free: Array, x: Array, b: Array
) -> Float[Array, "half 5"]:
    """Moves every row of `moving` once, along differences of rows of `fixed`."""
    n, d = moving.shape
    key_pair, key_size, key_subset, key_noise, key_fresh, key_means, key_accept = jr.split(key, 7)
    first, second = jr.randint(key_pair, (2, n), 0, len(fixed))
    size = 10.0 ** jr.uniform(key_size, (n, 1), minval=-2.5, maxval=0.3)
    subset = free & jr.bernoulli(key_subset, 0.6, (n, d))
    # the noise moves coordinates in which two copies of one particle agree
    shift = fixed[first] - fixed[second] + 0.05 * fixed.std(0) * jr.normal(key_noise, (n, d))
    new = _folded(moving + size * jnp.where(subset, shift, 0.0))

    def means(theta: Float[Array, "5"], z: Float[Array, "2"]) -> tuple[Array, Array]:
        return _draw_means(theta, z, free, x, b)

    independent = jr.bernoulli(key_fresh, 0.5, (n, 1))
    new_means, _ = jax.vmap(means)(new, jr.normal(key_means, (n, 2)))
    new = new.at[:, :2].set(jnp.where(independent, new_means, new[:, :2]))

    def score(theta: Float[Array, "5"], independent: Array) -> Array:
        return b * _log_given(theta, x) - jnp.where(independent[0], means(theta, jnp.zeros(2))[1], 0.0)

    gain = jax.vmap(score)(new, independent) - jax.vmap(score)(moving, independent)
    in_prior = jnp.all(~free | (jnp.abs(new) < REACH), axis=1)
    accept = in_prior & (jnp.log(jr.uniform(key_accept, (n,))) < gain)
    return jnp.where(accept[:, None], new, moving)


def _draw_means(
    theta: Float[Array, "5"], z: Float[Array, "2"], free: Array, x: Float[Array, "8"], b: Array
) -> tuple[Float[Array, "2"], Float[Array, ""]]:
    """Returns means from q, given the last three of theta and normal noise `z`, and log q of the means in theta.

    The exponent of q is quadratic, -m'Am/2 + h'm. Every given number adds to A and h, and the prior adds 1/9 to A.
    """
    l_11, l_21, l_22 = cholesky(theta)
    x_0, x_1 = x[0::2], x[1::2]
    has_0, has_1 = ~jnp.isnan(x_0), ~jnp.isnan(x_1)
    x_0, x_1 = jnp.where(has_0, x_0, 0.0), jnp.where(has_1, x_1, 0.0)
    # a point has the residuals z_0 = w_0 (x_0 - m_0) and z_1 = slope (x_0 - m_0) + w_1 (x_1 - m_1)
    sd = jnp.where(has_0, l_22, jnp.hypot(l_21, l_22))
    w_1, slope = has_1 / sd, -l_21 * (has_0 & has_1) / (l_11 * sd)
    w_0, combined = has_0 / l_11, slope * x_0 + w_1 * x_1
    a_00 = b * jnp.sum(w_0**2 + slope**2) + REACH**-2
    a_11, a_01 = b * jnp.sum(w_1**2) + REACH**-2, b * jnp.sum(slope * w_1)
    h_0, h_1 = b * jnp.sum(w_0**2 * x_0 + slope * combined), b * jnp.sum(w_1 * combined)
    # m_0 from its marginal if m_1 is free too, else given m_1; then m_1 given m_0
    p_0 = jnp.where(free[1], a_00 - a_01**2 / a_11, a_00)
    c_0 = jnp.where(free[1], h_0 - a_01 * h_1 / a_11, h_0 - a_01 * theta[1]) / p_0
    m_0 = jnp.where(free[0], c_0 + z[0] / jnp.sqrt(p_0), theta[0])
    m_1 = jnp.where(free[1], (h_1 - a_01 * m_0) / a_11 + z[1] / jnp.sqrt(a_11), theta[1])
    log_0 = 0.5 * jnp.log(p_0) - 0.5 * p_0 * (theta[0] - c_0) ** 2
    log_1 = 0.5 * jnp.log(a_11) - 0.5 * a_11 * (theta[1] - (h_1 - a_01 * theta[0]) / a_11) ** 2
    return jnp.stack([m_0, m_1]), jnp.where(free[0], log_0, 0.0) + jnp.where(free[1], log_1, 0.0)
