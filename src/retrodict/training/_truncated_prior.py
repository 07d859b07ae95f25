"""Focused rounds: the same problem with its prior restricted to where the posterior is.

With u the unconstrained parameters and R = {u : |L^-1 (u - c)| <= r} an ellipsoid that holds the first posterior,

    p_R(u) = p(u) 1[u in R] / Z,        p_R(u | x) = p(u | x) 1[u in R] / mass(x)

so inside R the posterior of an observation whose posterior lies in R is unchanged, and a model trained on simulations
from p_R needs no correction (truncated proposals: Deistler et al., 2022). What is lost is the mass outside R, which is
estimated on draws that took no part in choosing R.

Draws of p_R have a fixed cost, so that sampling cannot hang: a point of a pool that is uniform in R, chosen with weight
p(u), then STEPS random-walk Metropolis steps. The first alone has the law of p_R up to the pool's noise, of relative
size 1 / sqrt(effective size); the steps, which leave p_R as it is, forget the pool's points.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict._errors import QueryError, listed
from retrodict._types import Key, as_key
from retrodict.models import AbstractModel, model_for
from retrodict.problem import AbstractPrior, Draw, Problem
from retrodict.query import Batch, unflatten
from retrodict.transforms import supports
from retrodict.variables import Layout, Variable


DRAWS = 10_000  # of the first posterior, half to choose the region and half to measure what it cuts off
POOL = 200_000
LEAST = 200  # effective points of the pool, which the steps then forget
STEPS = 64


@dataclass(frozen=True)
class Ellipsoid:
    """All u with `|factor^-1 (u - center)| <= radius`."""

    center: Float[Array, " k"]
    factor: Float[Array, "k k"]
    radius: float

    def distance(self, u: Float[Array, "*n k"]) -> Float[Array, "*n"]:
        """Mahalanobis distances from the center."""
        return jnp.linalg.norm(jnp.linalg.solve(self.factor, (u - self.center)[..., None])[..., 0], axis=-1)

    def draw(self, key: PRNGKeyArray, n: int) -> Float[Array, "n k"]:
        """`n` points uniform inside."""
        key_direction, key_radius = jr.split(key)
        k = len(self.center)
        direction = jr.normal(key_direction, (n, k))
        direction = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
        radius = self.radius * jr.uniform(key_radius, (n, 1)) ** (1.0 / k)
        return self.center + radius * direction @ self.factor.T

    @property
    def log_volume(self) -> float:
        k = len(self.center)
        ball = k / 2 * math.log(math.pi) - math.lgamma(k / 2 + 1) + k * math.log(self.radius)
        return ball + float(jnp.linalg.slogdet(self.factor)[1])


class TruncatedPrior(AbstractPrior):
    """A prior restricted to an ellipsoid in unconstrained space.

    Attributes:
        cut_off: estimated posterior mass outside the region.
        prior_mass: estimated prior mass inside it.
        effective: how many equally weighted points the pool is worth.

    Raises:
        QueryError: the prior is concentrated on too little of the region for the pool.
    """

    def __init__(self, base: AbstractPrior, region: Ellipsoid, cut_off: float, *, key: PRNGKeyArray) -> None:
        self.base, self.region, self.cut_off = base, region, cut_off
        self.pool = region.draw(key, POOL)
        density = np.asarray(jax.jit(jax.vmap(self._log_density))(self.pool), np.float64)
        weights = np.exp(density - density.max())
        self.log_mass = float(np.log(weights.mean()) + density.max() + region.log_volume)
        self.effective = float(weights.sum() ** 2 / np.sum(weights**2))
        self.cumulative = jnp.asarray(np.cumsum(weights) / weights.sum(), jnp.float32)
        if self.effective < LEAST:
            raise QueryError(
                f"the prior fills so little of the region that {POOL} points in it are worth {self.effective:.0f} "
                f"(at least {LEAST}): the data say too little about some parameter; ask with a smaller `mass`"
            )

    @property
    def prior_mass(self) -> float:
        return math.exp(self.log_mass)

    @property
    def variables(self) -> tuple[Variable, ...]:
        return self.base.variables

    @functools.cached_property
    def layout(self) -> Layout:
        """The parameters alone."""
        return Layout(self.variables)

    def draw(self, key: PRNGKeyArray) -> Draw:
        key_start, key_moves, key_accept = jr.split(key, 3)
        k = len(self.region.center)
        start = self.pool[jnp.searchsorted(self.cumulative, jr.uniform(key_start)).clip(0, POOL - 1)]
        # a uniform ball of radius r has standard deviation r / sqrt(k + 2) along each axis
        size = 2.4 / math.sqrt(k) * self.region.radius / math.sqrt(k + 2)
        moves = size * jr.normal(key_moves, (STEPS, k)) @ self.region.factor.T
        levels = jnp.log(jr.uniform(key_accept, (STEPS,), minval=1e-38))

        def step(at: tuple[Array, Array], row: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            (u, density), (move, level) = at, row
            there = self._log_density(u + move)
            accept = (there - density > level) & (self.region.distance(u + move) <= self.region.radius)
            return (jnp.where(accept, u + move, u), jnp.where(accept, there, density)), None

        (u, _), _ = jax.lax.scan(step, (start, self._log_density(start)), (moves, levels))
        return self._named(u)

    def log_prob(self, values: Mapping[str, Array]) -> Array:
        flat = jnp.concatenate([jnp.ravel(values[v.name]) for v in self.layout.variables])
        inside = self.region.distance(supports.unconstrain(flat, *self.layout.ends)) <= self.region.radius
        return jnp.where(inside, self.base.log_prob(values) - self.log_mass, -jnp.inf)

    def _named(self, u: Float[Array, " k"]) -> Draw:
        return unflatten(self.layout, supports.constrain(u, *self.layout.ends), self.layout.names)

    def _log_density(self, u: Float[Array, " k"]) -> Array:
        return self.base.log_prob(self._named(u)) + jnp.sum(supports.log_slope(u, *self.layout.ends))


def truncate(
    problem: Problem,
    model: AbstractModel,
    *,
    given: Mapping[str, Any],
    mass: float = 0.999,
    key: Key = 0,
) -> Problem:
    """The same problem with its prior restricted to an ellipsoid that holds `mass` of the model's posterior.

    The new problem's prior tells `.cut_off` (posterior mass outside, estimated) and `.prior_mass` (prior mass inside).

    Raises:
        QueryError: `mass` is not in (0, 1), or the data say too little about the parameters to be worth it.
        DataError: a wrong shape or type in `given`.
    """
    if not 0.0 < mass < 1.0:
        raise QueryError(f"`mass` must lie between 0 and 1, got {mass}")
    if isinstance(given, Batch):
        raise QueryError("a prior is truncated for one observation, not for a Batch of them")
    model_for("truncate", model)
    if model.of_sites:
        raise QueryError("a prior is truncated by the posterior of one site, not of many; use `model.site`")
    parameters = Layout(problem.prior.variables)
    if parameters.functions:
        raise QueryError(
            f"an ellipsoid holds numbers, and {listed(parameters.functions)} is a function; truncate a problem whose "
            "parameters are all numbers"
        )
    key_draws, key_pilot = jr.split(as_key(key))
    draws = model.sample(DRAWS, given=given, of=parameters.names, key=key_draws)
    flat = np.concatenate([draws[v.name].reshape(DRAWS, v.size) for v in parameters.variables], axis=1)
    u = np.asarray(supports.unconstrain(flat, *parameters.ends), np.float64)
    chosen, held_out = u[::2], u[1::2]
    center, factor = chosen.mean(axis=0), np.linalg.cholesky(np.cov(chosen.T).reshape(len(u.T), -1))
    shape = Ellipsoid(jnp.asarray(center, jnp.float32), jnp.asarray(factor, jnp.float32), 1.0)
    radius = float(np.quantile(np.asarray(shape.distance(jnp.asarray(chosen, jnp.float32))), mass))
    region = Ellipsoid(shape.center, shape.factor, radius)
    cut_off = float(np.mean(np.asarray(shape.distance(jnp.asarray(held_out, jnp.float32))) > radius))
    prior = TruncatedPrior(problem.prior, region, cut_off, key=key_pilot)
    return Problem(prior, problem.simulator, supports=problem.supports)
