"""Guidance: the denoised data and noise under a constraint on the data.

The goal is the flow of p(x1) c(x1) in place of p(x1). Its score has one more term, and so have its data and noise:

    score' = score + grad_x log c_t(x),     c_t(x) = E[c(x1) | x_t = x]
    data'  = data + sigma^2 / alpha  grad_x log c_t,      noise' = noise - sigma grad_x log c_t

c_t is the mean of the constraint over the data given x_t. The denoised data are the mean of the data given x_t, and
their slope gives the covariance (Tweedie's formula, of first and second order):

    E[x1 | x_t] = data(x_t),       Cov[x1 | x_t] = sigma^2 / alpha  d data / d x_t

Let c be a function of a few functionals u(x1). Given x_t these are approximated as Gaussian, u ~ N(m, V) with
m = u(data), A = du/dx1 and V = A Cov A^T. A *guide* returns s, the gradient of log E[c(u)] with respect to m, and then

    data' = data + Cov A^T s

This is exact for Gaussian data and one linear functional: half-lines, intervals, equalities, soft observations.
Otherwise it is an approximation that becomes exact as sigma falls. Log weights correct its error (`carried`).
Published guidance replaces c_t by c(data) (Chung et al., 2023) or by a c whose sharpness is set by hand (Simformer,
Gloeckler et al., 2024). Both push too hard at early times, when the data given x_t are still wide.

At early times Cov is nearly the covariance of all data, and is computed as a small slope of a network divided by a
small alpha: mostly error. The covariance for Gaussian data takes over then, with variances l along their principal axes
(`PrincipalAxes`, estimated from draws without guidance; by default all variances are 1):

    Cov = w sigma^2 / alpha  d data / d x_t  +  (1 - w) sigma^2 l / (alpha^2 l + sigma^2),
    w = alpha^2 / (alpha^2 + EARLY_RATIO^2 sigma^2)
"""

from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from retrodict._errors import QueryError
from retrodict._types import Scalar
from retrodict.guidance._guides import AbstractGuide
from retrodict.paths import Denoised, Flow


EARLY_RATIO = 0.25  # alpha / sigma at which the slope of the network and Gaussian data have equal weights
LATE_RATIO = 1e-3  # sigma / alpha at which guidance has half faded: without noise no data can be moved
MIN_VARIANCE = 0.05  # as a share of the variance for Gaussian data, since the slope of a network may be negative

Vector: TypeAlias = Float[Array, " d"]


class PrincipalAxes(eqx.Module):
    """The principal axes of the data, columns of an orthogonal matrix, and the variances along them."""

    variances: Vector
    axes: Float[Array, "d d"]

    @classmethod
    def of(cls, covariance: Float[ArrayLike, "d d"]) -> "PrincipalAxes":
        """Returns the axes and variances of a covariance matrix; elements that are not latent may have zeros."""
        variances, axes = jnp.linalg.eigh(jnp.asarray(covariance))
        return cls(jnp.maximum(variances, 0.0), axes)


def guided(flow: Flow, guide: AbstractGuide, spread: PrincipalAxes | None = None) -> Flow:
    """Returns the flow of data whose density is multiplied by the factor of the guide.

    Args:
        spread: the covariance of the data without guidance, by default unit variance in all directions.

    Raises:
        QueryError: the path's noise is not Gaussian, so the score does not follow from the denoised noise.
    """
    path = flow.path
    if not path.gaussian:
        raise QueryError(
            f"guidance changes the score, which needs Gaussian noise, and this path starts from "
            f"{type(path.source).__name__}; train on a path with Gaussian noise, such as paths.flow_matching()"
        )
    scale = 1.0 if path.source is None else path.source.scale

    def guess(x: Vector, t: Scalar) -> Denoised:
        def denoise(x: Vector) -> tuple[Vector, Vector]:
            denoised = flow.guess(x, t)
            return denoised.data, denoised.noise

        alpha, sigma = path.schedule(t)
        data, data_vjp, noise = jax.vjp(denoise, x, has_aux=True)
        m, functional_vjp = jax.vjp(guide.functional, data)
        a = jax.vmap(functional_vjp)(jnp.eye(m.size, dtype=m.dtype))[0]
        moments = _ConditionalMoments(alpha, scale * sigma, spread)
        cross = moments.cross(a, jax.vmap(data_vjp)(a)[0])
        push = guide.respond(m, moments.regularized(cross @ a.T)).slope @ cross
        # data' = data + push and noise' = noise - alpha / sigma push, written so that both are finite if sigma is 0
        fade = sigma / (sigma**2 + (LATE_RATIO * alpha) ** 2)
        return Denoised(data + fade * sigma * push, noise - fade * alpha * push)

    return Flow(path, guess)


def strengthened(flow: Flow, other: Flow, strength: float | Scalar) -> Flow:
    """Returns `other + strength (flow - other)`: classifier-free guidance (Ho and Salimans, 2022).

    If `flow` is conditional and `other` unconditional, the score is that of p(x_t) p(given | x_t)^strength. For a
    strength other than 0 and 1 this only approximates the intended law, noised data of p(x1) p(given | x1)^strength.
    """

    def guess(x: Vector, t: Scalar) -> Denoised:
        return jax.tree.map(lambda leaf, base: base + strength * (leaf - base), flow.guess(x, t), other.guess(x, t))

    return Flow(flow.path, guess)


class _ConditionalMoments(NamedTuple):
    """Second moments of the data given `x_t = alpha data + noise`, with noise of sd `sigma`."""

    alpha: Array
    sigma: Array
    spread: PrincipalAxes | None

    def gaussian_cross(self, a: Float[Array, "j d"]) -> Float[Array, "j d"]:
        """Returns `A Cov` for Gaussian data."""
        # 1e-6 keeps the variance above zero if sigma is 0
        noise = jnp.maximum(self.sigma**2, 1e-6 * self.alpha**2)
        if self.spread is None:
            return noise / (self.alpha**2 + noise) * a
        variances, axes = self.spread.variances, self.spread.axes
        return ((a @ axes) * (noise * variances / (self.alpha**2 * variances + noise))) @ axes.T

    def cross(self, a: Float[Array, "j d"], slopes: Float[Array, "j d"]) -> Float[Array, "j d"]:
        """Returns `A Cov`, from `A` and `A d data / d x_t`, such that every functional has a variance above zero."""
        gaussian = self.gaussian_cross(a)
        total = self.alpha**2 + (EARLY_RATIO * self.sigma) ** 2
        # w sigma^2 / alpha, finite if alpha is 0
        mixed = self.alpha * self.sigma**2 / total * slopes + (EARLY_RATIO * self.sigma) ** 2 / total * gaussian
        variance, gaussian_variance = jnp.sum(mixed * a, axis=1), jnp.sum(gaussian * a, axis=1)
        bound = MIN_VARIANCE * gaussian_variance
        is_low = variance < bound
        share = jnp.where(is_low, (bound - variance) / jnp.where(is_low, gaussian_variance - variance, 1.0), 0.0)
        return mixed + share[:, None] * (gaussian - mixed)

    def regularized(self, v: Float[Array, "j j"]) -> Float[Array, "j j"]:
        """Returns `V` made symmetric and with correlations below one, as a covariance must be."""
        diagonal = jnp.maximum(jnp.diagonal(v), 1e-12)
        bound = 0.99 * jnp.sqrt(diagonal[:, None] * diagonal)
        off_diagonal = jnp.clip((v + v.T) / 2, -bound, bound)
        return jnp.where(jnp.eye(len(diagonal), dtype=bool), diagonal, off_diagonal)
