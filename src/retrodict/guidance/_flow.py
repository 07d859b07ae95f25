"""Guidance: what the guess of the data becomes when something is known about the data.

Wanted is the flow of p(x1) c(x1) in place of p(x1). Its score has one more term, and so has its guess:

    score' = score + grad_x log c_t(x),     c_t(x) = E[c(x1) | x_t = x]
    data'  = data + sigma^2 / alpha  grad_x log c_t,      noise' = noise - sigma grad_x log c_t

c_t is an average over what the data may still become. The guess of the data tells its mean, and its slope the
covariance (Tweedie's formula, once and twice):

    E[x1 | x_t] = data(x_t),       Cov[x1 | x_t] = sigma^2 / alpha  d data / d x_t

For c a function of a few functionals u(x1) these are taken for Gaussian, u ~ N(m, V) with m = u(data), A = du/dx1 and
V = A Cov A^T. A *guide* says s = the gradient of log E[c(u)] with respect to m, and then

    data' = data + Cov A^T s

which for Gaussian data and one linear functional is exact: half-lines, intervals, equalities, soft observations.
Otherwise it is an approximation that becomes exact as sigma falls, and weights make up for the rest (`carried`).
Published guidance replaces c_t by c(data) (Chung et al., 2023) or by a c whose sharpness is set by hand (Simformer,
Gloeckler et al., 2024); it pushes too hard as long as much is open.

Where there is little data in x_t its covariance is nearly that of all data, and comes as a small slope of a network
divided by a small alpha: mostly error. There the covariance takes over that it would have were the data Gaussian, with
variances l along their principal axes (a `Spread`, of draws without guidance; by default 1),

    Cov = w sigma^2 / alpha  d data / d x_t  +  (1 - w) sigma^2 l / (alpha^2 l + sigma^2),
    w = alpha^2 / (alpha^2 + EARLY^2 sigma^2)
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


EARLY = 0.25  # alpha / sigma at which the network's slopes and Gaussian data count the same
LATE = 1e-3  # sigma / alpha at which guidance has half faded: where no noise is left nothing can be pushed
LEAST = 0.05  # of the variance of Gaussian data, what is always left open: a network's slope may be negative

Vector: TypeAlias = Float[Array, " d"]


class Spread(eqx.Module):
    """Principal axes of the data, the columns of an orthogonal matrix, and the variances along them."""

    variances: Vector
    axes: Float[Array, "d d"]

    @classmethod
    def of(cls, covariance: Float[ArrayLike, "d d"]) -> "Spread":
        """From a covariance; elements that do not move may have zeros."""
        variances, axes = jnp.linalg.eigh(jnp.asarray(covariance))
        return cls(jnp.maximum(variances, 0.0), axes)


def guided(flow: Flow, guide: AbstractGuide, spread: Spread | None = None) -> Flow:
    """The flow of data whose density is multiplied by the guide's factor.

    `spread` is how wide the data are without guidance, by default of unit variance in all directions.

    Raises:
        QueryError: the path's noise is not Gaussian, so that there is no score to bend.
    """
    path = flow.path
    if not path.gaussian:
        raise QueryError(
            f"guidance bends the score, which needs Gaussian noise, and this path starts from "
            f"{type(path.source).__name__}; train on a path with Gaussian noise, such as paths.flow_matching()"
        )
    scale = 1.0 if path.source is None else path.source.scale

    def guess(x: Vector, t: Scalar) -> Denoised:
        def pair(x: Vector) -> tuple[Vector, Vector]:
            found = flow.guess(x, t)
            return found.data, found.noise

        alpha, sigma = path.schedule(t)
        data, pull, noise = jax.vjp(pair, x, has_aux=True)
        m, pull_functional = jax.vjp(guide.functional, data)
        a = jax.vmap(pull_functional)(jnp.eye(m.size, dtype=m.dtype))[0]
        between = _Between(alpha, scale * sigma, spread)
        cross = between.cross(a, jax.vmap(pull)(a)[0])
        push = guide.respond(m, between.sound(cross @ a.T)).slope @ cross
        # data' = data + push and noise' = noise - alpha / sigma push; what vanishes with sigma^2 may fade with it
        fade = sigma / (sigma**2 + (LATE * alpha) ** 2)
        return Denoised(data + fade * sigma * push, noise - fade * alpha * push)

    return Flow(path, guess)


def strengthened(flow: Flow, other: Flow, strength: float | Scalar) -> Flow:
    """`other` plus `strength` times what `flow` knows beyond it (classifier-free guidance, Ho and Salimans, 2022).

    With a conditional and an unconditional flow the score is that of p(x_t) p(given | x_t)^strength. These are not the
    marginals of noised data from p(x1) p(given | x1)^strength, which is what is meant, unless the strength is 0 or 1.
    """

    def guess(x: Vector, t: Scalar) -> Denoised:
        return jax.tree.map(lambda own, base: base + strength * (own - base), flow.guess(x, t), other.guess(x, t))

    return Flow(flow.path, guess)


class _Between(NamedTuple):
    """Second moments of the data given `x_t`, where `alpha` data and noise of size `sigma` stand in it."""

    alpha: Array
    sigma: Array
    spread: Spread | None

    def gaussian(self, a: Float[Array, "j d"]) -> Float[Array, "j d"]:
        """`A Cov` for Gaussian data."""
        # 1e-6 keeps it above zero where sigma is 0
        noise = jnp.maximum(self.sigma**2, 1e-6 * self.alpha**2)
        if self.spread is None:
            return noise / (self.alpha**2 + noise) * a
        own, axes = self.spread.variances, self.spread.axes
        return ((a @ axes) * (noise * own / (self.alpha**2 * own + noise))) @ axes.T

    def cross(self, a: Float[Array, "j d"], slopes: Float[Array, "j d"]) -> Float[Array, "j d"]:
        """`A Cov`, from `A` and `A d data / d x_t`; every functional with a variance above zero."""
        gaussian = self.gaussian(a)
        known = self.alpha**2 + (EARLY * self.sigma) ** 2
        # w sigma^2 / alpha, finite where alpha is 0
        found = self.alpha * self.sigma**2 / known * slopes + (EARLY * self.sigma) ** 2 / known * gaussian
        v, wide = jnp.sum(found * a, axis=1), jnp.sum(gaussian * a, axis=1)
        low = v < LEAST * wide
        lacking = jnp.where(low, (LEAST * wide - v) / jnp.where(low, wide - v, 1.0), 0.0)
        return found + lacking[:, None] * (gaussian - found)

    def sound(self, v: Float[Array, "j j"]) -> Float[Array, "j j"]:
        """`V` made symmetric, with correlations below one, as a covariance must be."""
        diagonal = jnp.maximum(jnp.diagonal(v), 1e-12)
        most = 0.99 * jnp.sqrt(diagonal[:, None] * diagonal)
        off = jnp.clip((v + v.T) / 2, -most, most)
        return jnp.where(jnp.eye(len(diagonal), dtype=bool), diagonal, off)
