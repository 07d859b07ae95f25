"""Zeros, atoms, counts, heavy tails, ends of supports and many shapes: one parameter, answered by quadrature.

p(theta | x)  ~  p(theta) prod over i of p(x_i | theta)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
from scipy import special, stats

import retrodict as rd
from retrodict_bench.zoo._case import Case, Moments, Observation
from retrodict_bench.zoo._exact import line


HALF_LOG_TWO_PI = 0.5 * np.log(2.0 * np.pi)
LogLikelihood = Callable[[Any, Any], Any]


def scalar(
    name: str,
    kind: str,
    text: str,
    prior: Any,
    log_prior: Callable[[np.ndarray], Any],
    simulator: Callable[..., Any],
    log_likelihood: LogLikelihood,
    ends: tuple[float, float],
    *,
    parameter: str = "theta",
    value: Callable[[Any], Any] | None = None,
    supports: Any = None,
    **more: Any,
) -> Case:
    """Returns a case of one parameter; `log_likelihood(theta (n, 1), x (k,))` is that of every element of x.

    With `value` the parameter is value(t), and `log_prior` and `ends` are those of t.
    """

    def exact(observation: Observation) -> Moments:
        x = np.ravel(np.asarray(observation["x"], np.float64))

        def log_density(t: np.ndarray) -> Any:
            theta = t if value is None else value(t)
            return log_prior(t) + log_likelihood(theta[:, None], x).sum(axis=1)

        return {parameter: line(log_density, *ends, value=value)}

    def problem() -> rd.Problem:
        return rd.Problem({parameter: prior}, simulator, supports=supports)

    return Case(name, kind, text, exact, problem, **more)


def _normal(t: np.ndarray) -> np.ndarray:
    return -0.5 * t**2


def _flat(t: np.ndarray) -> np.ndarray:
    return np.zeros_like(t)


def _gauss(scale: float) -> LogLikelihood:
    return lambda t, x: -0.5 * ((x - t) / scale) ** 2


def _location(scale: float, shape: tuple[int, ...] = ()) -> Callable[..., Any]:
    return lambda key, theta: {"x": theta + scale * jr.normal(key, shape)}


STANDARD = dist.Normal(0.0, 1.0)
CENTRAL = {"x": np.linspace(-3.0, 3.0, 7)}


def _at(*values: float) -> Callable[[], dict[str, Any]]:
    return lambda: {"x": np.array(values)}


# zeros and atoms ----------------------------------------------------------------------------------------------------


def _dropped(key: Any, theta: Any) -> dict[str, Any]:
    one, two = jr.split(key)
    return {"x": jnp.where(jr.uniform(one, (6,)) < 0.9, 0.0, theta + 0.5 * jr.normal(two, (6,)))}


def _dropped_decades(key: Any, theta: Any) -> dict[str, Any]:
    one, two = jr.split(key)
    return {"x": jnp.where(jr.uniform(one, (3,)) < 0.9, 0.0, 10.0 ** (2.0 * theta + jr.normal(two, (3,))))}


def _log_decades(t: Any, x: Any) -> Any:
    return np.where(x == 0, 0.0, -0.5 * (np.log10(np.maximum(x, 1e-300)) - 2.0 * t) ** 2)


def _clusters(key: Any, theta: Any) -> dict[str, Any]:
    one, two = jr.split(key)
    return {"x": theta + 0.3 * jr.normal(one) + 1000.0 * (jr.uniform(two) < 0.01)}


def _sentinel(key: Any, theta: Any) -> dict[str, Any]:
    one, two = jr.split(key)
    return {"x": jnp.where(jr.uniform(one, (6,)) < 0.05, -999.0, theta + 0.5 * jr.normal(two, (6,)))}


def _tobit(t: Any, x: Any) -> Any:
    return np.where(
        x > 0, -0.5 * ((x - t + 1.5) / 0.3) ** 2 - np.log(0.3), stats.norm.logcdf((1.5 - t) / 0.3) + HALF_LOG_TWO_PI
    )


def _saturated(t: Any, x: Any) -> Any:
    return np.where(
        x < 1.0, -0.5 * ((x - t) / 0.3) ** 2 - np.log(0.3), stats.norm.logcdf((t - 1.0) / 0.3) + HALF_LOG_TWO_PI
    )


def _rounded(t: Any, x: Any) -> Any:
    high, low = special.ndtr((x + 0.5 - 2 * t) / 0.7), special.ndtr((x - 0.5 - 2 * t) / 0.7)
    return np.log(np.maximum(high - low, 1e-300))


ZEROS = [
    scalar("ninety_percent_zeros", "zeros", "each of six x_i is 0 (90 %) or theta + .5 e", STANDARD, _normal, _dropped,
           lambda t, x: np.where(x == 0, 0.0, -0.5 * ((x - t) / 0.5) ** 2), (-9.0, 9.0), steps=4_000),
    scalar("zeros_and_decades", "zeros", "each of 3 x_i is 0 (90 %) or 10^(2 theta + e)", STANDARD, _normal,
           _dropped_decades, _log_decades, (-9.0, 9.0),
           ask=lambda: {"x": np.array([[0.0, 0.0, 0.0], [0.01, 0.0, 0.0], [1.0, 30.0, 0.0], [0.0, 0.0, 500.0]])}),
    scalar("rare_cluster", "runaways", "x = theta + .3 e, and 1000 more in 1 of 100 rows, which is no accident",
           STANDARD, _normal, _clusters, lambda t, x: -0.5 * ((x - 1000.0 * (x > 500) - t) / 0.3) ** 2, (-9.0, 9.0),
           ask=_at(0.5, -1.0, 1000.5, 999.2)),
    scalar("tobit", "zeros", "x = max(0, theta + .3 e - 1.5), 92 % zeros", STANDARD, _normal,
           lambda key, theta: {"x": jnp.maximum(0.0, theta + 0.3 * jr.normal(key) - 1.5)}, _tobit, (-9.0, 9.0),
           ask=_at(0.0, 0.2, 0.5, 1.0)),
    scalar("gamma_tenth", "zeros", "x_i ~ Gamma(.1) exp(theta), 3 of them, over 30 decades", STANDARD, _normal,
           rd.numpy_simulator(lambda rng, theta: {"x": rng.gamma(0.1, size=3) * np.exp(np.float64(theta))}),
           lambda t, x: -0.1 * t - x * np.exp(-t), (-9.0, 9.0)),
    scalar("gamma_shape", "zeros", "x_i ~ Gamma(a), 5 of them over 20 decades, log a ~ N(log .2, .3)",
           dist.LogNormal(float(np.log(0.2)), 0.3), lambda t: stats.lognorm.logpdf(t, 0.3, scale=0.2),
           rd.numpy_simulator(lambda rng, shape: {"x": rng.gamma(np.float64(shape), size=5)}),
           lambda t, x: (t - 1.0) * np.log(x) - special.gammaln(t), (1e-3, 3.0), parameter="shape"),
    scalar("gamma_tenth_in_jax", "zeros", "the same in JAX: a part underflows to 0", STANDARD, _normal,
           lambda key, theta: {"x": jr.gamma(key, 0.1, (3,)) * jnp.exp(theta)},
           lambda t, x: -0.1 * t - x * np.exp(-t), (-9.0, 9.0)),
    scalar("sentinel", "atoms", "5 % of six x_i are -999, others theta + .5 e", STANDARD, _normal, _sentinel,
           lambda t, x: np.where(x == -999, 0.0, -0.5 * ((x - t) / 0.5) ** 2), (-9.0, 9.0), steps=4_000),
    scalar("saturated", "atoms", "x_i = min(1, theta + .3 e), 4 of them", STANDARD, _normal,
           lambda key, theta: {"x": jnp.minimum(1.0, theta + 0.3 * jr.normal(key, (4,)))}, _saturated, (-9.0, 9.0)),
    scalar("rounded", "atoms", "x_i = round(2 theta + .7 e), 4 of them", STANDARD, _normal,
           lambda key, theta: {"x": jnp.round(2 * theta + 0.7 * jr.normal(key, (4,)))}, _rounded, (-9.0, 9.0)),
    scalar("binary", "atoms", "20 Bernoulli numbers of logit theta", STANDARD, _normal,
           lambda key, theta: {"x": jr.bernoulli(key, jax.nn.sigmoid(theta), (20,)).astype(float)},
           lambda t, x: x * t - np.logaddexp(0.0, t), (-9.0, 9.0)),
]  # fmt: skip


# heavy tails --------------------------------------------------------------------------------------------------------


def _cauchy(scale: float) -> LogLikelihood:
    return lambda t, x: -np.log1p(((x - t) / scale) ** 2)


TAILS = [
    scalar("cauchy_noise", "heavy tails", "x_i = theta + .5 Cauchy, 5 of them", STANDARD, _normal,
           lambda key, theta: {"x": theta + 0.5 * jr.cauchy(key, (5,))}, _cauchy(0.5), (-12.0, 12.0)),
    scalar("student_prior", "heavy tails", "theta ~ t(2), x = theta + .5 e", dist.StudentT(2.0, 0.0, 1.0),
           lambda t: stats.t.logpdf(t, 2.0), _location(0.5), _gauss(0.5), (-1e3, 1e3), ask=lambda: CENTRAL),
    scalar("cauchy_prior", "heavy tails", "theta ~ Cauchy, x = theta + e", dist.Cauchy(0.0, 1.0),
           lambda t: -np.log1p(t**2), _location(1.0), _gauss(1.0), (-1e3, 1e3), ask=lambda: CENTRAL),
    scalar("cauchy_prior_joint", "heavy tails", "the same by joint", dist.Cauchy(0.0, 1.0),
           lambda t: -np.log1p(t**2), _location(1.0), _gauss(1.0), (-1e3, 1e3), ask=lambda: CENTRAL, learn="joint"),
    scalar("cauchy_times_1e6", "heavy tails", "theta ~ N(0, 1), x = 1e6 (theta + .3 Cauchy), 3 of them", STANDARD,
           _normal, lambda key, theta: {"x": 1e6 * (theta + 0.3 * jr.cauchy(key, (3,)))},
           lambda t, x: _cauchy(0.3)(t, x / 1e6), (-12.0, 12.0)),
]  # fmt: skip


# counts -------------------------------------------------------------------------------------------------------------


def _poisson(log_rate: Callable[[Any], Any]) -> LogLikelihood:
    return lambda t, x: x * log_rate(t) - np.exp(log_rate(t)) - special.gammaln(x + 1.0)


def _counts(log_rate: Callable[[Any], Any], shape: tuple[int, ...]) -> Callable[..., Any]:
    return lambda key, theta: {"x": jr.poisson(key, jnp.exp(log_rate(theta)), shape)}


def _steep(t: Any) -> Any:
    return 5.0 + 3.0 * t


def _million(t: Any) -> Any:
    return 13.8 + 0.1 * t


COUNTS = [
    scalar("small_counts", "counts", "x_i ~ Poisson(theta), 5 of them, theta ~ Gamma(2, 1)", dist.Gamma(2.0, 1.0),
           lambda t: stats.gamma.logpdf(t, 2.0), lambda key, theta: {"x": jr.poisson(key, theta, (5,))},
           lambda t, x: x * np.log(t) - t, (1e-9, 40.0)),
    scalar("counts_of_a_million", "counts", "x ~ Poisson(1e6 exp(.1 theta))", STANDARD, _normal,
           _counts(_million, (2,)), _poisson(_million), (-9.0, 9.0)),
    scalar("counts_over_decades", "counts", "x ~ Poisson(exp(5 + 3 theta))", STANDARD, _normal, _counts(_steep, (2,)),
           _poisson(_steep), (-9.0, 6.0)),
    scalar("counts_over_decades_joint", "counts", "the same by joint", STANDARD, _normal, _counts(_steep, (2,)),
           _poisson(_steep), (-9.0, 6.0), learn="joint"),
    scalar("rare_counts", "counts", "x_i ~ Poisson(exp(theta - 4)), 5 of them: 85 % of rows are all zero", STANDARD,
           _normal, _counts(lambda t: t - 4.0, (5,)), _poisson(lambda t: t - 4.0), (-9.0, 9.0)),
]  # fmt: skip


# ends of supports ---------------------------------------------------------------------------------------------------

UNIT = dist.Uniform(0.0, 1.0)
ENDS = [
    scalar("beta_half", "bounded", "p ~ Beta(.5, .5), x ~ Binomial(20, p)", dist.Beta(0.5, 0.5),
           _flat, lambda key, p: {"x": jr.binomial(key, 20.0, p)},
           lambda p, x: special.xlogy(x, p) + special.xlog1py(20.0 - x, -p), (0.0, np.pi / 2), parameter="p",
           value=lambda t: np.sin(t) ** 2,
           ask=_at(0.0, 1.0, 5.0, 12.0, 20.0)),
    scalar("near_an_end", "bounded", "theta ~ U(0, 1), x = theta + .1 e, x near 0 and 1", UNIT, _flat,
           _location(0.1), _gauss(0.1), (0.0, 1.0), ask=_at(-0.1, 0.0, 0.05, 0.95, 1.0, 1.1)),
    scalar("piled_at_an_end", "bounded", "theta ~ U(0, 1), x = theta + .5 e, x = 1.8, 2.2, -1", UNIT, _flat,
           _location(0.5), _gauss(0.5), (0.0, 1.0), ask=_at(1.8, 2.2, -1.0)),
    scalar("near_an_end_joint", "bounded", "theta ~ U(0, 1), x = theta + .1 e, by joint", UNIT, _flat,
           _location(0.1), _gauss(0.1), (0.0, 1.0), ask=_at(-0.1, 0.0, 0.5, 1.0, 1.1), learn="joint"),
    scalar("scale_piled_at_zero", "bounded", "s ~ HalfNormal(1), x_i ~ N(0, 1 + s^2), 10 of them", dist.HalfNormal(1.0),
           _normal, lambda key, s: {"x": jnp.sqrt(1 + s**2) * jr.normal(key, (10,))},
           lambda s, x: -0.5 * x**2 / (1 + s**2) - 0.5 * np.log(1 + s**2), (0.0, 9.0), parameter="s"),
    scalar("gamma_prior_tenth", "bounded", "theta ~ Gamma(.1, .1), x_i ~ Poisson(theta), 3 of them",
           dist.Gamma(0.1, 0.1), lambda t: -0.1 * t**10, lambda key, theta: {"x": jr.poisson(key, theta, (3,))},
           lambda t, x: special.xlogy(x, t) - t, (0.0, 2.0), value=lambda t: t**10,
           ask=lambda: {"x": np.array([[1.0, 0.0, 0.0], [2.0, 1.0, 3.0], [8.0, 12.0, 9.0]])}),
    scalar("data_near_an_end", "bounded", "x_i = u^exp(-theta) in (0, 1), declared, 4 of them", STANDARD, _normal,
           lambda key, theta: {"x": jnp.exp(-jr.exponential(key, (4,)) * jnp.exp(-theta))},
           lambda t, x: t + (np.exp(t) - 1.0) * np.log(x), (-9.0, 9.0),
           supports={"x": dist.constraints.unit_interval}),
    scalar("positive_declared", "bounded", "x = 10^(3 theta + .3 e) > 0, declared", STANDARD, _normal,
           lambda key, theta: {"x": 10.0 ** (3.0 * theta + 0.3 * jr.normal(key))},
           lambda t, x: -0.5 * ((np.log10(x) - 3.0 * t) / 0.3) ** 2, (-9.0, 9.0),
           supports={"x": dist.constraints.positive}),
    scalar("exp_of_uniform", "narrow law", "log theta ~ U(0, 1), claimed > 0, x = theta + 2 e",
           dist.TransformedDistribution(UNIT, dist.transforms.ExpTransform()), lambda t: -np.log(t), _location(2.0),
           _gauss(2.0), (1.0, float(np.e)), inside=(1.0, float(np.e))),
    scalar("power_of_uniform", "narrow law", "theta = u^3, claimed > 0, x = theta + .5 e",
           dist.TransformedDistribution(UNIT, dist.transforms.PowerTransform(3.0)),
           _flat, _location(0.5), _gauss(0.5), (0.0, 1.0), value=lambda t: t**3,
           inside=(0.0, 1.0)),
    scalar("affine_of_uniform", "narrow law", "theta = 5 + 2 u, claimed real, x = theta + 2 e",
           dist.TransformedDistribution(UNIT, dist.transforms.AffineTransform(5.0, 2.0)), _flat, _location(2.0),
           _gauss(2.0), (5.0, 7.0), inside=(5.0, 7.0)),
    scalar("truncated_normal", "bounded", "theta ~ N(0, 1) in (-.5, 2), x = theta + .5 e",
           dist.TruncatedNormal(0.0, 1.0, low=-0.5, high=2.0), _normal, _location(0.5), _gauss(0.5), (-0.5, 2.0)),
]  # fmt: skip


# narrow, broad, several modes ---------------------------------------------------------------------------------------

SHAPES = [
    scalar("one_thousandth", "narrow", "x = theta + .001 e", STANDARD, _normal, _location(1e-3), _gauss(1e-3),
           (-9.0, 9.0)),
    scalar("one_thousandth_joint", "narrow", "x = theta + .001 e, by joint", STANDARD, _normal, _location(1e-3),
           _gauss(1e-3), (-9.0, 9.0), learn="joint"),
    scalar("one_ten_thousandth", "narrow", "x = theta + .0001 e", STANDARD, _normal, _location(1e-4), _gauss(1e-4),
           (-9.0, 9.0)),
    scalar("narrow_bounded", "narrow", "theta ~ U(0, 1), x = theta + .001 e", UNIT, _flat, _location(1e-3),
           _gauss(1e-3), (0.0, 1.0)),
    scalar("narrow_curve", "narrow", "x = (theta, theta^2) + .01 e", STANDARD, _normal,
           lambda key, theta: {"x": jnp.stack([theta, theta**2]) + 0.01 * jr.normal(key, (2,))},
           lambda t, x: -0.5 * ((x - np.concatenate([t, t**2], axis=1)) / 0.01) ** 2, (-9.0, 9.0)),
    scalar("narrow_times_1e6", "narrow", "x = 1e6 + 1e3 theta + e", STANDARD, _normal,
           rd.numpy_simulator(lambda rng, theta: {"x": 1e6 + 1e3 * np.float64(theta) + rng.normal()}),
           lambda t, x: -0.5 * (x - 1e6 - 1e3 * t) ** 2, (-9.0, 9.0)),
    scalar("no_information", "broad", "x = e", STANDARD, _normal, lambda key, theta: {"x": jr.normal(key, (3,))},
           lambda t, x: 0.0 * (t + x), (-9.0, 9.0)),
    scalar("broad_bounded", "broad", "theta ~ U(0, 1), x = theta + 100 e", UNIT, _flat, _location(100.0),
           _gauss(100.0), (0.0, 1.0)),
    scalar("two_modes", "multimodal", "x = theta^2 + .1 e", STANDARD, _normal,
           lambda key, theta: {"x": theta**2 + 0.1 * jr.normal(key)}, lambda t, x: -0.5 * ((x - t**2) / 0.1) ** 2,
           (-9.0, 9.0)),
    scalar("uneven_modes", "multimodal", "x = abs(theta - .3) + .1 e", STANDARD, _normal,
           lambda key, theta: {"x": jnp.abs(theta - 0.3) + 0.1 * jr.normal(key)},
           lambda t, x: -0.5 * ((x - np.abs(t - 0.3)) / 0.1) ** 2, (-9.0, 9.0)),
    scalar("sine_modes", "multimodal", "theta ~ U(0, 1), x = sin(8 theta) + .2 e", UNIT, _flat,
           lambda key, theta: {"x": jnp.sin(8 * theta) + 0.2 * jr.normal(key)},
           lambda t, x: -0.5 * ((x - np.sin(8 * t)) / 0.2) ** 2, (0.0, 1.0)),
]  # fmt: skip
LAWS = [*ZEROS, *TAILS, *COUNTS, *ENDS, *SHAPES]
