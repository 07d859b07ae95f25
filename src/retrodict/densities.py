"""Densities: how volume changes along a flow.

If dx/dt = v(x, t) carries noise x(0) ~ p0 to data x(1), the density moves by the divergence of v (Chen et al., 2018):

    log p1(x(1)) = log p0(x(0)) - integral over t from 0 to 1 of div v(x(t), t) dt

The divergence is the trace of A = dv/dx within the k directions that can move. A *trace* says how it is found:

    Exact            k forward-mode derivatives that share one evaluation of v
    Hutchinson       E[e^T A e] = tr A for independent e_i of mean 0 and variance 1 (Hutchinson, 1990)
    HutchPlusPlus    tr A = tr(Q^T A Q) + tr((I - QQ^T) A (I - QQ^T)): the first part exactly, with Q a basis of
                     A S for random S, which holds most of A; the second by probes (Meyer et al., 2021)

Probes are drawn once and kept along the whole flow, so that every probe gives an unbiased log density of its own along
the exact flow, and their spread a standard error.
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
    """Signs, +1 or -1: the diagonal of A adds no variance."""
    return jr.rademacher(key, shape, float)


def gaussian(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    """Standard normal probes."""
    return jr.normal(key, shape)


class AbstractTrace(eqx.Module):
    """How the trace of a linear map is found."""

    @abc.abstractmethod
    def __call__(self, multiply: Linear, k: int, key: PRNGKeyArray) -> Float[Array, " m"]:
        """Estimates `(m,)` of the trace of a `(k, k)` matrix, whose mean is the answer."""

    def estimates(self, k: int) -> int:
        """How many estimates come back."""
        return 1

    def error(self, found: Float[ArrayLike, "n m"], k: int) -> Float[Array, " n"]:
        """The standard error of the mean of estimates (or of what was integrated of them)."""
        return jnp.zeros(jnp.shape(found)[0])


class Exact(AbstractTrace):
    """All k directions, no error."""

    def __call__(self, multiply: Linear, k: int, key: PRNGKeyArray) -> Float[Array, " m"]:
        return jnp.trace(jax.vmap(multiply)(jnp.eye(k)))[None]


class Hutchinson(AbstractTrace):
    """`probes` random directions of independent elements."""

    probes: int = eqx.field(static=True, default=16)
    law: Law = eqx.field(static=True, default=rademacher)

    def __check_init__(self) -> None:
        _at_least_two(self.probes)

    def __call__(self, multiply: Linear, k: int, key: PRNGKeyArray) -> Float[Array, " m"]:
        e = self.law(key, (self.probes, k))
        return jnp.sum(e * jax.vmap(multiply)(e), axis=1)

    def estimates(self, k: int) -> int:
        return self.probes

    def error(self, found: Float[ArrayLike, "n m"], k: int) -> Float[Array, " n"]:
        return jnp.std(found, axis=1, ddof=1) / jnp.sqrt(self.probes)


class HutchPlusPlus(AbstractTrace):
    """`rank` directions that hold most of the trace, exactly, and `probes` orthonormal ones for the rest.

    Where `rank + probes` reaches k, all k directions are taken and nothing is left to chance.
    """

    rank: int = eqx.field(static=True, default=8)
    probes: int = eqx.field(static=True, default=8)

    def __check_init__(self) -> None:
        _at_least_two(self.probes)

    def __call__(self, multiply: Linear, k: int, key: PRNGKeyArray) -> Float[Array, " m"]:
        if self._all(k):
            return Exact()(multiply, k, key)
        key_sketch, key_probes = jr.split(key)
        sketch = jax.vmap(multiply)(jr.normal(key_sketch, (self.rank, k)))
        basis, _ = jnp.linalg.qr(jnp.concatenate([sketch, jr.normal(key_probes, (self.probes, k))]).T)
        found = jnp.sum(basis * jax.vmap(multiply, in_axes=1, out_axes=1)(basis), axis=0)
        # a unit vector drawn in the k - rank directions that are left has the mean of their trace
        return jnp.sum(found[: self.rank]) + (k - self.rank) * found[self.rank :]

    def estimates(self, k: int) -> int:
        return 1 if self._all(k) else self.probes

    def error(self, found: Float[ArrayLike, "n m"], k: int) -> Float[Array, " n"]:
        if self._all(k):
            return jnp.zeros(jnp.shape(found)[0])
        # orthonormal probes are drawn without replacement: all k - rank of them would leave no error
        left = 1.0 - self.probes / (k - self.rank)
        return jnp.std(found, axis=1, ddof=1) * jnp.sqrt(left / self.probes)

    def _all(self, k: int) -> bool:
        return self.rank + self.probes >= k


def divergence(
    field: Callable[[Vector], Vector],
    x: Vector,
    directions: Float[Array, "k d"],
    trace: AbstractTrace,
    key: PRNGKeyArray,
) -> tuple[Vector, Float[Array, " m"]]:
    """The field at `x` and estimates of its divergence within the span of `directions`, unit vectors `(k, d)`."""
    value, push = jax.linearize(field, x)
    return value, trace(lambda e: directions @ push(e @ directions), len(directions), key)


class _WithDivergence(eqx.Module):
    """A flow that collects its own divergence; it stands on the path that it came from."""

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
    """Carries data `x1` back to the path's beginning; returns where it came from, there, and estimates of
    `log p1(x1) - log p0(there)`.

    The density does not depend on the schedule, so that every path is followed along straight lines.
    """
    straight = flow.straightened()
    at_start, at_end = flow.path.times_larger(straight.path)
    start, end = straight.path.span
    gain = jnp.zeros(trace.estimates(len(directions)))
    # run from the data's end, the second component collects minus the integral
    there, gain = solver(_WithDivergence(straight, directions, trace, key), (x1 / at_end, gain), end, start)
    return at_start * there, gain + len(directions) * jnp.log(at_start / at_end)


def check(solver: AbstractSolver) -> None:
    """Refuses a solver that cannot carry a density.

    Raises:
        QueryError: the solver draws noise, or follows more than a velocity.
    """
    if not solver.follows_velocity:
        raise QueryError(
            f"{type(solver).__name__} does not follow the velocity alone, so no density can ride along; "
            "take the density with Midpoint, Heun, RK4, AdamsBashforth, Euler, Dopri5 or Tsit5"
        )


def _at_least_two(probes: int) -> None:
    if probes < 2:
        raise QueryError(f"a standard error needs at least two probes, got probes={probes}")
