"""Offsets, units and decades: one Gaussian problem, seen through scales on which people write their numbers.

    theta ~ N(0, 1),  z_i = theta + .5 e_i,  x = forward(z)         data on another scale
    t ~ N(0, 1),  theta = shift + scale t,  x_i = t + .5 e_i        a parameter on another scale

The posterior is that of z and of t, whatever the scale: conjugate formulas answer.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
from scipy import stats

import retrodict as rd
from retrodict_bench.zoo._case import Case, Moments, Observation, Rows
from retrodict_bench.zoo._exact import gaussian, line


NOISE, SIZE = 0.5, 3
Scale = Callable[[Any], Any]


def _location(z: np.ndarray, noise: float = NOISE) -> tuple[Any, Any]:
    """Returns mean and sd of theta ~ N(0, 1) given z_i = theta + noise e_i; NaN is not observed."""
    mean, sd = gaussian(0.0, 1.0, np.ones((z.size, 1)), noise**2 * np.eye(z.size), z)
    return mean[0], sd[0]


def through(
    name: str, kind: str, text: str, forward: Scale, backward: Scale, *, data: str = "x", jax: bool = False, **more: Any
) -> Case:
    """Returns a case whose data are on another scale, made in NumPy or, with `jax`, in single precision."""

    def in_jax(key: Any, theta: Any) -> dict[str, Any]:
        return {data: forward(theta + NOISE * jr.normal(key, (SIZE,)))}

    def in_numpy(rng: np.random.Generator, theta: Any) -> dict[str, Any]:
        return {data: forward(np.float64(theta) + NOISE * rng.normal(size=SIZE))}

    def exact(observation: Observation) -> Moments:
        return {"theta": _location(backward(np.asarray(observation[data], np.float64)))}

    def problem() -> rd.Problem:
        return rd.Problem({"theta": dist.Normal(0.0, 1.0)}, in_jax if jax else rd.numpy_simulator(in_numpy))

    return Case(name, kind, text, exact, problem, **more)


def told(name: str, kind: str, text: str, shift: float, scale: float, *, bounded: bool = False, **more: Any) -> Case:
    """Returns a case with a parameter on another scale, t ~ N(0, 1) or, with `bounded`, U(0, 1)."""
    data_shift = more.pop("data_shift", 0.0)

    def rows(rng: np.random.Generator, n: int) -> Rows:
        t = rng.uniform(size=n) if bounded else rng.normal(size=n)
        x = t[:, None] + NOISE * rng.normal(size=(n, SIZE))
        return {"onset": shift + scale * t, "x": data_shift + x}

    def layout() -> rd.Layout:
        low, high = (shift, shift + scale) if bounded else (-np.inf, np.inf)
        return rd.Layout((rd.Variable("onset", (), low, high), rd.Variable("x", (SIZE,), kind="data")))

    def exact(observation: Observation) -> Moments:
        z = np.asarray(observation["x"], np.float64) - data_shift
        mean, sd = _location(z)
        if bounded:
            mean, sd = line(lambda t: -0.5 * np.sum((z - t[:, None]) ** 2, axis=1) / NOISE**2, 0.0, 1.0)
        return {"onset": (shift + scale * mean, scale * sd)}

    return Case(name, kind, text, exact, rows=rows, layout=layout, **more)


COLUMNS = np.array([0.0, 1.7e9, -273.15])
UNITS = np.array([1e-12, 1.0, 1e12])
DAY = 86_400.0


def _power(scale: float) -> tuple[Scale, Scale]:
    return (lambda z: 10.0 ** (scale * z)), (lambda x: np.log10(x) / scale)


OFFSETS = [
    through("unix_times", "offset", "x = 1.7e9 + z", lambda z: 1.7e9 + z, lambda x: x - 1.7e9, data="arrival"),
    through("julian_days", "offset", "x = 2460000.5 + z / 86400", lambda z: 2460000.5 + z / DAY,
            lambda x: (x - 2460000.5) * DAY, data="epoch"),
    through("nanoseconds", "offset", "x = -1e15 + 1e3 z", lambda z: -1e15 + 1e3 * z, lambda x: (x + 1e15) / 1e3),
    through("offset_of_one_column", "offset", "x = (0, 1.7e9, -273.15) + z", lambda z: COLUMNS + z,
            lambda x: x - COLUMNS),
    through("pressure", "offset", "x = 101325 + .01 z", lambda z: 101325.0 + 0.01 * z,
            lambda x: (x - 101325.0) / 0.01),
    through("offset_in_jax", "offset", "x = 1e4 + z, in JAX", lambda z: 1e4 + z, lambda x: x - 1e4, jax=True),
    through("unix_times_joint", "offset", "x = 1.7e9 + z, by joint", lambda z: 1.7e9 + z, lambda x: x - 1.7e9,
            data="arrival", learn="joint"),
    told("unix_parameter", "offset", "theta = 1.7e9 + 5 t", 1.7e9, 5.0),
    told("unix_bounded", "offset", "theta ~ U(1.7e9, 1.7e9 + 2)", 1.7e9, 2.0, bounded=True),
    told("julian_bounded", "offset", "theta ~ U(2460000.5, + 30 s)", 2460000.5, 30.0 / DAY, bounded=True),
    told("unix_both", "offset", "theta = 1.7e9 + t, x = 1.7e9 + z", 1.7e9, 1.0, data_shift=1.7e9),
]  # fmt: skip
OFFSETS.append(
    Case(
        "offset_lost_in_jax", "offset", "x = 1e10 + z, rounded to 1,024 in JAX: nothing is left",
        lambda observation: {"theta": (0.0, 1.0)},
        lambda: rd.Problem({"theta": dist.Normal(0.0, 1.0)},
                           lambda key, theta: {"x": 1e10 + theta + NOISE * jr.normal(key, (SIZE,))}),
        bar="said", blame=("x",),
    )
)  # fmt: skip

SCALES = [
    through("picoamperes", "units", "x = 1e-12 z, in JAX", lambda z: 1e-12 * z, lambda x: x / 1e-12, jax=True),
    through("hertz", "units", "x = 1e12 z, in JAX", lambda z: 1e12 * z, lambda x: x / 1e12, jax=True),
    through("units_1e-30", "units", "x = 1e-30 z", lambda z: 1e-30 * z, lambda x: x / 1e-30),
    through("units_1e-50", "units", "x = 1e-50 z, below single precision", lambda z: 1e-50 * z, lambda x: x / 1e-50),
    through("units_1e51", "units", "x = 1e51 z, above single precision", lambda z: 1e51 * z, lambda x: x / 1e51),
    through("mixed_units", "units", "x = (1e-12, 1, 1e12) z", lambda z: UNITS * z, lambda x: x / UNITS),
    through("mixed_units_joint", "units", "x = (1e-12, 1, 1e12) z, by joint", lambda z: UNITS * z, lambda x: x / UNITS,
            learn="joint"),
    told("small_parameter", "units", "theta = 1e-12 t", 0.0, 1e-12),
    told("large_parameter", "units", "theta = 1e12 t", 0.0, 1e12),
    told("small_bounded", "units", "theta ~ U(1e-9, 2e-9)", 1e-9, 1e-9, bounded=True),
    told("large_bounded", "units", "theta ~ U(-1e12, 1e12)", -1e12, 2e12, bounded=True),
]  # fmt: skip

DECADES = [
    through("nine_decades", "decades", "x = 10^(2 z), undeclared", *_power(2.0), data="flux", jax=True),
    through("twenty_decades", "decades", "x = 10^(5 z), undeclared", *_power(5.0), data="flux"),
    through("nine_decades_joint", "decades", "x = 10^(2 z), by joint", *_power(2.0), data="flux", learn="joint"),
    through("signed_decades", "decades", "x = sinh(8 z)", lambda z: np.sinh(8.0 * z), lambda x: np.arcsinh(x) / 8.0),
    through("cube", "decades", "x = z^3", lambda z: z**3, np.cbrt, jax=True),
    through("shifted_decades", "decades", "x = 100 + 10^(2 z)", lambda z: 100.0 + 10.0 ** (2.0 * z),
            lambda x: np.log10(x - 100.0) / 2.0),
    through("negative_decades", "decades", "x = -10^(2 z)", lambda z: -(10.0 ** (2.0 * z)),
            lambda x: np.log10(-x) / 2.0),
]  # fmt: skip


def _lognormal(observation: Observation) -> Moments:
    """Returns the answer of log theta ~ N(0, 5^2) given x_i = log theta + .3 e_i."""
    mean, sd = gaussian(0.0, 25.0, np.ones((2, 1)), 0.09 * np.eye(2), observation["x"])
    top = np.exp(mean[0] + sd[0] ** 2 / 2)
    return {"theta": (top, top * np.sqrt(np.expm1(sd[0] ** 2)))}


def _loguniform(observation: Observation) -> Moments:
    low, high, x = np.log(1e-6), np.log(1e3), observation["x"]
    return {"theta": line(lambda t: -0.5 * np.sum((x - t[:, None]) ** 2, axis=1) / 0.09, low, high, np.exp)}


def _pareto(observation: Observation) -> Moments:
    logs = np.log(observation["x"])

    def log_density(a: np.ndarray) -> np.ndarray:
        return stats.gamma.logpdf(a, 4.0, scale=0.5) + 4 * np.log(a) - (a + 1.0) * logs.sum()

    return {"alpha": line(log_density, 1e-6, 40.0)}


def _log_data(key: Any, theta: Any) -> dict[str, Any]:
    return {"x": jnp.log(theta) + 0.3 * jr.normal(key, (2,))}


DECADES += [
    Case("lognormal_parameter", "decades", "log theta ~ N(0, 5^2), x = log theta + .3 e", _lognormal,
         lambda: rd.Problem({"theta": dist.LogNormal(0.0, 5.0)}, _log_data)),
    Case("loguniform_parameter", "decades", "theta ~ LogUniform(1e-6, 1e3)", _loguniform,
         lambda: rd.Problem({"theta": dist.LogUniform(1e-6, 1e3)}, _log_data)),
    Case("pareto", "decades", "x_i = u_i^(-1 / alpha), alpha ~ Gamma(4, 2)", _pareto,
         lambda: rd.Problem({"alpha": dist.Gamma(4.0, 2.0)},
                            lambda key, alpha: {"x": jnp.exp(jr.exponential(key, (4,)) / alpha)})),
]  # fmt: skip
