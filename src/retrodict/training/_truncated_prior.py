"""Focused rounds: the same problem with its prior truncated to the region of the posterior.

With u the unconstrained parameters and R = {u : |L^-1 (u - c)| <= r} an ellipsoid that holds the first posterior,

    p_R(u) = p(u) 1[u in R] / Z,        p_R(u | x) = p(u | x) 1[u in R] / mass(x)

so inside R the posterior of an observation whose posterior lies in R is unchanged, and a model trained on simulations
from p_R needs no correction (truncated proposals: Deistler et al., 2022). The mass outside R is lost; it is estimated
on draws that took no part in the choice of R.

Draws of p_R have a fixed cost, so that sampling cannot hang. A draw starts at a point of a pool that is uniform in R,
chosen with weight p(u), and takes `METROPOLIS_STEPS` random-walk steps. The starting point alone has the law of p_R up
to the noise of the pool, of relative size 1 / sqrt(effective size). The steps leave p_R invariant, and make draws
differ that start at the same point.
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
from retrodict._runtime.precision import in_single_precision
from retrodict._types import Key, as_key
from retrodict.models import AbstractModel, model_for
from retrodict.problem import AbstractPrior, Draw, Problem
from retrodict.query import Batch, unflatten
from retrodict.transforms import supports
from retrodict.variables import Layout, Variable


POSTERIOR_DRAWS = 10_000  # half of them to choose the region, half to measure the mass outside
POOL_POINTS = 200_000
MIN_EFFECTIVE_POINTS = 200  # of the pool
METROPOLIS_STEPS = 64


@dataclass(frozen=True)
class Ellipsoid:
    """The ellipsoid of all u with `|factor^-1 (u - center)| <= radius`."""

    center: Float[Array, " k"]
    factor: Float[Array, "k k"]
    radius: float

    def distance(self, u: Float[Array, "*n k"]) -> Float[Array, "*n"]:
        """Returns the Mahalanobis distances of points from the center."""
        return jnp.linalg.norm(jnp.linalg.solve(self.factor, (u - self.center)[..., None])[..., 0], axis=-1)

    def draw(self, key: PRNGKeyArray, n: int) -> Float[Array, "n k"]:
        """Draws `n` points, uniform inside."""
        key_direction, key_radius = jr.split(key)
        k = len(self.center)
        direction = jr.normal(key_direction, (n, k))
        direction = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
        radius = self.radius * jr.uniform(key_radius, (n, 1)) ** (1.0 / k)
        return self.center + radius * direction @ self.factor.T

    @property
    def log_volume(self) -> float:
        """The log of the volume."""
        k = len(self.center)
        log_ball = k / 2 * math.log(math.pi) - math.lgamma(k / 2 + 1) + k * math.log(self.radius)
        return log_ball + float(jnp.linalg.slogdet(self.factor)[1])


class TruncatedPrior(AbstractPrior):
    """A prior restricted to an ellipsoid in unconstrained space.

    Attributes:
        cut_off: estimated posterior mass outside the region.
        prior_mass: estimated prior mass inside it.
        effective: the number of equally weighted points that the pool is worth.

    Raises:
        QueryError: the prior is concentrated on too little of the region for the pool.
    """

    def __init__(self, base: AbstractPrior, region: Ellipsoid, cut_off: float, *, key: PRNGKeyArray) -> None:
        self.base, self.region, self.cut_off = base, region, cut_off
        self.pool = region.draw(key, POOL_POINTS)
        log_density = np.asarray(jax.jit(jax.vmap(self._log_density))(self.pool), np.float64)
        weights = np.exp(log_density - log_density.max())
        self.log_mass = float(np.log(weights.mean()) + log_density.max() + region.log_volume)
        self.effective = float(weights.sum() ** 2 / np.sum(weights**2))
        self.cumulative = jnp.asarray(np.cumsum(weights) / weights.sum(), jnp.float32)
        if self.effective < MIN_EFFECTIVE_POINTS:
            raise QueryError(
                f"the prior fills so little of the region that {POOL_POINTS} points in it are worth "
                f"{self.effective:.0f} (at least {MIN_EFFECTIVE_POINTS}): the data say too little about some "
                "parameter; ask with a smaller `mass`"
            )

    @property
    def prior_mass(self) -> float:
        return math.exp(self.log_mass)

    @property
    def variables(self) -> tuple[Variable, ...]:
        return self.base.variables

    @functools.cached_property
    def layout(self) -> Layout:
        """The layout of the parameters alone."""
        return Layout(self.variables)

    def draw(self, key: PRNGKeyArray) -> Draw:
        key_start, key_moves, key_accept = jr.split(key, 3)
        k = len(self.region.center)
        start = self.pool[jnp.searchsorted(self.cumulative, jr.uniform(key_start)).clip(0, POOL_POINTS - 1)]
        # a uniform ball of radius r has standard deviation r / sqrt(k + 2) along each axis
        size = 2.4 / math.sqrt(k) * self.region.radius / math.sqrt(k + 2)
        moves = size * jr.normal(key_moves, (METROPOLIS_STEPS, k)) @ self.region.factor.T
        levels = jnp.log(jr.uniform(key_accept, (METROPOLIS_STEPS,), minval=1e-38))

        def step(state: tuple[Array, Array], row: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            (u, log_density), (move, level) = state, row
            proposed = self._log_density(u + move)
            accept = (proposed - log_density > level) & (self.region.distance(u + move) <= self.region.radius)
            return (jnp.where(accept, u + move, u), jnp.where(accept, proposed, log_density)), None

        (u, _), _ = jax.lax.scan(step, (start, self._log_density(start)), (moves, levels))
        return self._named(u)

    def log_prob(self, values: Mapping[str, Array]) -> Array:
        flat = jnp.concatenate([jnp.ravel(values[v.name]) for v in self.layout.variables])
        distance = self.region.distance(supports.unconstrain(flat, *self.layout.ends))
        return jnp.where(distance <= self.region.radius, self.base.log_prob(values) - self.log_mass, -jnp.inf)

    def _named(self, u: Float[Array, " k"]) -> Draw:
        return unflatten(self.layout, supports.constrain(u, *self.layout.ends), self.layout.names)

    def _log_density(self, u: Float[Array, " k"]) -> Array:
        return self.base.log_prob(self._named(u)) + jnp.sum(supports.log_slope(u, *self.layout.ends))


@in_single_precision
def truncate(
    problem: Problem,
    model: AbstractModel,
    *,
    given: Mapping[str, Any],
    mass: float = 0.999,
    key: Key = 0,
) -> Problem:
    """Returns the same problem with its prior truncated to an ellipsoid that holds `mass` of a model's posterior.

    The prior of the new problem has `.cut_off`, the estimated posterior mass outside, and `.prior_mass`, the estimated
    prior mass inside.

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
            f"an ellipsoid is a region of numbers, and {listed(parameters.functions)} is a function; "
            "truncate a problem whose parameters are all numbers"
        )
    key_draws, key_pilot = jr.split(as_key(key))
    draws = model.sample(POSTERIOR_DRAWS, given=given, of=parameters.names, key=key_draws)
    flat = np.concatenate([draws[v.name].reshape(POSTERIOR_DRAWS, v.size) for v in parameters.variables], axis=1)
    u = np.asarray(supports.unconstrain(flat, *parameters.ends), np.float64)
    fitted, held_out = u[::2], u[1::2]
    center, factor = fitted.mean(axis=0), np.linalg.cholesky(np.cov(fitted.T).reshape(len(u.T), -1))
    shape = Ellipsoid(jnp.asarray(center, jnp.float32), jnp.asarray(factor, jnp.float32), 1.0)
    radius = float(np.quantile(np.asarray(shape.distance(jnp.asarray(fitted, jnp.float32))), mass))
    region = Ellipsoid(shape.center, shape.factor, radius)
    cut_off = float(np.mean(np.asarray(shape.distance(jnp.asarray(held_out, jnp.float32))) > radius))
    prior = TruncatedPrior(problem.prior, region, cut_off, key=key_pilot)
    return Problem(prior, problem.simulator, supports=problem.supports)
