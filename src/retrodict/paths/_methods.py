"""The four published methods. Each is one row of the table in `retrodict.paths`."""

from typing import Any

from retrodict.paths._grids import Power, Uniform
from retrodict.paths._laws import (
    AbstractTimeLaw,
    LogNormalRatio,
    Parameterization,
    PowerLaw,
    Reverse,
    Weighting,
    mix,
    noise,
    plain,
    velocity,
)
from retrodict.paths._path import Path
from retrodict.paths._schedules import AbstractSchedule, Karras, Straight, VarianceExploding, VariancePreserving


# the noise levels of score matching: data of standard deviation one are neither all signal nor all noise there
_NOISE_LEVELS = LogNormalRatio(-0.7, 1.6)


def flow_matching(*, power: float = 2.0, times: AbstractTimeLaw | None = None, source: Any = None) -> Path:
    """Returns flow matching along straight lines (Lipman et al., 2023).

    Training times have a density proportional to `t ** power`. The default of 2 trains mostly near the data, where the
    fine structure forms; power 0, uniform times, trains both ends alike.

    Args:
        times: a law of the training times in place of `PowerLaw(power)`, such as `LogitNormal()`.
        source: the law of the noise, any numpyro distribution of single numbers; standard normal by default.
    """
    return Path(Straight(), velocity, times or PowerLaw(power), source=source)


def vp(
    *,
    beta_min: float = 0.1,
    beta_max: float = 20.0,
    parameterization: Parameterization = noise,
    times: AbstractTimeLaw | None = None,
    weighting: Weighting = plain,
) -> Path:
    """Returns score matching with the variance-preserving schedule (Song et al., 2021), up to t = 1 - 1e-5.

    Training draws `log(sigma / alpha)` from N(-0.7, 1.6^2), as in `ve`, and not uniform times as published. Such noise
    levels fit held-out simulations better.
    """
    return Path(
        VariancePreserving(beta_min, beta_max),
        parameterization,
        times or _NOISE_LEVELS,
        span=(0.0, 1.0 - 1e-5),
        weighting=weighting,
        diffusion=Reverse(),
    )


def ve(
    *,
    sigma_min: float = 1e-3,
    sigma_max: float = 80.0,
    parameterization: Parameterization = noise,
    times: AbstractTimeLaw | None = None,
    weighting: Weighting = plain,
) -> Path:
    """Returns score matching with the variance-exploding schedule (Song et al., 2021), for data of sd one.

    Training draws `log(sigma)` from N(-0.7, 1.6^2) and not uniform times as published: two fifths of uniform times have
    noise far above or far below the scale of the data.
    """
    return Path(
        VarianceExploding(sigma_min, sigma_max),
        parameterization,
        times or _NOISE_LEVELS,
        weighting=weighting,
        grid=Uniform(),
        diffusion=Reverse(),
    )


def edm(*, schedule: AbstractSchedule | None = None, mean: float = -1.2, sd: float = 1.2) -> Path:
    """Returns EDM (Karras et al., 2022): its schedule of sigma, its mix of unit variance, log-normal sigma in training.

    Args:
        schedule: a schedule in place of `Karras()`, such as `VariancePreserving()`; the rest stays that of EDM.
        mean: P_mean, the mean of `log(sigma / alpha)` in training.
        sd: P_std, the standard deviation of `log(sigma / alpha)` in training.
    """
    schedule = schedule or Karras()
    span = (0.0, 1.0 - 1e-5) if isinstance(schedule, VariancePreserving) else (0.0, 1.0)
    grid = Power() if isinstance(schedule, VariancePreserving | Straight) else Uniform()
    return Path(schedule, mix, LogNormalRatio(mean, sd), span=span, grid=grid, diffusion=Reverse())


METHODS = {"flow_matching": flow_matching, "vp": vp, "ve": ve, "edm": edm}
