"""Focused rounds: the same problem with its prior truncated to the region of the posterior.

With u the unconstrained parameters and R = {u : |L^-1 (u - c)| <= r} an ellipsoid that holds the first posterior,

    p_R(u) = p(u) 1[u in R] / Z,        p_R(u | x) = p(u | x) 1[u in R] / mass(x)

so inside R the posterior of an observation whose posterior lies in R is unchanged, and a model trained on simulations
from p_R needs no correction (truncated proposals: Deistler et al., 2022). The mass outside R is lost; it is estimated
on draws that took no part in the choice of R.

A first posterior that is too narrow would cut off more than it knows. So R is `margin` times as wide as the draws say.
A check tells the margin: if all draws are q times as wide as they should be, the coverage of central intervals exceeds
their size by

    excess = 2 / pi arctan(q) - 1 / 2        in the mean over sizes, for Gaussians;        margin = 1 / q

The variables of the next problem end where R does, so that a model of it cannot leave the box around R.

Draws of p_R have a fixed cost, so that sampling cannot hang. A draw starts at a point of a pool that is uniform in R,
chosen with weight p(u), and takes `METROPOLIS_STEPS` random-walk steps. The starting point alone has the law of p_R up
to the noise of the pool, of relative size 1 / sqrt(effective size). The steps leave p_R invariant, and make draws
differ that start at the same point.
"""

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from retrodict.models._doubts import FAR_APART
from retrodict.problem import AbstractPrior, Draw, Problem
from retrodict.query import Batch, Shares, distance, unflatten
from retrodict.transforms import supports
from retrodict.variables import Layout, Variable


POSTERIOR_DRAWS = 10_000  # half of them to choose the region, half to measure the mass outside
POOL_POINTS = 200_000
MIN_EFFECTIVE_POINTS = 200  # of the pool
UNCHECKED_MARGIN = 2.0  # first posteriors from few simulations are up to half as wide as they should be
MARGINS = (1.0, 0.5, 0.0)  # powers of the margin that are tried, where the prior fills too little of the region
MAX_LOG_WIDTH = 1.0  # of the region in a positive variable, which is else better left to its log
METROPOLIS_STEPS = 64


UNCHECKED = (
    "this model was never checked for such questions, so that the region is made {:.2g} times as wide as its draws "
    "say; rd.check it first, or name `margin`"
)


class TruncationWarning(UserWarning):
    """A warning that a prior is truncated by a posterior whose width nobody has checked."""


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
    def box(self) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """The lowest and the highest value of every coordinate."""
        half = 1.001 * self.radius * np.linalg.norm(np.asarray(self.factor, np.float64), axis=1)  # beyond rounding
        return np.asarray(self.center) - half, np.asarray(self.center) + half

    @property
    def log_volume(self) -> float:
        """The log of the volume."""
        k = len(self.center)
        log_ball = k / 2 * math.log(math.pi) - math.lgamma(k / 2 + 1) + k * math.log(self.radius)
        return log_ball + float(jnp.linalg.slogdet(self.factor)[1])


class TruncatedPrior(AbstractPrior):
    """A prior restricted to an ellipsoid in unconstrained space.

    Its variables end where the box around the region does.

    Attributes:
        cut_off: estimated posterior mass outside the region, if the posterior is `margin` times as wide as its draws.
        margin: how many times as wide as the draws say the region is.
        prior_mass: estimated prior mass inside it.
        effective: the number of equally weighted points that the pool is worth.

    Raises:
        QueryError: the prior is concentrated on too little of the region for the pool.
    """

    def __init__(
        self, base: AbstractPrior, region: Ellipsoid, cut_off: float, *, margin: float = 1.0, key: PRNGKeyArray
    ) -> None:
        self.base, self.region, self.cut_off, self.margin = base, region, cut_off, margin
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

    @functools.cached_property
    def variables(self) -> tuple[Variable, ...]:
        """The variables of the base, with supports that end where the region does."""
        low, high = self.layout.ends
        starts, ends = (np.asarray(supports.constrain(end, low, high), np.float64) for end in self.region.box)
        # a positive variable over decades is modeled by its log, which a second end would forbid
        is_wide = (np.isfinite(low) ^ np.isfinite(high)) & (np.subtract(*self.region.box[::-1]) > MAX_LOG_WIDTH)
        starts, ends = np.where(is_wide, low, starts), np.where(is_wide, high, ends)
        return tuple(
            replace(v, low=tuple(starts[block].tolist()), high=tuple(ends[block].tolist()))
            for v in self.layout.variables
            for block in [self.layout.slices[v.name]]
        )

    @functools.cached_property
    def layout(self) -> Layout:
        """The layout of the parameters alone, with the supports of the base."""
        return Layout(self.base.variables)

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
    margin: float | None = None,
    key: Key = 0,
) -> Problem:
    """Returns the same problem with its prior truncated to an ellipsoid that holds `mass` of a model's posterior.

    The prior of the new problem has `.cut_off`, the estimated posterior mass outside, `.prior_mass`, the estimated
    prior mass inside, and `.margin`. Its variables end where the region does: train a new model on its layout.

    Args:
        margin: how many times as wide as the draws say the ellipsoid is. By default what the model's check says of its
            widths; 2 without a check, or less where the prior would fill too little of the region.

    Raises:
        QueryError: `mass` is not in (0, 1), `margin` is below 1, or the data say too little about the parameters to be
            worth it.
        DataError: a wrong shape or type in `given`.

    Warns:
        TruncationWarning: this kind of question was never checked, and `margin` was not given.
    """
    if margin is not None and not 1.0 <= margin < math.inf:
        raise QueryError(f"`margin` must be 1 or more, got {margin}")
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
    cut_off = float(np.mean(np.asarray(shape.distance(jnp.asarray(held_out, jnp.float32))) > radius))
    checked = _checked_margin(model, model.parse(given, parameters.names).shares)
    margins = [(checked or UNCHECKED_MARGIN) ** power for power in MARGINS] if margin is None else [margin]
    prior = _widest(problem.prior, Ellipsoid(shape.center, shape.factor, radius), margins, cut_off, key_pilot)
    if margin is None and checked is None:
        warnings.warn(UNCHECKED.format(prior.margin), TruncationWarning, stacklevel=2)
    return Problem(prior, problem.simulator, supports=problem.supports)


def _widest(
    base: AbstractPrior, region: Ellipsoid, margins: Sequence[float], cut_off: float, key: PRNGKeyArray
) -> TruncatedPrior:
    """Returns the prior in the widest region of which the prior fills enough.

    Raises:
        QueryError: it fills too little of every region.
    """
    for margin in margins:
        wide = replace(region, radius=region.radius * margin)
        try:
            return TruncatedPrior(base, wide, cut_off, margin=margin, key=key)
        except QueryError:
            if margin == margins[-1]:
                raise
    raise AssertionError("no margin was given")


def _checked_margin(model: AbstractModel, shares: Shares) -> float | None:
    """Returns the margin by which draws must be widened, by the check of the nearest family; None if none is near."""
    checks = model.calibration.calibrations
    nearest = min(checks, key=lambda check: distance(shares, check.shares)[0], default=None)
    if nearest is None or distance(shares, nearest.shares)[0] > FAR_APART:
        return None
    error = 2.0 / math.sqrt(12.0 * nearest.simulations)  # two standard errors of a mean of uniform ranks
    lowest = min((excess for label, excess in nearest.excess if label != "joint"), default=0.0) - error
    width = math.tan(math.pi / 2.0 * float(np.clip(lowest + 0.5, 0.1, 0.5)))
    return 1.0 / width
