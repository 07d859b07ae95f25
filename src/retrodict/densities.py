"""Log densities along a flow, from the change of volume.

If dx/dt = v(x, t) carries noise x(0) ~ p0 to data x(1), the density moves by the divergence of v (Chen et al., 2018):

    log p1(x(1)) = log p0(x(0)) - integral over t from 0 to 1 of div v(x(t), t) dt

The divergence is the trace of A = dv/dx within the k directions that can move. There are three estimators of it:

    Exact            k forward-mode derivatives that share one evaluation of v
    Hutchinson       E[e^T A e] = tr A for independent e_i of mean 0 and variance 1 (Hutchinson, 1990)
    HutchPlusPlus    tr A = tr(Q^T A Q) + tr((I - QQ^T) A (I - QQ^T)): the first term exactly, with Q a basis of
                     A S for random S, which spans most of A; the second by probes (Meyer et al., 2021)

Probes are drawn once and stay the same along the whole flow. Along the exact flow every probe then gives an unbiased
estimate of the log density, and the spread of the estimates gives a standard error.
"""

import abc
from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict.paths import Flow, Path
from retrodict.solvers import AbstractSolver


Vector: TypeAlias = Float[Array, " d"]
Linear: TypeAlias = Callable[[Float[Array, " k"]], Float[Array, " k"]]  # multiplication with A
Law: TypeAlias = Callable[[PRNGKeyArray, tuple[int, ...]], Array]


def rademacher(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    """Draws random signs, +1 or -1. With signs the diagonal of A adds no variance."""
    return jr.rademacher(key, shape, float)


def gaussian(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    """Draws standard normal probes."""
    return jr.normal(key, shape)


class AbstractTrace(eqx.Module):
    """An estimator of the trace of a linear map."""

    @abc.abstractmethod
    def __call__(self, multiply: Linear, k: int, key: PRNGKeyArray) -> Float[Array, " m"]:
        """Returns m estimates `(m,)` of the trace of a `(k, k)` matrix; their mean is the result."""

    def estimates(self, k: int) -> int:
        """Returns the number m of estimates."""
        return 1

    def error(self, values: Float[ArrayLike, "n m"], k: int) -> Float[Array, " n"]:
        """Returns the standard error of the mean of m estimates, or of m integrals of them along a flow."""
        return jnp.zeros(jnp.shape(values)[0])


class Exact(AbstractTrace):
    """The exact trace, from all k directions."""

    def __call__(self, multiply: Linear, k: int, key: PRNGKeyArray) -> Float[Array, " m"]:
        return jnp.trace(jax.vmap(multiply)(jnp.eye(k)))[None]


class Hutchinson(AbstractTrace):
    """The estimator of Hutchinson (1990), from `probes` random directions with independent elements."""

    probes: int = eqx.field(static=True, default=16)
    law: Law = eqx.field(static=True, default=rademacher)

    def __check_init__(self) -> None:
        _at_least_two(self.probes)

    def __call__(self, multiply: Linear, k: int, key: PRNGKeyArray) -> Float[Array, " m"]:
        e = self.law(key, (self.probes, k))
        return jnp.sum(e * jax.vmap(multiply)(e), axis=1)

    def estimates(self, k: int) -> int:
        return self.probes

    def error(self, values: Float[ArrayLike, "n m"], k: int) -> Float[Array, " n"]:
        return jnp.std(values, axis=1, ddof=1) / jnp.sqrt(self.probes)


class HutchPlusPlus(AbstractTrace):
    """The estimator of Meyer et al. (2021): exact in `rank` directions, `probes` orthonormal ones for the remainder.

    The `rank` directions hold most of the trace. If `rank + probes >= k`, all k directions are taken: the exact trace.
    """

    rank: int = eqx.field(static=True, default=8)
    probes: int = eqx.field(static=True, default=8)

    def __check_init__(self) -> None:
        _at_least_two(self.probes)

    def __call__(self, multiply: Linear, k: int, key: PRNGKeyArray) -> Float[Array, " m"]:
        if self._is_exact(k):
            return Exact()(multiply, k, key)
        key_sketch, key_probes = jr.split(key)
        sketch = jax.vmap(multiply)(jr.normal(key_sketch, (self.rank, k)))
        basis, _ = jnp.linalg.qr(jnp.concatenate([sketch, jr.normal(key_probes, (self.probes, k))]).T)
        terms = jnp.sum(basis * jax.vmap(multiply, in_axes=1, out_axes=1)(basis), axis=0)
        # e^T A e of a random unit vector in the other k - rank directions has the mean trace / (k - rank)
        return jnp.sum(terms[: self.rank]) + (k - self.rank) * terms[self.rank :]

    def estimates(self, k: int) -> int:
        return 1 if self._is_exact(k) else self.probes

    def error(self, values: Float[ArrayLike, "n m"], k: int) -> Float[Array, " n"]:
        if self._is_exact(k):
            return jnp.zeros(jnp.shape(values)[0])
        # orthonormal probes are drawn without replacement: all k - rank of them would leave no error
        correction = 1.0 - self.probes / (k - self.rank)
        return jnp.std(values, axis=1, ddof=1) * jnp.sqrt(correction / self.probes)

    def _is_exact(self, k: int) -> bool:
        return self.rank + self.probes >= k


def divergence(
    field: Callable[[Vector], Vector],
    x: Vector,
    directions: Float[Array, "k d"],
    trace: AbstractTrace,
    key: PRNGKeyArray,
) -> tuple[Vector, Float[Array, " m"]]:
    """Returns the field at `x` and estimates of its divergence within the span of k unit vectors `directions`."""
    value, derivative = jax.linearize(field, x)
    return value, trace(lambda e: directions @ derivative(e @ directions), len(directions), key)


class _WithDivergence(eqx.Module):
    """A flow with a second component whose velocity is the divergence of the flow."""

    flow: Flow
    directions: Float[Array, "k d"]
    trace: AbstractTrace
    key: PRNGKeyArray

    @property
    def path(self) -> Path:
        return self.flow.path

    def __call__(self, state: tuple[Vector, Array], t: Array) -> tuple[Vector, Array]:
        return divergence(lambda x: self.flow(x, t), state[0], self.directions, self.trace, self.key)


def pull_back(
    flow: Flow,
    x1: Vector,
    directions: Float[Array, "k d"],
    solver: AbstractSolver,
    trace: AbstractTrace,
    key: PRNGKeyArray,
) -> tuple[Vector, Float[Array, " m"]]:
    """Integrates data `x1` back to the start of the path.

    The density does not depend on the schedule, so that every path is integrated along straight lines.

    Returns:
        The point x at the start, and m estimates `(m,)` of `log p1(x1) - log p0(x)`.
    """
    straight = flow.straightened()
    at_start, at_end = flow.path.times_larger(straight.path)
    start, end = straight.path.span
    gain = jnp.zeros(trace.estimates(len(directions)))
    # backwards in time the second component becomes minus the integral
    x0, gain = solver(_WithDivergence(straight, directions, trace, key), (x1 / at_end, gain), end, start)
    return at_start * x0, gain + len(directions) * jnp.log(at_start / at_end)


def check(solver: AbstractSolver) -> None:
    """Checks that a solver can integrate a log density.

    Raises:
        QueryError: the solver draws noise, or needs more than a velocity.
    """
    if not solver.follows_velocity:
        raise QueryError(
            f"{type(solver).__name__} does not follow the velocity alone, so it has no density; "
            "take the density with Midpoint, Heun, RK4, AdamsBashforth, Euler, Dopri5 or Tsit5"
        )


def _at_least_two(probes: int) -> None:
    if probes < 2:
        raise QueryError(f"a standard error needs at least two probes, got probes={probes}")
