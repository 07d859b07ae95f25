"""Probability paths: how data turn into noise and back.

A path mixes data `x1` with noise `x0 ~ N(0, I)`, and a network makes a prediction about the mixture:

    x_t        = alpha(t) x1 + sigma(t) x0        t = 0 is noise, t = 1 is data
    prediction =     a(t) x1 +     b(t) x0

Two equations, two unknowns: from `x_t` and a prediction follow the network's guess of the data and of the noise, a
`Denoised`. Solvers, guidance and likelihoods see nothing else:

    velocity = alpha'(t) data + sigma'(t) noise    the ordinary differential equation that carries x0 to x1
    score    = -noise / sigma(t)

Were the data standard normal, the best prediction would be linear, and a network need only learn what is left:

    prediction = skip(t) x_t + out(t) F(into(t) x_t)
    skip = (a alpha + b sigma) / v,   out = |a sigma - b alpha| / sqrt(v),   into = 1 / sqrt(v),   v = alpha^2 + sigma^2

These three are Karras et al.'s (2022) preconditioning, here for every row of the table at once. Flow matching, VP, VE
and EDM are rows of one table: a schedule (alpha, sigma), a parameterization (a, b) and the law of the training times.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict._types import Scalar
from retrodict.paths._grids import AbstractGrid, Power
from retrodict.paths._laws import (
    AbstractDiffusion,
    AbstractTimeLaw,
    NonSingular,
    Parameterization,
    PowerLaw,
    Weighting,
    plain,
    velocity,
)
from retrodict.paths._schedules import AbstractSchedule, Straight


Values: TypeAlias = Float[Array, "*shape"]


class Denoised(eqx.Module):
    """A mixture taken apart: `x_t = alpha * data + sigma * noise`."""

    data: Values
    noise: Values


class Path(eqx.Module):
    """A schedule, what the network predicts, and how often each time is trained; what solvers do unless told otherwise.

    Attributes:
        span: the times a solver runs between, short of where the two equations cannot be solved.
        weighting: what a squared error of the prediction counts in training.
        source: the law of the noise, a numpyro distribution of single numbers; `None` is the standard normal.
        grid: where solvers of fixed cost look, unless they are told.
        diffusion: how much noise stochastic solvers add, unless they are told.
    """

    schedule: AbstractSchedule
    parameterization: Parameterization = eqx.field(static=True)
    time_law: AbstractTimeLaw
    span: tuple[float, float] = eqx.field(static=True, default=(0.0, 1.0))
    weighting: Weighting = eqx.field(static=True, default=plain)
    source: Any = None
    grid: AbstractGrid = Power()
    diffusion: AbstractDiffusion = NonSingular()

    def __check_init__(self) -> None:
        if not 0.0 <= self.span[0] < self.span[1] <= 1.0:
            raise QueryError(f"`span` must be two rising times between 0 and 1, got {self.span}")
        times = np.linspace(*self.span, 65, dtype=np.float32)
        with jax.ensure_compile_time_eval():
            found = jax.vmap(lambda t: (*self.schedule(t), *self.schedule.slopes(t), *self._wanted(t)))(times)
        alpha, sigma, up, down, a, b = (np.asarray(number, np.float64) for number in found)
        det = alpha * b - sigma * a
        known = np.isfinite(det + up + down) & (np.abs(det) > 1e-6 * (np.abs(alpha * b) + np.abs(sigma * a)))
        for i, cure in ((0, " later, such as 1e-3"), (-1, " earlier, such as 0.999")):
            if not known[i]:
                raise QueryError(
                    f"at t = {times[i]:g} this path does not tell data from noise, or has no finite velocity (alpha "
                    f"{alpha[i]:.3g}, sigma {sigma[i]:.3g}, a {a[i]:.3g}, b {b[i]:.3g}); let `span` end there{cure}"
                )
        if not known.all() or (np.sign(det) != np.sign(det[0])).any():
            raise QueryError(
                "between its ends this path has a time at which the prediction is a multiple of x_t and tells nothing "
                "of data and noise; choose another parameterization"
            )

    # training ---------------------------------------------------------------------------------------------------------

    def time(self, u: Scalar) -> Scalar:
        """The training time of a uniform draw, never outside `span`."""
        return jnp.clip(self.time_law(u, self.schedule), *self.span)

    def noise(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Values:
        """Noise `x0`."""
        return jax.random.normal(key, shape) if self.source is None else self.source.sample(key, shape)

    def mix(self, x1: Values, x0: Values, t: Scalar) -> Values:
        """The mixture `x_t`."""
        alpha, sigma = self.schedule(t)
        return alpha * x1 + sigma * x0

    def target(self, x1: Values, x0: Values, t: Scalar) -> Values:
        """What the network should say of the mixture of `x1` and `x0`."""
        a, b = self._wanted(t)
        return a * x1 + b * x0

    def weight(self, t: Scalar) -> Scalar:
        """What a squared error of the prediction counts."""
        return self.weighting(self.schedule, self.parameterization, t)

    # from a prediction to everything else -----------------------------------------------------------------------------

    def predict(self, network: Callable[[Values], Values], x_t: Values, t: Scalar) -> Values:
        """`skip x_t + out F(into x_t)`: exact for standard normal data where `F` is zero."""
        (alpha, sigma), (a, b) = self.schedule(t), self._wanted(t)
        v = alpha**2 + sigma**2
        into = jax.lax.rsqrt(v)
        return (a * alpha + b * sigma) / v * x_t + jnp.abs(a * sigma - b * alpha) * into * network(into * x_t)

    def guess(self, x_t: Values, prediction: Values, t: Scalar) -> Denoised:
        """Solves the two equations of the module's first lines."""
        (alpha, sigma), (a, b) = self.schedule(t), self._wanted(t)
        det = alpha * b - sigma * a
        return Denoised((b * x_t - sigma * prediction) / det, (alpha * prediction - a * x_t) / det)

    def velocity(self, guess: Denoised, t: Scalar) -> Values:
        """The slope of the ordinary differential equation that carries noise to data."""
        alpha_slope, sigma_slope = self.schedule.slopes(t)
        return alpha_slope * guess.data + sigma_slope * guess.noise

    def score(self, guess: Denoised, t: Scalar) -> Values:
        """The gradient of the log density of `x_t`; the noise must be Gaussian."""
        _, sigma = self.schedule(t)
        location, scale = self._gaussian()
        return -(guess.noise - location) / (scale**2 * sigma)

    def drift(self, guess: Denoised, t: Scalar, diffusion: AbstractDiffusion) -> Values:
        """The drift `velocity + g^2 / 2 score` of the SDE with the same marginals; the noise must be Gaussian."""
        location, scale = self._gaussian()
        pull = diffusion(t, self.schedule) / 2 * (guess.noise - location) / scale**2
        return self.velocity(guess, t) - pull

    # the noisy end ----------------------------------------------------------------------------------------------------

    def begin(self, x0: Values) -> Values:
        """Where a solver starts: noise as wide as `x_t` at the first time would be for data of variance one."""
        return self.width(self.span[0]) * x0

    def log_begin(self, x: Values) -> Values:
        """The log density of `begin`'s values, element by element."""
        x0 = x / self.width(self.span[0])
        own = -0.5 * (x0**2 + jnp.log(2 * jnp.pi)) if self.source is None else self.source.log_prob(x0)
        return own - jnp.log(self.width(self.span[0]))

    def width(self, t: float) -> Array:
        """How wide `x_t` is for data of variance one; for noise of another law, what multiplies the noise."""
        alpha, sigma = self.schedule(jnp.asarray(t))
        return jnp.sqrt(alpha**2 + sigma**2) if self.source is None else sigma

    def straightened(self) -> "Path":
        """The straight line between the same ratios of noise to data; this path itself where it is straight."""
        if isinstance(self.schedule, Straight):
            return self
        with jax.ensure_compile_time_eval():
            ends = [self.schedule(jnp.asarray(t)) for t in self.span]
            first, last = (float(alpha / (alpha + sigma)) for alpha, sigma in ends)
        return Path(Straight(), velocity, PowerLaw(), span=(first, last), source=self.source)

    def times_larger(self, other: "Path") -> tuple[Array, Array]:
        """How much larger `x_t` is here than on another path between the same ratios, at the first and last time."""
        (here, last), (there, end) = self.span, other.span
        alpha, other_alpha = self.schedule(jnp.asarray(last))[0], other.schedule(jnp.asarray(end))[0]
        return self.width(here) / other.width(there), alpha / other_alpha

    @property
    def gaussian(self) -> bool:
        """Whether the noise is Gaussian, so that there is a score to speak of."""
        return self.source is None or type(self.source).__name__ == "Normal"

    def _gaussian(self) -> tuple[Any, Any]:
        if self.source is None:
            return 0.0, 1.0
        if not self.gaussian:
            raise QueryError(
                f"noise from {type(self.source).__name__} has no score that follows from the network's guess; "
                "use an ODE solver, or Gaussian noise"
            )
        return self.source.loc, self.source.scale

    def _wanted(self, t: Scalar) -> tuple[Array, Array]:
        return self.parameterization(*self.schedule(t), *self.schedule.slopes(t))


class Flow(eqx.Module):
    """A path with somebody's guesses: all that a solver may ask about one example.

    Called, it is the velocity; guidance and composition of models wrap `guess`.
    """

    path: Path
    guess: Callable[[Values, Scalar], Denoised]

    def __call__(self, x: Values, t: Scalar) -> Values:
        return self.path.velocity(self.guess(x, t), t)

    def score(self, x: Values, t: Scalar) -> Values:
        """The gradient of the log density of `x_t`."""
        return self.path.score(self.guess(x, t), t)

    def straightened(self) -> "Flow":
        """The same flow along straight lines, where velocities are bounded and a few steps suffice.

        `x_t / alpha` depends on `sigma / alpha` alone, so that the guess made at `x` and `t` on a straight line is that
        made where the own schedule has the same ratio, at `x` times `alpha_own / alpha`.
        """
        own, straight = self.path.schedule, self.path.straightened()
        if straight is self.path:
            return self

        def guess(x: Values, t: Scalar) -> Denoised:
            alpha, sigma = straight.schedule(t)
            there = own.at_ratio(sigma / alpha)
            # alpha_own / alpha, written so that it is finite where both are zero
            return self.guess(x * (jnp.hypot(*own(there)) / jnp.hypot(alpha, sigma)), there)

        return Flow(straight, guess)
