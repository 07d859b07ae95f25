"""Snowshoe hare and Canada lynx, 1900 to 1920: pelts of the Hudson's Bay Company and Lotka-Volterra equations.

    h' = alpha h - beta h l            hares, in thousands of pelts; t in years, t = 0 is 1900
    l' = delta h l - gamma l           lynxes
    hare[t] ~ LogNormal(log h(t), sigma_hare),   lynx[t] ~ LogNormal(log l(t), sigma_lynx),   t = 0, ..., 20

The model is that of the Stan case study (Carpenter 2018), priors included; the counts are Hewitt's (1921), as printed
by Howard (2009). The noise of each count is independent, so a missing count drops out of the likelihood.

Solution. In the logs u = log h, v = log l the equations are u' = alpha - beta e^v, v' = delta e^u - gamma, and

    V = delta h - gamma log h + beta l - alpha log l

is constant. They are solved with a fixed step, see `_oscillation`. V drifts in a row whose step is too long; the row is
then NaN and counts as failed.
"""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import DataError, Problem
from retrodict._errors import unknown
from retrodict._types import Key, as_key
from retrodict.problem import Prior
from retrodict_bench.tasks import _oscillation
from retrodict_bench.tasks._laws import log_normal_observed
from retrodict_bench.tasks._nuts import LogLikelihood, exact_draws, nuts
from retrodict_bench.tasks._task import Rows, Task, frozen


YEARS = tuple(range(1900, 1921))
PARAMETERS = ("alpha", "beta", "gamma", "delta", "hare_0", "lynx_0", "sigma_hare", "sigma_lynx")
MISSING = (3, 7, 10, 13, 16, 19)
"""Indices of six lynx counts (1903, 1907, 1910, 1913, 1916, 1919) that a question leaves out: see `exact`."""
FORECAST = 11
"""Index of 1911, the first year of a forecast given 1900 to 1910: see `exact`."""

# fmt: off
HARE = (30.0, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22.0, 25.4, 27.1,
        40.3, 57.0, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7)
LYNX = (4.0, 6.1, 9.8, 35.2, 59.4, 41.7, 19.0, 13.0, 8.3, 9.1, 7.4,
        8.0, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6)
# fmt: on

STEPS = 100  # a year
DRIFT = 1e-3  # of V at most: u and v are then within 5e-3 of the solution, below the noise scales of the prior


def log_populations(parameters: Mapping[str, Array]) -> tuple[Float[Array, "21"], Float[Array, "21"]]:
    """Returns log h and log l at t = 0, ..., 20, or NaN everywhere if V drifted by more than `DRIFT`."""
    p, start = parameters, (jnp.log(parameters["hare_0"]), jnp.log(parameters["lynx_0"]))
    rates = (p["alpha"], p["beta"], p["delta"], p["gamma"])
    u, v = _oscillation.log_populations(rates, start, times=len(YEARS), between=1.0, steps=STEPS)
    conserved = p["delta"] * jnp.exp(u) - p["gamma"] * u + p["beta"] * jnp.exp(v) - p["alpha"] * v
    accurate = jnp.max(jnp.abs(conserved - conserved[0])) <= DRIFT  # false for NaN, too
    return jnp.where(accurate, u, jnp.nan), jnp.where(accurate, v, jnp.nan)


def simulate(key: PRNGKeyArray, **parameters: Array) -> dict[str, Array]:
    """Draws `hare` and `lynx`, each (21,) and positive, given the eight `PARAMETERS`.

    A count below the smallest normal float32, 1e-38, is NaN: no float32 represents it, and a floor in its place would
    put an atom into its distribution.
    """
    key_hare, key_lynx = jr.split(key)
    u, v = log_populations(parameters)
    return {
        "hare": _counts(key_hare, u, parameters["sigma_hare"]),
        "lynx": _counts(key_lynx, v, parameters["sigma_lynx"]),
    }


def _counts(key: PRNGKeyArray, w: Float[Array, "21"], sigma: Array) -> Float[Array, "21"]:
    counts = jnp.exp(w + sigma * jr.normal(key, w.shape))
    return jnp.where(counts >= jnp.finfo(counts.dtype).tiny, counts, jnp.nan)


def log_likelihood(*, hare: Float[Array, "21"], lynx: Float[Array, "21"], **parameters: Array) -> Float[Array, ""]:
    """Returns log p(hare, lynx | parameters); counts that are NaN are left out."""
    u, v = log_populations(parameters)
    return _log_normal(hare, u, parameters["sigma_hare"]) + _log_normal(lynx, v, parameters["sigma_lynx"])


def _log_normal(counts: Float[Array, "21"], w: Float[Array, "21"], sigma: Array) -> Float[Array, ""]:
    logs = jnp.log(counts)
    return log_normal_observed(logs, w, sigma) - jnp.nansum(logs)


def problem() -> Problem:
    """Returns the priors of the Stan case study, all on the positive half-line, and the simulator.

    alpha, gamma ~ N(1, .5); beta, delta ~ N(.05, .05); hare_0, lynx_0 ~ LogNormal(log 10, 1); sigma_hare, sigma_lynx ~
    LogNormal(-1, 1).
    """
    import numpyro.distributions as dist

    rate, contact = dist.TruncatedNormal(1.0, 0.5, low=0.0), dist.TruncatedNormal(0.05, 0.05, low=0.0)
    start, noise = dist.LogNormal(math.log(10.0), 1.0), dist.LogNormal(-1.0, 1.0)
    entries = (rate, contact, rate, contact, start, start, noise, noise)
    supports = {"hare": dist.constraints.positive, "lynx": dist.constraints.positive}
    return Problem(dict(zip(PARAMETERS, entries, strict=True)), simulate, supports=supports)


def exact_posterior(given: Mapping[str, Any], key: Key, *, draws: int = 4000) -> dict[str, np.ndarray]:
    """Draws each of the eight parameters `(draws,)` from their exact posterior, by NUTS, in about a minute.

    Args:
        given: `hare` and `lynx`, each (21,); NaN, or a variable that is left out, is not observed.
        key: a key from `jax.random`, or an integer.
        draws: their number, taken evenly from four chains of at least 1000 draws.

    Raises:
        DataError: `given` has an unknown name, a wrong shape or counts that are not positive, or `draws` is below 1.
        QueryError: the chains disagree (r_hat of 1.01 or more), or hold fewer than 1000 independent draws.
    """
    return exact_draws(*_posterior(given), as_key(key), draws=draws)[0]


def exact_chains(given: Mapping[str, Any], key: Key, *, draws: int) -> dict[str, np.ndarray]:
    """Runs the four chains of `exact_posterior`, `(4, draws)` for each parameter, without a test of convergence."""
    return nuts(*_posterior(given), as_key(key), draws=draws)


def _posterior(given: Mapping[str, Any]) -> tuple[Prior, LogLikelihood]:
    """Returns the prior, and the log likelihood of the given counts."""
    data, prior = _checked_counts(given), problem().prior
    assert isinstance(prior, Prior)  # for mypy: `problem` gives it a mapping
    return prior, lambda values: log_likelihood(**data, **values)


def _checked_counts(given: Mapping[str, Any]) -> dict[str, Array]:
    full = {name: np.full(len(YEARS), np.nan, np.float32) for name in ("hare", "lynx")}
    for name, value in given.items():
        if name not in full:
            raise DataError(unknown("`given`", name, full, owner="exact posteriors are there for"))
        counts = np.asarray(value, np.float32)
        if counts.shape != (len(YEARS),):
            raise DataError(f"'{name}' has one count for each of {len(YEARS)} years, got the shape {counts.shape}")
        if not np.all((counts > 0) & np.isfinite(counts) | np.isnan(counts)):
            raise DataError(f"'{name}' has counts that are not positive numbers: write NaN for what was not observed")
        full[name] = counts
    return {name: jnp.asarray(counts) for name, counts in full.items()}


def pelts(key: Key, draws: Mapping[str, Any]) -> dict[str, Array]:
    """Draws new counts, `hare` and `lynx`, each (n, 21), at draws `(n,)` of the parameters."""
    values = {name: jnp.asarray(draws[name], float) for name in PARAMETERS}
    keys = jr.split(as_key(key), len(values["alpha"]))
    return jax.jit(jax.vmap(lambda k, p: simulate(k, **p)))(keys, values)


def questions() -> dict[str, dict[str, np.ndarray]]:
    """Returns the given counts of each of the three questions that `exact` answers; NaN is not observed."""
    hare, lynx = (np.asarray(counts, np.float32) for counts in (HARE, LYNX))
    year = np.arange(len(YEARS))
    future, hidden = year >= FORECAST, np.isin(year, MISSING)
    return {
        "full": {"hare": hare, "lynx": lynx},
        "forecast": {"hare": np.where(future, np.nan, hare), "lynx": np.where(future, np.nan, lynx)},
        "missing": {"hare": hare, "lynx": np.where(hidden, np.nan, lynx)},
    }


def exact() -> dict[str, Any]:
    """Returns summaries of the exact posterior, from long runs of NUTS (`tools/exact_lynx_hare.py`).

    There are three questions: `full`, given all 42 counts; `forecast`, given the counts before year `FORECAST`;
    `missing`, given all counts but the lynx counts `MISSING`. Each holds `parameters`, and the last two the predicted
    counts with their `index`: mean, sd, q05, q50, q95, log_mean and log_sd of each.
    """
    return json.loads(Path(__file__).with_name("lynx_hare_exact.json").read_text(encoding="utf-8"))


@functools.cache
def _observations() -> Rows:
    return {name: frozen(np.asarray([counts], np.float32)) for name, counts in (("hare", HARE), ("lynx", LYNX))}


def _no_truths() -> Rows:
    raise DataError("'lynx_hare' has real data: nobody knows the true parameters; see `lynx_hare.exact()`")


def _no_references() -> Rows:
    raise DataError("'lynx_hare' has no stored draws: `lynx_hare.exact_posterior(given, key)` makes them in a minute")


def task() -> Task:
    """Returns the task: eight parameters, `hare` (21,) and `lynx` (21,); one real observation."""
    return Task("lynx_hare", problem(), _observations, _no_truths, _no_references, log_likelihood)
