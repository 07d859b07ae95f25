"""The parts of a path beside its schedule: parameterization, law of the training times, weighting, diffusion.

parameterization    (a, b) of the network's target `a x1 + b x0`
time law            the distribution of t in training
weighting           the weight of a squared error of the prediction
diffusion           the noise g(t) that a stochastic solver adds
"""

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
    """Returns (a, b) of the velocity of the path: (alpha', sigma'), as in flow matching."""
    return alpha_slope, sigma_slope


def noise(alpha: Array, sigma: Array, alpha_slope: Array, sigma_slope: Array) -> tuple[Array, Array]:
    """Returns (a, b) of the noise: (0, 1), as in denoising score matching, where the score is `-noise / sigma`."""
    return jnp.zeros_like(alpha), jnp.ones_like(alpha)


def data(alpha: Array, sigma: Array, alpha_slope: Array, sigma_slope: Array) -> tuple[Array, Array]:
    """Returns (a, b) of the data: (1, 0), as in denoising."""
    return jnp.ones_like(alpha), jnp.zeros_like(alpha)


def mix(alpha: Array, sigma: Array, alpha_slope: Array, sigma_slope: Array) -> tuple[Array, Array]:
    """Returns (a, b) of the mix of unit variance that is uncorrelated with `x_t` (F of Karras et al., 2022)."""
    norm = jnp.sqrt(alpha**2 + sigma**2)
    return sigma / norm, -alpha / norm


# Laws of the training times -------------------------------------------------------------------------------------------


class AbstractTimeLaw(eqx.Module):
    """The distribution of the training times, as a map from a uniform draw to a time."""

    @abc.abstractmethod
    def __call__(self, u: Scalar, schedule: AbstractSchedule) -> Scalar:
        """Returns the time that belongs to a uniform draw `u` on (0, 1)."""


class PowerLaw(AbstractTimeLaw):
    """Density proportional to `t ** power`: 0 is uniform, larger is denser near the data (Wildberger et al., 2023)."""

    power: float = eqx.field(static=True, default=0.0)

    def __call__(self, u: Scalar, schedule: AbstractSchedule) -> Scalar:
        return u ** (1.0 / (1.0 + self.power))


class LogitNormal(AbstractTimeLaw):
    """A logit-normal time, `logit(t) ~ N(mean, sd^2)` (Esser et al., 2024)."""

    mean: float = eqx.field(static=True, default=0.0)
    sd: float = eqx.field(static=True, default=1.0)

    def __call__(self, u: Scalar, schedule: AbstractSchedule) -> Scalar:
        return 1.0 / (1.0 + jnp.exp(-self.mean - self.sd * _normal(u)))


class LogNormalRatio(AbstractTimeLaw):
    """A log-normal ratio, `log(sigma / alpha) ~ N(mean, sd^2)` (P_mean and P_std of Karras et al., 2022)."""

    mean: float = eqx.field(static=True, default=-1.2)
    sd: float = eqx.field(static=True, default=1.2)

    def __call__(self, u: Scalar, schedule: AbstractSchedule) -> Scalar:
        return schedule.at_ratio(jnp.exp(self.mean - self.sd * _normal(u)))


def _normal(u: Scalar) -> Scalar:
    """Returns the standard normal quantile of `u`."""
    from jax.scipy.special import ndtri  # imported here: slow to import, and only two laws need it

    return ndtri(jnp.clip(u, 1e-6, 1.0 - 1e-6))


# Weightings: the weight of a squared error of the prediction ----------------------------------------------------------

Weighting: TypeAlias = Callable[[AbstractSchedule, Parameterization, Scalar], Array]


def plain(schedule: AbstractSchedule, parameterization: Parameterization, t: Scalar) -> Array:
    """Returns 1: errors at all times count alike."""
    return jnp.ones_like(t)


def likelihood(schedule: AbstractSchedule, parameterization: Parameterization, t: Scalar) -> Array:
    """Returns the likelihood weighting: g(t)^2 for the squared error of the score (Song et al., 2021, Theorem 1).

    The weighted loss bounds the negative log likelihood for uniform times, `PowerLaw(0.0)`. No method has uniform times
    by default, and with other laws the loss is not that bound.

    With g^2 of the reverse SDE, the weight of an error of the noise is g^2 / sigma^2 = 2 d/dt log(alpha / sigma). For
    the velocity of straight lines the weight is `2 t / (1 - t)`: let `span` stop short of the data, such as at .999.
    """
    (alpha, sigma), (alpha_slope, sigma_slope) = schedule(t), schedule.slopes(t)
    a, b = parameterization(alpha, sigma, alpha_slope, sigma_slope)
    noise_per_prediction = alpha / (alpha * b - sigma * a)
    return 2.0 * noise_per_prediction**2 * (alpha_slope / alpha - sigma_slope / sigma)


# Noise levels of stochastic solvers -----------------------------------------------------------------------------------


class AbstractDiffusion(eqx.Module):
    """The noise g(t) dW that a stochastic solver adds. The marginals of x_t are the same for every g.

    The SDE is dx = (velocity + g^2 / 2 score) dt + g dW. With score = -noise / sigma the second term of the drift is
    `-(g^2 / sigma) noise / 2`. A diffusion therefore returns `g^2 / sigma`, which stays finite if sigma is 0.
    """

    @abc.abstractmethod
    def __call__(self, t: Scalar, schedule: AbstractSchedule) -> Array:
        """Returns `g(t)^2 / sigma(t)`."""


class Reverse(AbstractDiffusion):
    """The reverse SDE of score models (Anderson, 1982; Song et al., 2021), with noise `scale` times as large.

    g^2 = scale^2 2 sigma^2 d/dt log(alpha / sigma), which is infinite if alpha is 0.
    """

    scale: float = eqx.field(static=True, default=1.0)

    def __call__(self, t: Scalar, schedule: AbstractSchedule) -> Array:
        (alpha, sigma), (alpha_slope, sigma_slope) = schedule(t), schedule.slopes(t)
        return self.scale**2 * 2.0 * (sigma * alpha_slope / alpha - sigma_slope)


class NonSingular(AbstractDiffusion):
    """The noise `g = scale sqrt(sigma)`, on straight lines the family of Singh and Fischer (arXiv 2410.02217)."""

    scale: float = eqx.field(static=True, default=1.0)

    def __call__(self, t: Scalar, schedule: AbstractSchedule) -> Array:
        return self.scale**2 * jnp.ones_like(t)


class ZeroEnds(AbstractDiffusion):
    """The noise `g = scale sqrt(alpha sigma)`, zero at both ends of a straight line (same source)."""

    scale: float = eqx.field(static=True, default=1.0)

    def __call__(self, t: Scalar, schedule: AbstractSchedule) -> Array:
        return self.scale**2 * schedule(t)[0]
