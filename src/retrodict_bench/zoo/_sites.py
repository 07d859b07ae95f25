"""Hierarchies: sites seen through offsets and units, counts, ragged sites, and i.i.d. trials.

mu ~ N(0, 1),  eta_s ~ N(mu, .5),  z_si = eta_s + .5 e,  y = forward(z)        conjugate formulas
eta_s ~ N(mu, sd),  y_s ~ Poisson(exp(eta_s))                                   quadrature, mu outside, eta inside
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
from scipy import special

import retrodict as rd
from retrodict_bench.zoo._case import Case, Moments, Observation, Rows
from retrodict_bench.zoo._exact import gaussian, line


SPREAD, NOISE, SITES, REPEATS = 0.5, 0.5, 10, 3
SETTINGS: dict[str, Any] = {"learn": "hierarchical", "sites": SITES}


def normal_exact(z: np.ndarray, *, own: bool = True) -> Moments:
    """Returns the answer of Gaussian sites given z `(sites, repeats)`; NaN is not observed."""
    sites, repeats = z.shape
    covariance = np.ones((sites + 1, sites + 1))  # of mu and all eta
    covariance[1:, 1:] += SPREAD**2 * np.eye(sites)
    matrix = np.concatenate([np.zeros((sites * repeats, 1)), np.repeat(np.eye(sites), repeats, axis=0)], axis=1)
    mean, sd = gaussian(np.zeros(sites + 1), covariance, matrix, NOISE**2 * np.eye(sites * repeats), z)
    return {"mu": (mean[0], sd[0]), **({"eta": (mean[1:], sd[1:])} if own else {})}


def normal(name: str, text: str, forward: Callable[[Any], Any], backward: Callable[[Any], Any], **more: Any) -> Case:
    """Returns Gaussian sites whose data are on another scale, made in NumPy."""

    def simulator(rng: np.random.Generator, mu: Any, eta: Any) -> dict[str, Any]:
        return {"y": forward(np.float64(eta) + NOISE * rng.normal(size=REPEATS))}

    def exact(observation: Observation) -> Moments:
        return normal_exact(backward(np.asarray(observation["y"], np.float64)))

    def problem() -> rd.Problem:
        plate = rd.Plate("site", {"eta": lambda mu: dist.Normal(mu, SPREAD)})
        return rd.Problem({"mu": dist.Normal(0.0, 1.0), "site": plate}, rd.numpy_simulator(simulator))

    return Case(name, "sites", text, exact, problem, **{**SETTINGS, **more})


def counts(name: str, text: str, level: float, spread: float, **more: Any) -> Case:
    """Returns Poisson sites, log rate eta ~ N(mu, spread), mu ~ N(level, .5)."""

    def exact(observation: Observation) -> Moments:
        y = np.asarray(observation["y"], np.float64).ravel()
        logs = np.log(np.maximum(y, 0.5))
        half = np.minimum(12.0 / np.sqrt(np.maximum(y, 0.5)), 14.0)  # of a grid of eta around its likelihood
        eta = logs[:, None] + half[:, None] * np.linspace(-1.0, 1.0, 401)
        log_data = y[:, None] * eta - np.exp(eta) - special.gammaln(y[:, None] + 1.0)

        def of_mu(mu: np.ndarray) -> np.ndarray:  # log of the integrand, (grid of mu, sites, grid of eta)
            return log_data - 0.5 * ((eta - mu[:, None, None]) / spread) ** 2

        def log_density(mu: np.ndarray) -> np.ndarray:
            return -0.5 * ((mu - level) / 0.5) ** 2 + special.logsumexp(of_mu(mu), axis=2).sum(axis=1)

        mean, sd = line(log_density, level - 5.0, level + 5.0, points=101)
        mu = np.linspace(mean - 8 * sd, mean + 8 * sd, 201)
        log_weights = log_density(mu)
        weights = np.exp(log_weights - log_weights.max())
        inner = np.exp(of_mu(mu) - of_mu(mu).max(axis=2, keepdims=True))
        inner *= (weights / weights.sum())[:, None, None] / inner.sum(axis=2, keepdims=True)
        share = inner.sum(axis=0)  # of every eta, (sites, grid)
        first = (share * eta).sum(axis=1)
        second = (share * (eta - first[:, None]) ** 2).sum(axis=1)
        return {"mu": (mean, sd), "eta": (first, np.sqrt(second))}

    def problem() -> rd.Problem:
        plate = rd.Plate("site", {"eta": lambda mu: dist.Normal(mu, spread)})
        return rd.Problem(
            {"mu": dist.Normal(level, 0.5), "site": plate},
            lambda key, mu, eta: {"y": jr.poisson(key, jnp.exp(eta)).astype(float)},
        )

    return Case(name, "sites", text, exact, problem, **{**SETTINGS, **more})


def trials(name: str, text: str, number: int, scale: float = 1.0, shift: float = 0.0) -> Case:
    """Returns i.i.d. trials y = shift + scale (mu + e), mu ~ N(0, 1)."""

    def exact(observation: Observation) -> Moments:
        z = (np.asarray(observation["y"], np.float64).ravel() - shift) / scale
        mean, sd = gaussian(0.0, 1.0, np.ones((z.size, 1)), np.eye(z.size), z)
        return {"mu": (mean[0], sd[0])}

    def problem() -> rd.Problem:
        prior = {"mu": dist.Normal(0.0, 1.0), "trial": rd.Plate("trial", {})}
        return rd.Problem(
            prior, rd.numpy_simulator(lambda rng, mu: {"y": shift + scale * (np.float64(mu) + rng.normal())})
        )

    return Case(name, "sites", text, exact, problem, **{**SETTINGS, "sites": number})


def _ragged() -> Rows:
    rng = np.random.default_rng(5)
    z = (
        rng.normal(size=(2, 1, 1))
        + SPREAD * rng.normal(size=(2, SITES, 1))
        + NOISE * rng.normal(size=(2, SITES, REPEATS))
    )
    z[:, ::2, 2] = np.nan
    z[:, ::5, 1] = np.nan
    z[:, 7] = np.nan  # a site without any data
    return {"y": z}


def _runaway(sims: Rows) -> Rows:
    sims["y"][100:9_000:2_400] = 1e30
    return sims


def _same(z: Any) -> Any:
    return z


SITE_CASES = [
    normal("sites", "10 sites of 3 numbers", _same, _same),
    normal("ragged_sites", "the same with 1 to 3 numbers, and a site without", _same, _same, ask=_ragged),
    normal("unix_times_at_sites", "y = 1.7e9 + z", lambda z: 1.7e9 + z, lambda y: y - 1.7e9),
    normal("picoamperes_at_sites", "y = 1e-12 z", lambda z: 1e-12 * z, lambda y: y / 1e-12),
    normal("decades_at_sites", "y = 10^(2 z)", lambda z: 10.0 ** (2 * z), lambda y: np.log10(y) / 2),
    normal("runaways_at_sites", "4 of 10,000 sites are 1e30", _same, _same, spoil=_runaway),
    counts("millions_at_sites", "y ~ Poisson(exp(eta)), about 1e6", 14.0, 0.2),
    counts("small_counts_at_sites", "y ~ Poisson(exp(eta)), about 2", 0.7, 0.3),
    trials("fifty_trials", "50 trials of a plate without parameters", 50),
    trials("trials_with_an_offset", "20 trials, y = 2460000.5 + z / 86400", 20, 1 / 86_400.0, 2460000.5),
]
