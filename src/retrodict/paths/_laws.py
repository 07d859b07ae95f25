"""What varies about a path beside its schedule: what is predicted, which times are trained, how errors are weighed,
how much noise a stochastic solver adds."""

import abc
from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from retrodict._types import Scalar
from retrodict.paths._schedules import AbstractSchedule


# Parameterizations: (a, b) of `prediction = a x1 + b x0` from alpha, sigma and their slopes ---------------------------

Parameterization: TypeAlias = Callable[[Array, Array, Array, Array], tuple[Array, Array]]


def velocity(alpha: Array, sigma: Array, alpha_slope: Array, sigma_slope: Array) -> tuple[Array, Array]:
    """Predict the velocity of the path (flow matching)."""
    return alpha_slope, sigma_slope


def noise(alpha: Array, sigma: Array, alpha_slope: Array, sigma_slope: Array) -> tuple[Array, Array]:
    """Predict the noise (denoising score matching: the score is `-noise / sigma`)."""
    return jnp.zeros_like(alpha), jnp.ones_like(alpha)


def data(alpha: Array, sigma: Array, alpha_slope: Array, sigma_slope: Array) -> tuple[Array, Array]:
    """Predict the data (denoising)."""
    return jnp.ones_like(alpha), jnp.zeros_like(alpha)


def mix(alpha: Array, sigma: Array, alpha_slope: Array, sigma_slope: Array) -> tuple[Array, Array]:
    """Predict the mix of unit variance that is uncorrelated with `x_t` (Karras et al., 2022, their F)."""
    norm = jnp.sqrt(alpha**2 + sigma**2)
    return sigma / norm, -alpha / norm


# Laws of the training times -------------------------------------------------------------------------------------------


class AbstractTimeLaw(eqx.Module):
    """How often each time is trained, as a map from a uniform draw to a time."""

    @abc.abstractmethod
    def __call__(self, u: Scalar, schedule: AbstractSchedule) -> Scalar:
        """Maps a uniform draw on (0, 1) to a time."""


class PowerLaw(AbstractTimeLaw):
    """Density proportional to `t ** power`: 0 is uniform, more looks harder at the data (Wildberger et al., 2023)."""

    power: float = eqx.field(static=True, default=0.0)

    def __call__(self, u: Scalar, schedule: AbstractSchedule) -> Scalar:
        return u ** (1.0 / (1.0 + self.power))


class LogitNormal(AbstractTimeLaw):
    """`logit(t) ~ N(mean, sd^2)` (Esser et al., 2024)."""

    mean: float = eqx.field(static=True, default=0.0)
    sd: float = eqx.field(static=True, default=1.0)

    def __call__(self, u: Scalar, schedule: AbstractSchedule) -> Scalar:
        return 1.0 / (1.0 + jnp.exp(-self.mean - self.sd * _normal(u)))


class LogNormalRatio(AbstractTimeLaw):
    """`log(sigma / alpha) ~ N(mean, sd^2)` (Karras et al., 2022, their P_mean and P_std)."""

    mean: float = eqx.field(static=True, default=-1.2)
    sd: float = eqx.field(static=True, default=1.2)

    def __call__(self, u: Scalar, schedule: AbstractSchedule) -> Scalar:
        return schedule.at_ratio(jnp.exp(self.mean - self.sd * _normal(u)))


def _normal(u: Scalar) -> Scalar:
    """A standard normal number of a uniform one."""
    from jax.scipy.special import ndtri  # a tenth of what importing jax costs, and only these two laws need it

    return ndtri(jnp.clip(u, 1e-6, 1.0 - 1e-6))


# Weightings: what a squared error in the prediction counts ------------------------------------------------------------

Weighting: TypeAlias = Callable[[AbstractSchedule, Parameterization, Scalar], Array]


def plain(schedule: AbstractSchedule, parameterization: Parameterization, t: Scalar) -> Array:
    """Every error counts as it is."""
    return jnp.ones_like(t)


def likelihood(schedule: AbstractSchedule, parameterization: Parameterization, t: Scalar) -> Array:
    """Errors of the score count g(t)^2, which bounds the negative log likelihood (Song et al., 2021, Theorem 1).

    The bound is for uniform times, `PowerLaw(0.0)`, which are no method's default; other laws weigh it anew.

    With g^2 that of the reverse SDE, an error in the noise counts g^2 / sigma^2 = 2 d/dt log(alpha / sigma). For the
    velocity of straight lines that is `2 t / (1 - t)`: let `span` stop short of the data, such as at .999.
    """
    (alpha, sigma), (up, down) = schedule(t), schedule.slopes(t)
    a, b = parameterization(alpha, sigma, up, down)
    noise_per_prediction = alpha / (alpha * b - sigma * a)
    return 2.0 * noise_per_prediction**2 * (up / alpha - down / sigma)


# Noise levels of stochastic solvers -----------------------------------------------------------------------------------


class AbstractDiffusion(eqx.Module):
    """How much noise g(t) dW a stochastic solver adds: any amount leaves every marginal as it is.

    dx = (velocity + g^2 / 2 score) dt + g dW;  the drift's second part is `-(g^2 / sigma) noise / 2`, so that what a
    level says is `g^2 / sigma`, which stays finite where sigma is 0.
    """

    @abc.abstractmethod
    def __call__(self, t: Scalar, schedule: AbstractSchedule) -> Array:
        """`g(t)^2 / sigma(t)`."""


class Reverse(AbstractDiffusion):
    """The reverse SDE of score models (Anderson, 1982; Song et al., 2021), its noise `scale` times as large.

    g^2 = scale^2 2 sigma^2 d/dt log(alpha / sigma), infinite where alpha is 0.
    """

    scale: float = eqx.field(static=True, default=1.0)

    def __call__(self, t: Scalar, schedule: AbstractSchedule) -> Array:
        (alpha, sigma), (up, down) = schedule(t), schedule.slopes(t)
        return self.scale**2 * 2.0 * (sigma * up / alpha - down)


class NonSingular(AbstractDiffusion):
    """`g = scale sqrt(sigma)`: on straight lines the family of Singh and Fischer (arXiv 2410.02217)."""

    scale: float = eqx.field(static=True, default=1.0)

    def __call__(self, t: Scalar, schedule: AbstractSchedule) -> Array:
        return self.scale**2 * jnp.ones_like(t)


class ZeroEnds(AbstractDiffusion):
    """`g = scale sqrt(alpha sigma)`, zero at both ends of a straight line (Singh and Fischer, arXiv 2410.02217)."""

    scale: float = eqx.field(static=True, default=1.0)

    def __call__(self, t: Scalar, schedule: AbstractSchedule) -> Array:
        return self.scale**2 * schedule(t)[0]
