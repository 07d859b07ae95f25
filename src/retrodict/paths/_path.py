"""Probability paths: from noise to data and back.

A path mixes data `x1` with noise `x0 ~ N(0, I)`, and a network makes a prediction about the mixture `x_t`:

    x_t        = alpha(t) x1 + sigma(t) x0        t = 0 is noise, t = 1 is data
    prediction =     a(t) x1 +     b(t) x0

These are two equations with two unknowns. `x_t` and a prediction determine the denoised data and noise, a `Denoised`.
Solvers, guidance and likelihoods are functions of that pair:

    velocity = alpha'(t) data + sigma'(t) noise    the ordinary differential equation that carries x0 to x1
    score    = -noise / sigma(t)

For standard normal data the best prediction is linear in `x_t`. The network F learns only the residual:

    prediction = skip(t) x_t + out(t) F(into(t) x_t)
    skip = (a alpha + b sigma) / v,   out = |a sigma - b alpha| / sqrt(v),   into = 1 / sqrt(v),   v = alpha^2 + sigma^2

skip, out and into are the preconditioning of Karras et al. (2022), here for every row of the table at once. Flow
matching, VP, VE and EDM are rows of one table: a schedule (alpha, sigma), a parameterization (a, b) and the law of the
training times.
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
    """The denoised data and the noise in a mixture, `x_t = alpha * data + sigma * noise`."""

    data: Values
    noise: Values


class Path(eqx.Module):
    """A schedule, a parameterization, the law of the training times, and the defaults of solvers on this path.

    Attributes:
        schedule: the coefficients (alpha, sigma) of data and noise.
        parameterization: the coefficients (a, b) of the network's target.
        time_law: the distribution of the training times.
        span: the first and the last time of a solver. The two equations must have a unique solution at both.
        weighting: the weight of a squared error of the prediction in training.
        source: the law of the noise, a numpyro distribution of single numbers; `None` is the standard normal.
        grid: the time grid of solvers of fixed cost that name none.
        diffusion: the noise of stochastic solvers that name none.
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
            coefficients = jax.vmap(lambda t: (*self.schedule(t), *self.schedule.slopes(t), *self._target(t)))(times)
        alpha, sigma, alpha_slope, sigma_slope, a, b = (np.asarray(row, np.float64) for row in coefficients)
        det = alpha * b - sigma * a
        solvable = np.abs(det) > 1e-6 * (np.abs(alpha * b) + np.abs(sigma * a))
        solvable &= np.isfinite(det + alpha_slope + sigma_slope)
        for i, cure in ((0, "begin later, such as at 1e-3"), (-1, "end earlier, such as at 0.999")):
            if not solvable[i]:
                raise QueryError(
                    f"at t = {times[i]:g} this path does not tell data from noise, or has no finite velocity (alpha "
                    f"{alpha[i]:.3g}, sigma {sigma[i]:.3g}, a {a[i]:.3g}, b {b[i]:.3g}); let `span` {cure}"
                )
        if not solvable.all() or (np.sign(det) != np.sign(det[0])).any():
            raise QueryError(
                "at a time between the ends of this path the prediction is a multiple of x_t, so that data and noise "
                "do not follow from it; choose another parameterization"
            )

    # training ---------------------------------------------------------------------------------------------------------

    def time(self, u: Scalar) -> Scalar:
        """Returns the training time of a uniform draw `u`, clipped to `span`."""
        return jnp.clip(self.time_law(u, self.schedule), *self.span)

    def noise(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Values:
        """Draws noise `x0`."""
        return jax.random.normal(key, shape) if self.source is None else self.source.sample(key, shape)

    def mix(self, x1: Values, x0: Values, t: Scalar) -> Values:
        """Returns the mixture `x_t` of data `x1` and noise `x0`."""
        alpha, sigma = self.schedule(t)
        return alpha * x1 + sigma * x0

    def target(self, x1: Values, x0: Values, t: Scalar) -> Values:
        """Returns the target of the prediction for data `x1` and noise `x0`."""
        a, b = self._target(t)
        return a * x1 + b * x0

    def weight(self, t: Scalar) -> Scalar:
        """Returns the weight of a squared error of the prediction at time `t`."""
        return self.weighting(self.schedule, self.parameterization, t)

    # from a prediction to everything else -----------------------------------------------------------------------------

    def predict(self, network: Callable[[Values], Values], x_t: Values, t: Scalar) -> Values:
        """Returns the prediction `skip x_t + out F(into x_t)`; `F = 0` is exact for standard normal data."""
        (alpha, sigma), (a, b) = self.schedule(t), self._target(t)
        v = alpha**2 + sigma**2
        into = jax.lax.rsqrt(v)
        return (a * alpha + b * sigma) / v * x_t + jnp.abs(a * sigma - b * alpha) * into * network(into * x_t)

    def guess(self, x_t: Values, prediction: Values, t: Scalar) -> Denoised:
        """Returns the denoised data and noise: the solution of the two equations at the top of this module."""
        (alpha, sigma), (a, b) = self.schedule(t), self._target(t)
        det = alpha * b - sigma * a
        return Denoised((b * x_t - sigma * prediction) / det, (alpha * prediction - a * x_t) / det)

    def velocity(self, guess: Denoised, t: Scalar) -> Values:
        """Returns the velocity of the ordinary differential equation that carries noise to data."""
        alpha_slope, sigma_slope = self.schedule.slopes(t)
        return alpha_slope * guess.data + sigma_slope * guess.noise

    def score(self, guess: Denoised, t: Scalar) -> Values:
        """Returns the gradient of the log density of `x_t`, for Gaussian noise."""
        _, sigma = self.schedule(t)
        location, scale = self._noise_moments()
        return -(guess.noise - location) / (scale**2 * sigma)

    def drift(self, guess: Denoised, t: Scalar, diffusion: AbstractDiffusion) -> Values:
        """Returns the drift `velocity + g^2 / 2 score` of the SDE with the same marginals, for Gaussian noise."""
        location, scale = self._noise_moments()
        score_part = diffusion(t, self.schedule) / 2 * (guess.noise - location) / scale**2
        return self.velocity(guess, t) - score_part

    # the noisy end ----------------------------------------------------------------------------------------------------

    def begin(self, x0: Values) -> Values:
        """Returns the start of a solver: noise `x0` scaled to the sd of `x_t` at the first time, for data of sd one."""
        return self.width(self.span[0]) * x0

    def log_begin(self, x: Values) -> Values:
        """Returns the log density of the values of `begin`, element by element."""
        x0 = x / self.width(self.span[0])
        log_noise = -0.5 * (x0**2 + jnp.log(2 * jnp.pi)) if self.source is None else self.source.log_prob(x0)
        return log_noise - jnp.log(self.width(self.span[0]))

    def width(self, t: float) -> Array:
        """Returns the sd of `x_t` for data of variance one; sigma if the noise has a law of its own."""
        alpha, sigma = self.schedule(jnp.asarray(t))
        return jnp.sqrt(alpha**2 + sigma**2) if self.source is None else sigma

    def straightened(self) -> "Path":
        """Returns the straight path between the same ratios of noise to data; this path itself if it is straight."""
        if isinstance(self.schedule, Straight):
            return self
        with jax.ensure_compile_time_eval():
            ends = [self.schedule(jnp.asarray(t)) for t in self.span]
            first, last = (float(alpha / (alpha + sigma)) for alpha, sigma in ends)
        return Path(Straight(), velocity, PowerLaw(), span=(first, last), source=self.source)

    def times_larger(self, other: "Path") -> tuple[Array, Array]:
        """Returns the scale of `x_t` over that on `other`, a path between the same ratios, at the two ends."""
        (start, end), (other_start, other_end) = self.span, other.span
        alpha, other_alpha = self.schedule(jnp.asarray(end))[0], other.schedule(jnp.asarray(other_end))[0]
        return self.width(start) / other.width(other_start), alpha / other_alpha

    @property
    def gaussian(self) -> bool:
        """Whether the noise is Gaussian, so that the score follows from the denoised noise."""
        return self.source is None or type(self.source).__name__ == "Normal"

    def _noise_moments(self) -> tuple[Any, Any]:
        """Returns mean and sd of Gaussian noise.

        Raises:
            QueryError: the noise is not Gaussian.
        """
        if self.source is None:
            return 0.0, 1.0
        if not self.gaussian:
            raise QueryError(
                f"the score follows from the denoised noise only if the noise is Gaussian, and this path's is "
                f"{type(self.source).__name__}; use an ODE solver, or a path with Gaussian noise"
            )
        return self.source.loc, self.source.scale

    def _target(self, t: Scalar) -> tuple[Array, Array]:
        """Returns the coefficients (a, b) of the network's target."""
        return self.parameterization(*self.schedule(t), *self.schedule.slopes(t))


class Flow(eqx.Module):
    """A path and a function that denoises on it: all that a solver may ask about one example.

    Calling a flow gives the velocity. Guidance and the composition of models wrap `guess`.

    Attributes:
        guess: returns the denoised data and noise at `x` and `t`.
    """

    path: Path
    guess: Callable[[Values, Scalar], Denoised]

    def __call__(self, x: Values, t: Scalar) -> Values:
        return self.path.velocity(self.guess(x, t), t)

    def score(self, x: Values, t: Scalar) -> Values:
        """Returns the gradient of the log density of `x_t`."""
        return self.path.score(self.guess(x, t), t)

    def straightened(self) -> "Flow":
        """Returns the same flow along straight lines, where velocities are bounded and a few steps suffice.

        The law of `x_t / alpha` depends on `sigma / alpha` alone. To denoise `x` at time t on the straight line, take
        the time s at which this path's schedule has the same ratio, and denoise `x alpha(s) / alpha_straight(t)`.
        """
        schedule, straight = self.path.schedule, self.path.straightened()
        if straight is self.path:
            return self

        def guess(x: Values, t: Scalar) -> Denoised:
            alpha, sigma = straight.schedule(t)
            s = schedule.at_ratio(sigma / alpha)
            # alpha(s) / alpha_straight(t), written so that it is finite if both are zero
            return self.guess(x * (jnp.hypot(*schedule(s)) / jnp.hypot(alpha, sigma)), s)

        return Flow(straight, guess)
