"""The four published methods, each one row of the table."""

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


# noise levels of scores: those at which numbers of standard deviation one are neither all signal nor all noise
_NEAR_DATA = LogNormalRatio(-0.7, 1.6)


def flow_matching(*, power: float = 2.0, times: AbstractTimeLaw | None = None, source: Any = None) -> Path:
    """Flow matching along straight lines (Lipman et al., 2023), times with density proportional to `t ** power`.

    Uniform times (power 0) train the noise's end as much as the data's, where the fine structure forms. After equal
    training, power 2 lowers the negative log posterior of held-out pairs of every task it was tried on: two moons from
    -3.49 to -3.66, SLCP from 5.10 to 4.86, the Gaussian mixture from 1.15 to 1.13.

    Args:
        times: another law of the training times, such as `LogitNormal()`.
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
    """Score matching with the variance-preserving schedule (Song et al., 2021); stops 1e-5 short of the data.

    log sigma / alpha is trained as N(-0.7, 1.6^2), as in `ve`, and not by uniform times, as published: negative log
    posterior of held-out pairs 3.72 (SLCP) and -3.67 (two moons), where times of density `t ** 2` have 3.77 and -3.65
    and uniform ones, by an earlier version, .4 more than those on SLCP.
    """
    return Path(
        VariancePreserving(beta_min, beta_max),
        parameterization,
        times or _NEAR_DATA,
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
    """Score matching with the variance-exploding schedule (Song et al., 2021), for data of standard deviation one.

    log sigma is trained as N(-0.7, 1.6^2): uniform times, as published, spend two fifths of the work on noise far
    above or below any data. Negative log posterior of held-out pairs of SLCP: 4.32 with uniform times, 3.98 with
    EDM's N(-1.2, 1.2^2), 3.87 so (flow matching 3.82).
    """
    return Path(
        VarianceExploding(sigma_min, sigma_max),
        parameterization,
        times or _NEAR_DATA,
        weighting=weighting,
        grid=Uniform(),
        diffusion=Reverse(),
    )


def edm(*, schedule: AbstractSchedule | None = None, mean: float = -1.2, sd: float = 1.2) -> Path:
    """EDM (Karras et al., 2022): sigma itself the clock, the mix of unit variance predicted, log-normal sigma trained.

    Args:
        schedule: another one, such as `VariancePreserving()`; what is predicted and trained stays EDM's.
        mean: P_mean, the mean of `log(sigma / alpha)` in training.
        sd: P_std, its standard deviation.
    """
    schedule = schedule or Karras()
    span = (0.0, 1.0 - 1e-5) if isinstance(schedule, VariancePreserving) else (0.0, 1.0)
    grid = Power() if isinstance(schedule, VariancePreserving | Straight) else Uniform()
    return Path(schedule, mix, LogNormalRatio(mean, sd), span=span, grid=grid, diffusion=Reverse())


METHODS = {"flow_matching": flow_matching, "vp": vp, "ve": ve, "edm": edm}
