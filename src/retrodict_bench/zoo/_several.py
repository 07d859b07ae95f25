"""Several parameters: narrow, correlated, without information, few rows, useless columns, priors that depend.

theta ~ N(0, S),  x = A theta + e,  e ~ N(0, R)       conjugate formulas
two parameters of any law                             quadrature on a grid of both
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist

import retrodict as rd
from retrodict_bench.zoo._case import Case, Moments, Observation
from retrodict_bench.zoo._exact import gaussian, plane


def linear(
    name: str, kind: str, text: str, matrix: Any, noise: Any, *, prior: Any = None, extra: Any = None, **more: Any
) -> Case:
    """Returns a linear Gaussian; `noise` are the sds of x, or its covariance, and `extra(x)` further data."""
    matrix = np.asarray(matrix, float)
    size, count = matrix.shape
    prior = np.eye(count) if prior is None else np.asarray(prior, float)
    covariance = np.asarray(noise, float)
    covariance = covariance if covariance.ndim == 2 else np.diag(np.broadcast_to(covariance, size) ** 2)
    root = np.linalg.cholesky(covariance)

    def simulator(key: Any, theta: Any) -> dict[str, Any]:
        x = jnp.asarray(matrix) @ theta + jnp.asarray(root) @ jr.normal(key, (size,))
        return {"x": x, **({} if extra is None else extra(x))}

    def exact(observation: Observation) -> Moments:
        return {"theta": gaussian(np.zeros(count), prior, matrix, covariance, observation["x"])}

    def problem() -> rd.Problem:
        return rd.Problem({"theta": dist.MultivariateNormal(jnp.zeros(count), jnp.asarray(prior))}, simulator)

    return Case(name, kind, text, exact, problem, **more)


def two(
    name: str,
    kind: str,
    text: str,
    prior: Any,
    simulator: Any,
    log_joint: Callable[..., Any],
    boxes: Any,
    **more: Any,
) -> Case:
    """Returns a case of the parameters a and b; `log_joint(a, b, x)` is log p(a, b) + log p(x | a, b)."""

    def exact(observation: Observation) -> Moments:
        x = np.asarray(observation["x"], np.float64)
        return dict(zip("ab", plane(lambda a, b: log_joint(a, b, x), *boxes), strict=True))

    return Case(
        name,
        kind,
        text,
        exact,
        lambda: rd.Problem(prior() if callable(prior) else prior, simulator),
        **{"steps": 4_000, **more},
    )


def _random(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def _equal(size: int, correlation: float) -> np.ndarray:
    return (1.0 - correlation) * np.eye(size) + correlation


EYE = np.eye(3)
RAMP = np.diag([1.0, 10.0, 100.0])
LINEAR = [
    linear("narrow_four", "narrow", "x = A theta + .001 e, 4 and 4 numbers", _random(4, 4), 1e-3),
    linear("narrow_four_joint", "narrow", "the same by joint", _random(4, 4), 1e-3, learn="joint"),
    linear("narrow_one_of_three", "narrow", "x_i = theta_i + (.001, .1, 1) e_i", EYE, [1e-3, 0.1, 1.0]),
    linear("regression", "narrow", "a line through 50 points, noise .1",
           np.stack([np.ones(50), np.linspace(-1, 1, 50)], axis=1), 0.1),
    linear("prior_correlated", "correlated", "corr(theta) = .999, x = theta + e", EYE, 1.0, prior=_equal(3, 0.999)),
    linear("data_correlated", "correlated", "corr(e) = .999, x = theta + e", EYE, _equal(3, 0.999)),
    linear("sum_only", "correlated", "x = theta_1 + theta_2 + .03 e: posterior correlation -.999", [[1.0, 1.0]], 0.03),
    linear("sum_only_joint", "correlated", "the same by joint", [[1.0, 1.0]], 0.03, learn="joint"),
    linear("unequal_widths", "correlated", "theta_i of sd (1, 10, 100), x = sum + e", [[1.0, 1.0, 1.0]], 1.0,
           prior=RAMP**2),
    linear("no_information_of_three", "broad", "x = 0 theta + e", 0 * EYE, 1.0),
    linear("one_informed_of_five", "broad", "x = theta_1 + .1 e", [[1.0, 0.0, 0.0, 0.0, 0.0]], 0.1),
    linear("fifty_rows", "few rows", "50 rows, x = theta + .5 e", np.ones((1, 1)), 0.5, simulations=50),
    linear("two_hundred_rows", "few rows", "200 rows, x = theta + .5 e, 3 numbers", EYE, 0.5, simulations=200),
    linear("two_hundred_rows_wide", "few rows", "200 rows, 2 parameters, 30 numbers of data", _random(30, 2), 3.0,
           simulations=200),
    linear("constant_column", "useless", "x = theta + .5 e, and a column of 7s", EYE, 0.5,
           extra=lambda x: {"flag": jnp.stack([x[0], jnp.array(7.0)])}),
    linear("constant_variable", "useless", "x = theta + .5 e, and a constant", EYE, 0.5,
           extra=lambda x: {"version": jnp.array(3.0)}),
    linear("constant_variable_joint", "useless", "the same by joint", EYE, 0.5,
           extra=lambda x: {"version": jnp.array(3.0)}, learn="joint"),
    linear("duplicate_columns", "useless", "x, and x again", EYE, 0.5, extra=lambda x: {"again": x}),
    linear("duplicate_columns_joint", "useless", "x, and x again, by joint", EYE, 0.5, extra=lambda x: {"again": x},
           learn="joint"),
    linear("rescaled_duplicate", "useless", "x, and 1000 x + 5", EYE, 0.1, extra=lambda x: {"again": 1000 * x + 5}),
    linear("twenty_numbers", "joint", "13 parameters, 7 data, by joint", _random(7, 13) / 3, 0.3, learn="joint",
           width=128),
    linear("by_learn_posterior", "learn_posterior", "x = theta + .5 e, 3 numbers", EYE, 0.5, learn="learn_posterior"),
]  # fmt: skip


# two parameters -----------------------------------------------------------------------------------------------------

A = dist.Normal(0.0, 1.0)


def _gauss(x: Any, mean: Any, sd: Any) -> Any:
    return -0.5 * ((x - mean) / sd) ** 2 - np.log(sd)


def _numpyro_model() -> None:
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.sample("b", dist.Normal(a**2, 0.5))


TWO = [
    two("funnel", "funnel", "a ~ N(0, 1), b ~ N(0, exp(2 a)), x = b + .3 e",
        {"a": A, "b": lambda a: dist.Normal(0.0, jnp.exp(a))}, lambda key, a, b: {"x": b + 0.3 * jr.normal(key)},
        lambda a, b, x: _gauss(a, 0, 1) + _gauss(b, 0, np.exp(a)) + _gauss(x, b, 0.3), ((-8, 8), (-60, 60))),
    two("funnel_joint", "funnel", "the same by joint",
        {"a": A, "b": lambda a: dist.Normal(0.0, jnp.exp(a))}, lambda key, a, b: {"x": b + 0.3 * jr.normal(key)},
        lambda a, b, x: _gauss(a, 0, 1) + _gauss(b, 0, np.exp(a)) + _gauss(x, b, 0.3), ((-8, 8), (-60, 60)),
        learn="joint"),
    two("square_of_parent", "dependent prior", "a ~ N(0, 1), b ~ N(a^2, .5), x = b + .3 e",
        {"a": A, "b": lambda a: dist.Normal(a**2, 0.5)}, lambda key, a, b: {"x": b + 0.3 * jr.normal(key)},
        lambda a, b, x: _gauss(a, 0, 1) + _gauss(b, a**2, 0.5) + _gauss(x, b, 0.3), ((-7, 7), (-4, 50))),
    two("numpyro_model", "dependent prior", "the same by rd.numpyro_prior",
        lambda: rd.numpyro_prior(_numpyro_model), lambda key, a, b: {"x": b + 0.3 * jr.normal(key)},
        lambda a, b, x: _gauss(a, 0, 1) + _gauss(b, a**2, 0.5) + _gauss(x, b, 0.3), ((-7, 7), (-4, 50))),
    two("positive_child", "dependent prior", "a ~ LogNormal(0, .5), log b ~ N(-log a, .3), x_i = b + .2 e_i",
        {"a": dist.LogNormal(0.0, 0.5), "b": lambda a: dist.LogNormal(-jnp.log(a), 0.3)},
        lambda key, a, b: {"x": b + 0.2 * jr.normal(key, (2,))},
        lambda a, b, x: (_gauss(np.log(a), 0, 0.5) - np.log(a) + _gauss(np.log(b), -np.log(a), 0.3) - np.log(b)
                         + sum(_gauss(one, b, 0.2) for one in x)), ((1e-3, 15.0), (1e-3, 15.0))),
    two("mean_and_scale", "dependent prior", "a ~ N(0, 1), log b ~ N(0, .5), x_i = a + b e_i, 8 of them",
        {"a": A, "b": dist.LogNormal(0.0, 0.5)}, lambda key, a, b: {"x": a + b * jr.normal(key, (8,))},
        lambda a, b, x: (_gauss(a, 0, 1) + _gauss(np.log(b), 0, 0.5) - np.log(b)
                         + sum(_gauss(one, a, b) for one in x)), ((-8, 8), (1e-2, 15.0))),
    two("ring", "multimodal", "a, b ~ N(0, 1), x = sqrt(a^2 + b^2) + .1 e",
        {"a": A, "b": A}, lambda key, a, b: {"x": jnp.sqrt(a**2 + b**2) + 0.1 * jr.normal(key)},
        lambda a, b, x: _gauss(a, 0, 1) + _gauss(b, 0, 1) + _gauss(x, np.sqrt(a**2 + b**2), 0.1),
        ((-7, 7), (-7, 7))),
    two("banana", "correlated", "a, b ~ N(0, 1), x = b + a^2 + .05 e", {"a": A, "b": A},
        lambda key, a, b: {"x": b + a**2 + 0.05 * jr.normal(key)},
        lambda a, b, x: _gauss(a, 0, 1) + _gauss(b, 0, 1) + _gauss(x, b + a**2, 0.05), ((-7, 7), (-9, 9))),
    two("product", "correlated", "a, b ~ U(0, 1), x = a b + .02 e",
        {"a": dist.Uniform(0.0, 1.0), "b": dist.Uniform(0.0, 1.0)},
        lambda key, a, b: {"x": a * b + 0.02 * jr.normal(key)},
        lambda a, b, x: _gauss(x, a * b, 0.02), ((0.0, 1.0), (0.0, 1.0))),
]  # fmt: skip
SEVERAL = [*LINEAR, *TWO]
