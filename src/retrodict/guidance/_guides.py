"""Guides: constraints on the data as factors c(u) of a few functionals u = functional(x1).

Given x_t, u is approximated as Gaussian, u ~ N(m, V). A guide *responds* with

    slope      s = d/dm   log E[c(u)]              the mean of u becomes m + V s
    curvature  H = d2/dm2 log E[c(u)]              the covariance of u becomes V + V H V

in closed form, one row of this table for each guide:

    Within     c = 1[low <= u_j <= high] for all j     s = (phi(a) - phi(b)) / (Phi(b) - Phi(a)) / sd,  one j at a time
    Near       c = N(value; u, sd^2)                   s = (V + sd^2)^-1 (value - m)
    Tilt       c = exp f(u), any differentiable f      s = (I - F V)^-1 f'(m),  F = f''(m);  exact for quadratic f

(`a`, `b` are the ends in standard deviations from m.) Several factors respond one after the other, each to the m and V
that the previous factors leave. This is exact for Gaussian factors. For intervals it is the assumed-density filter,
which replaces the truncated law by a Gaussian with the same mean and variance.
"""

import abc
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from retrodict._types import Scalar


Vector: TypeAlias = Float[Array, " d"]
Functional: TypeAlias = Callable[[Vector], Float[Array, " j"]]

MAX_SDS = 1e3  # standard deviations: ends are clipped there, so that single precision suffices
NARROW_SDS = 0.02  # standard deviations: in a narrower interval the density is taken as linear
TAIL_SDS = 5.0  # standard deviations: beyond, a continued fraction is more precise than the ratio of two small numbers
FRACTION_TERMS = 6  # of the continued fraction


class Response(NamedTuple):
    """The first and the second derivative of `log E[c(u)]` with respect to the mean of u."""

    slope: Float[Array, " j"]
    curvature: Float[Array, "j j"]


class AbstractGuide(eqx.Module):
    """A factor c(x1) that multiplies the density of the data. It depends on a few functionals of the data only."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of functionals, j."""

    @abc.abstractmethod
    def functional(self, x1: Vector) -> Float[Array, " j"]:
        """Returns the functionals u of the data."""

    @abc.abstractmethod
    def respond(self, m: Float[Array, " j"], v: Float[Array, "j j"]) -> Response:
        """Returns slope and curvature of `log E[c(u)]` in m, for u ~ N(m, v)."""

    @abc.abstractmethod
    def log_factor(self, x1: Vector) -> Scalar:
        """Returns `log c(x1)`, which is minus infinity if x1 is forbidden."""


class Linear(eqx.Module):
    """The functional `matrix @ x1`."""

    matrix: Float[Array, "j d"]

    def __call__(self, x1: Vector) -> Float[Array, " j"]:
        return self.matrix @ x1


class Within(AbstractGuide):
    """Every functional lies between its two ends, which may be infinite: intervals, half-lines, polytopes."""

    what: Functional
    low: Float[Array, " j"]
    high: Float[Array, " j"]

    def functional(self, x1: Vector) -> Float[Array, " j"]:
        return self.what(x1)

    @property
    def size(self) -> int:
        return self.low.size

    def respond(self, m: Float[Array, " j"], v: Float[Array, "j j"]) -> Response:
        def truncate(state: _Filter, row: tuple[Array, Array, Array]) -> tuple[_Filter, None]:
            unit, low, high = row
            mean, sd = unit @ state.m, jnp.sqrt(unit @ state.v @ unit)

            def slope_at(shift: Array) -> Array:
                return truncated_mean(standard(low, mean + shift, sd), standard(high, mean + shift, sd)) / sd

            slope, curvature = jax.jvp(slope_at, (jnp.zeros_like(mean),), (jnp.ones_like(mean),))
            # the variance of the truncated law is smaller and above zero, also after rounding
            curvature = jnp.clip(curvature, (1e-6 - 1.0) / sd**2, 0.0)
            return state.updated(Response(slope * unit, curvature * jnp.outer(unit, unit))), None

        rows = (jnp.eye(m.size, dtype=m.dtype), self.low, self.high)
        return jax.lax.scan(truncate, _Filter.initial(m, v), rows)[0].response

    def log_factor(self, x1: Vector) -> Scalar:
        u = self.what(x1)
        return jnp.where(jnp.all((u >= self.low) & (u <= self.high)), 0.0, -jnp.inf)


class Near(AbstractGuide):
    """Every functional equals a value up to a normal error: soft observations, and equalities with a small `sd`."""

    what: Functional
    value: Float[Array, " j"]
    sd: Float[Array, " j"]

    def functional(self, x1: Vector) -> Float[Array, " j"]:
        return self.what(x1)

    @property
    def size(self) -> int:
        return self.value.size

    def respond(self, m: Float[Array, " j"], v: Float[Array, "j j"]) -> Response:
        precision = jnp.linalg.inv(v + jnp.diag(self.sd**2))
        return Response(precision @ (self.value - m), -precision)

    def log_factor(self, x1: Vector) -> Scalar:
        return -0.5 * jnp.sum(((self.what(x1) - self.value) / self.sd) ** 2)


class Tilt(AbstractGuide):
    """Any factor `exp(log_weight(u))`. Jumps of `log_weight` do not guide, and count in the log weights only."""

    what: Functional
    log_weight: Callable[[Float[Array, " j"]], Scalar]
    count: int = eqx.field(static=True)

    @property
    def size(self) -> int:
        return self.count

    def functional(self, x1: Vector) -> Float[Array, " j"]:
        return self.what(x1)

    def respond(self, m: Float[Array, " j"], v: Float[Array, "j j"]) -> Response:
        gradient, hessian = (_finite(f(m)) for f in (jax.grad(self.log_weight), jax.hessian(self.log_weight)))
        # E[c(u)] is infinite if the factor grows faster than the Gaussian falls: such curvatures are scaled down
        root = jnp.linalg.cholesky(v + 1e-6 * jnp.diag(jnp.diagonal(v)))
        steepest = jnp.linalg.eigvalsh(root.T @ hessian @ root)[-1]
        hessian = hessian * (0.9 / jnp.maximum(steepest, 0.9))
        damping = jnp.linalg.inv(jnp.eye(m.size, dtype=m.dtype) - hessian @ v)
        return Response(damping @ gradient, damping @ hessian)

    def log_factor(self, x1: Vector) -> Scalar:
        log_factor = self.log_weight(self.what(x1))
        return jnp.where(jnp.isnan(log_factor), -jnp.inf, log_factor)


class Product(AbstractGuide):
    """The product of several guides, which respond one after the other."""

    guides: tuple[AbstractGuide, ...]

    @property
    def size(self) -> int:
        return sum(guide.size for guide in self.guides)

    def functional(self, x1: Vector) -> Float[Array, " j"]:
        return jnp.concatenate([guide.functional(x1) for guide in self.guides])

    def respond(self, m: Float[Array, " j"], v: Float[Array, "j j"]) -> Response:
        state, start = _Filter.initial(m, v), 0
        for guide in self.guides:
            select = jnp.eye(m.size, dtype=m.dtype)[start : start + guide.size]
            response = guide.respond(select @ state.m, select @ state.v @ select.T)
            state = state.updated(Response(response.slope @ select, select.T @ response.curvature @ select))
            start += guide.size
        return state.response

    def log_factor(self, x1: Vector) -> Scalar:
        return sum((guide.log_factor(x1) for guide in self.guides), jnp.zeros(()))


class _Filter(NamedTuple):
    """The m and V that remain after some factors have responded, and their joint response.

    With V_n = V B the next factor moves the mean by V_n s = V (B s), so it adds B s to the joint slope.
    """

    m: Float[Array, " j"]
    v: Float[Array, "j j"]
    b: Float[Array, "j j"]
    response: Response

    @classmethod
    def initial(cls, m: Float[Array, " j"], v: Float[Array, "j j"]) -> "_Filter":
        """Returns the filter before any factor has responded."""
        return cls(m, v, jnp.eye(m.size, dtype=m.dtype), Response(jnp.zeros_like(m), jnp.zeros_like(v)))

    def updated(self, factor: Response) -> "_Filter":
        """Returns the filter after one more factor."""
        m, v, b, (slope, curvature) = self
        h = factor.curvature
        joint = Response(slope + b @ factor.slope, curvature + b @ h @ b.T)
        return _Filter(m + v @ factor.slope, v + v @ h @ v, b + b @ h @ v, joint)


def standard(end: Array, mean: Array, sd: Array) -> Array:
    """Returns an end in standard deviations from the mean. An infinite end becomes `MAX_SDS`, without a gradient."""
    is_finite = jnp.isfinite(end)
    return jnp.where(is_finite, (jnp.where(is_finite, end, 0.0) - mean) / sd, jnp.sign(end) * MAX_SDS)


def truncated_mean(a: Array, b: Array) -> Array:
    """Returns the mean of a standard normal number between `a` and `b`; both may be infinite or large."""
    a, b = jnp.clip(a, -MAX_SDS, MAX_SDS), jnp.clip(b, -MAX_SDS, MAX_SDS)
    sign = jnp.where(a + b < 0, -1.0, 1.0)
    a, b = jnp.where(sign < 0, -b, a), jnp.where(sign < 0, -a, b)  # now b >= |a|
    width, middle = b - a, (a + b) / 2
    is_narrow = width * jnp.maximum(middle, 1.0) < NARROW_SDS
    a = jnp.maximum(a, -8.0)  # if this clips, b is above 8, and all of the mass remains
    log_ratio = (b - a) * (b + a) / 2  # log phi(a) / phi(b)
    mass = mills(a) - jnp.exp(-log_ratio) * mills(b)  # (Phi(b) - Phi(a)) / phi(a)
    mean = -jnp.expm1(-log_ratio) / jnp.where(is_narrow, 1.0, mass)
    return sign * jnp.where(is_narrow, middle * (1.0 - width**2 / 12.0), mean)


def mills(x: Array) -> Array:
    """Returns Mills' ratio `(1 - Phi(x)) / phi(x)`."""
    body, tail = jnp.minimum(x, TAIL_SDS), jnp.maximum(x, TAIL_SDS)
    fraction = tail
    for n in range(FRACTION_TERMS, 0, -1):
        fraction = tail + n / fraction  # x + 1 / (x + 2 / (x + 3 / ...))
    ratio = math.sqrt(math.pi / 2) * jnp.exp(body**2 / 2) * jax.lax.erfc(body / math.sqrt(2))
    return jnp.where(x > TAIL_SDS, 1.0 / fraction, ratio)


def _finite(x: Array) -> Array:
    """Returns `x` with zeros in place of values that are not finite."""
    return jnp.where(jnp.isfinite(x), x, 0.0)
