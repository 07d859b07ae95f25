"""The Cholesky factor of the covariance of a point of SLCP; see `slcp`."""

import jax.numpy as jnp
from jaxtyping import Array, Float


POINTS, JITTER, REACH = 4, 1e-6, 3.0


def cholesky(theta: Float[Array, "5"]) -> tuple[Array, Array, Array]:
    """Returns L_11, L_21 and L_22."""
    s_1, s_2 = theta[2] ** 2, theta[3] ** 2
    first = jnp.sqrt(s_1**2 + JITTER)
    determinant = (s_1 * s_2 / jnp.cosh(theta[4])) ** 2 + JITTER * (s_1**2 + s_2**2) + JITTER**2
    return first, jnp.tanh(theta[4]) * s_1 * s_2 / first, jnp.sqrt(determinant) / first
