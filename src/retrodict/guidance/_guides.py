"""Guides: what must hold of the data, as factors c(u) of a few functionals u = functional(x1).

While noise is left, u is known up to a Gaussian, u ~ N(m, V). A guide *responds* with

    slope      s = d/dm   log E[c(u)]              by which the mean of u moves by V s
    curvature  H = d2/dm2 log E[c(u)]              by which its covariance becomes V + V H V

in closed form, one row of this table each:

    Within     c = 1[low <= u_j <= high] for all j     s = (phi(a) - phi(b)) / (Phi(b) - Phi(a)) / sd,  one j at a time
    Near       c = N(value; u, sd^2)                   s = (V + sd^2)^-1 (value - m)
    Tilt       c = exp f(u), any differentiable f      s = (I - F V)^-1 f'(m),  F = f''(m);  exact for quadratic f

(`a`, `b` are the ends in standard deviations from m.) Several factors respond one after the other, each to what the
ones before it left of m and V: exact as long as all are Gaussian, and for intervals the assumed-density filter, which
takes the truncated law for a Gaussian with its mean and variance.
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

FAR = 1e3  # standard deviations: nothing is further away, so that single precision suffices
NARROW = 0.02  # standard deviations: below, an interval has a density that is linear in it
TAIL, TERMS = 5.0, 6  # beyond, a continued fraction is more precise than the ratio of two small numbers


class Response(NamedTuple):
    """First and second derivative of `log E[c(u)]` with respect to the mean of u."""

    slope: Float[Array, " j"]
    curvature: Float[Array, "j j"]


class AbstractGuide(eqx.Module):
    """A factor c(x1) by which the density of the data is multiplied; of the data's functionals only."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of functionals, j."""

    @abc.abstractmethod
    def functional(self, x1: Vector) -> Float[Array, " j"]:
        """What of the data the factor looks at."""

    @abc.abstractmethod
    def respond(self, m: Float[Array, " j"], v: Float[Array, "j j"]) -> Response:
        """How `log E[c(u)]` changes with m, u ~ N(m, v)."""

    @abc.abstractmethod
    def log_factor(self, x1: Vector) -> Scalar:
        """`log c(x1)`; minus infinity where x1 is forbidden."""


class Linear(eqx.Module):
    """The functional `matrix @ x1`."""

    matrix: Float[Array, "j d"]

    def __call__(self, x1: Vector) -> Float[Array, " j"]:
        return self.matrix @ x1


class Within(AbstractGuide):
    """Every functional between its two ends, each of which may be infinite: intervals, half-lines, polytopes."""

    what: Functional
    low: Float[Array, " j"]
    high: Float[Array, " j"]

    def functional(self, x1: Vector) -> Float[Array, " j"]:
        return self.what(x1)

    @property
    def size(self) -> int:
        return self.low.size

    def respond(self, m: Float[Array, " j"], v: Float[Array, "j j"]) -> Response:
        def one(state: _Filter, row: tuple[Array, Array, Array]) -> tuple[_Filter, None]:
            unit, low, high = row
            mean, sd = unit @ state.m, jnp.sqrt(unit @ state.v @ unit)

            def pull(shift: Array) -> Array:
                return truncated_mean(standard(low, mean + shift, sd), standard(high, mean + shift, sd)) / sd

            slope, bend = jax.jvp(pull, (jnp.zeros_like(mean),), (jnp.ones_like(mean),))
            # the truncated law is narrower and not a point, whatever rounding says
            bend = jnp.clip(bend, (1e-6 - 1.0) / sd**2, 0.0)
            return state.told(Response(slope * unit, bend * jnp.outer(unit, unit))), None

        rows = (jnp.eye(m.size, dtype=m.dtype), self.low, self.high)
        return jax.lax.scan(one, _Filter.fresh(m, v), rows)[0].response

    def log_factor(self, x1: Vector) -> Scalar:
        u = self.what(x1)
        return jnp.where(jnp.all((u >= self.low) & (u <= self.high)), 0.0, -jnp.inf)


class Near(AbstractGuide):
    """Every functional near a value, up to a normal error: soft observations, and equalities with a small `sd`."""

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
    """Any factor `exp(log_weight(u))`; where it is not differentiable it counts in the weights only."""

    what: Functional
    log_weight: Callable[[Float[Array, " j"]], Scalar]
    count: int = eqx.field(static=True)

    @property
    def size(self) -> int:
        return self.count

    def functional(self, x1: Vector) -> Float[Array, " j"]:
        return self.what(x1)

    def respond(self, m: Float[Array, " j"], v: Float[Array, "j j"]) -> Response:
        slope, bend = (_finite(part(m)) for part in (jax.grad(self.log_weight), jax.hessian(self.log_weight)))
        # a factor that grows faster than the Gaussian falls has no mean: such curvatures are scaled down
        half = jnp.linalg.cholesky(v + 1e-6 * jnp.diag(jnp.diagonal(v)))
        steepest = jnp.linalg.eigvalsh(half.T @ bend @ half)[-1]
        bend = bend * (0.9 / jnp.maximum(steepest, 0.9))
        damped = jnp.linalg.inv(jnp.eye(m.size, dtype=m.dtype) - bend @ v)
        return Response(damped @ slope, damped @ bend)

    def log_factor(self, x1: Vector) -> Scalar:
        found = self.log_weight(self.what(x1))
        return jnp.where(jnp.isnan(found), -jnp.inf, found)


class Product(AbstractGuide):
    """Several guides at once, one responding after the other."""

    guides: tuple[AbstractGuide, ...]

    @property
    def size(self) -> int:
        return sum(guide.size for guide in self.guides)

    def functional(self, x1: Vector) -> Float[Array, " j"]:
        return jnp.concatenate([guide.functional(x1) for guide in self.guides])

    def respond(self, m: Float[Array, " j"], v: Float[Array, "j j"]) -> Response:
        state, start = _Filter.fresh(m, v), 0
        for guide in self.guides:
            part = jnp.eye(m.size, dtype=m.dtype)[start : start + guide.size]
            own = guide.respond(part @ state.m, part @ state.v @ part.T)
            state = state.told(Response(own.slope @ part, part.T @ own.curvature @ part))
            start += guide.size
        return state.response

    def log_factor(self, x1: Vector) -> Scalar:
        return sum((guide.log_factor(x1) for guide in self.guides), jnp.zeros(()))


class _Filter(NamedTuple):
    """What factors that have responded leave of m and V, and their response as one.

    With V_n = V B: the next factor moves the mean by V_n s = V (B s), so that B s is what it adds to the slope.
    """

    m: Float[Array, " j"]
    v: Float[Array, "j j"]
    b: Float[Array, "j j"]
    response: Response

    @classmethod
    def fresh(cls, m: Float[Array, " j"], v: Float[Array, "j j"]) -> "_Filter":
        return cls(m, v, jnp.eye(m.size, dtype=m.dtype), Response(jnp.zeros_like(m), jnp.zeros_like(v)))

    def told(self, factor: Response) -> "_Filter":
        m, v, b, (slope, curvature) = self
        bend = factor.curvature
        both = Response(slope + b @ factor.slope, curvature + b @ bend @ b.T)
        return _Filter(m + v @ factor.slope, v + v @ bend @ v, b + b @ bend @ v, both)


def standard(end: Array, mean: Array, sd: Array) -> Array:
    """An end in standard deviations from the mean; infinite ones become very far, and cannot be differentiated."""
    finite = jnp.isfinite(end)
    return jnp.where(finite, (jnp.where(finite, end, 0.0) - mean) / sd, jnp.sign(end) * FAR)


def truncated_mean(a: Array, b: Array) -> Array:
    """The mean of a standard normal number between `a` and `b`, either of which may be infinite or far away."""
    a, b = jnp.clip(a, -FAR, FAR), jnp.clip(b, -FAR, FAR)
    sign = jnp.where(a + b < 0, -1.0, 1.0)
    a, b = jnp.where(sign < 0, -b, a), jnp.where(sign < 0, -a, b)  # now b >= |a|
    width, middle = b - a, (a + b) / 2
    narrow = width * jnp.maximum(middle, 1.0) < NARROW
    a = jnp.maximum(a, -8.0)  # with b above 8 nothing is cut off
    fall = (b - a) * (b + a) / 2  # log phi(a) / phi(b)
    mass = mills(a) - jnp.exp(-fall) * mills(b)  # (Phi(b) - Phi(a)) / phi(a)
    mean = -jnp.expm1(-fall) / jnp.where(narrow, 1.0, mass)
    return sign * jnp.where(narrow, middle * (1.0 - width**2 / 12.0), mean)


def mills(x: Array) -> Array:
    """Mills' ratio `(1 - Phi(x)) / phi(x)`."""
    near, far = jnp.minimum(x, TAIL), jnp.maximum(x, TAIL)
    found = far
    for n in range(TERMS, 0, -1):
        found = far + n / found  # x + 1 / (x + 2 / (x + 3 / ...))
    return jnp.where(
        x > TAIL, 1.0 / found, math.sqrt(math.pi / 2) * jnp.exp(near**2 / 2) * jax.lax.erfc(near / math.sqrt(2))
    )


def _finite(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0.0)
