"""Accidents of ordinary data: runaway rows, failed runs, far observations, missing numbers, and inputs of other types.

The answer is that of the problem without the accident, or, for failed runs, of the prior of the runs that end well.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist

import retrodict as rd
from retrodict_bench.zoo._case import Case, Moments, Observation, Rows
from retrodict_bench.zoo._exact import gaussian, line
from retrodict_bench.zoo._several import linear


EYE = np.eye(3)
SIX = np.ones((6, 1))
STANDARD = dist.Normal(0.0, 1.0)


def _with(name: str, rows: Any, element: Any, value: float) -> Callable[[Rows], Rows]:
    """Returns what sets an element of a variable to a value in some rows."""

    def spoil(sims: Rows) -> Rows:
        sims[name][(rows, *np.index_exp[element])] = value
        return sims

    return spoil


FOUR, TWENTY = slice(100, 9_000, 2_400), slice(0, 10_000, 500)


def _nuisance(key: Any, theta: Any, background: Any) -> dict[str, Any]:
    return {"x": theta + 0.5 * jr.normal(key, (3,))}


def _of_theta(noise: float) -> Callable[[Observation], Moments]:
    def exact(observation: Observation) -> Moments:
        x = np.ravel(observation["x"])
        mean, sd = gaussian(0.0, 1.0, np.ones((x.size, 1)), noise**2 * np.eye(x.size), x)
        return {"theta": (mean[0], sd[0])}

    return exact


RUNAWAYS = [
    linear("runaway_rows", "runaways", "x = theta + .5 e, 4 rows of 10,000 are 1e30", EYE, 0.5,
           spoil=_with("x", FOUR, ..., 1e30)),
    linear("runaway_element", "runaways", "one of six numbers is 1e30 in 4 rows", SIX, 0.5,
           spoil=_with("x", FOUR, 2, 1e30)),
    linear("runaway_twenty", "runaways", "20 rows are -1e12", EYE, 0.5, spoil=_with("x", TWENTY, ..., -1e12)),
    linear("runaway_mild", "runaways", "20 rows are 1000 sd off", EYE, 0.5, spoil=_with("x", TWENTY, ..., 1000.0)),
    linear("runaway_joint", "runaways", "4 rows are 1e30, by joint", EYE, 0.5, spoil=_with("x", FOUR, ..., 1e30),
           learn="joint"),
    linear("runaway_narrow", "runaways", "x = theta + .01 e, 4 rows are 1e10", EYE, 0.01,
           spoil=_with("x", FOUR, ..., 1e10)),
    Case("runaway_nuisance", "runaways", "a nuisance parameter is 1e30 in 4 rows", _of_theta(0.5),
         lambda: rd.Problem({"theta": STANDARD, "background": STANDARD}, _nuisance),
         spoil=_with("background", FOUR, ..., 1e30)),
    linear("runaway_with_zeros", "runaways", "x, 4 rows 1e30, beside a constant", EYE, 0.5,
           spoil=_with("x", FOUR, ..., 1e30), extra=lambda x: {"version": jnp.array(3.0)}),
]  # fmt: skip


# failed runs --------------------------------------------------------------------------------------------------------


def failing(name: str, text: str, log_ok: Callable[[Any, Any], Any], failed: Any, **more: Any) -> Case:
    """Returns x = theta + .5 e whose run ends well with the probability exp(log_ok(theta, NumPy or JAX))."""

    def simulator(key: Any, theta: Any) -> dict[str, Any]:
        one, two = jr.split(key)
        ok = jnp.log(jr.uniform(one)) < log_ok(theta, jnp)
        return {"x": jnp.where(ok, theta + 0.5 * jr.normal(two), jnp.nan)}

    def exact(observation: Observation) -> Moments:
        x = float(observation["x"])

        def log_density(t: np.ndarray) -> Any:
            ignored = log_ok(t, np) if failed != "reweight" else 0.0
            return -0.5 * t**2 - 0.5 * ((x - t) / 0.5) ** 2 + ignored

        return {"theta": line(log_density, -8.0, 8.0)}

    return Case(
        name, "failures", text, exact, lambda: rd.Problem({"theta": STANDARD}, simulator), failed=failed, **more
    )


def _logistic(slope: float, shift: float) -> Callable[[Any, Any], Any]:
    return lambda t, xp: -xp.logaddexp(0.0, -(slope * t + shift))


def _floored(t: Any, xp: Any) -> Any:
    """Returns the log of .15 + .8 logistic(3 t): every parameter can end well."""
    return xp.log(0.15 + 0.8 / (1.0 + xp.exp(-3.0 * t)))


FAILURES = [
    failing("ten_percent_fail", "10 % fail, whatever theta", lambda t, xp: xp.log(0.9) + 0.0 * t, "ignore"),
    failing("ten_percent_fail_unsaid", "the same without a word on it", lambda t, xp: xp.log(0.9) + 0.0 * t, None),
    failing("ten_percent_fail_by_theta", "10 % fail, most at low theta", _logistic(3.0, 4.5), "ignore"),
    failing("sixty_percent_fail", "60 % fail, most at low theta", _logistic(2.0, -0.7), "ignore"),
    failing("reweighted", "45 % fail, most at low theta, failed='reweight'", _floored, "reweight"),
    failing("reweighted_unreachable", "16 % of the prior always fails, failed='reweight'",
            lambda t, xp: xp.where(t > 1.0, -1e9, 0.0), "reweight", bar="said",
            ask=lambda: {"x": np.array([1.0, 1.5])}),
]  # fmt: skip


# far observations ---------------------------------------------------------------------------------------------------


def _asked(*rows: Any) -> Callable[[], Rows]:
    return lambda: {"x": np.array(rows, float)}


NEAR_ROWS = np.random.default_rng(3).normal(size=(50, 3))
NEAR_ROWS[:5] += 40.0
FAR = [
    linear("far_observation", "far", "x = theta + .5 e, x = 60", EYE, 0.5, ask=_asked([60.0, 60.0, 60.0]), bar="said"),
    linear("far_element", "far", "one of six numbers lies 15 sd off", SIX, 0.5,
           ask=_asked([0.1, -0.3, 8.0, 0.4, -0.1, 0.2]), bar="said"),
    linear("far_combination", "far", "x_1 = 2, x_2 = -2, where x_1 - x_2 has the sd .07", [[1.0], [1.0]], 0.05,
           ask=_asked([2.0, -2.0]), bar="said"),
    linear("far_five_of_fifty", "far", "5 of 50 observations lie 40 sd off", EYE, 0.5,
           ask=lambda: {"x": NEAR_ROWS}, bar="said"),
    linear("far_joint", "far", "x = 60, by joint", EYE, 0.5, ask=_asked([60.0, 60.0, 60.0]), bar="said",
           learn="joint"),
    linear("far_by_learn_posterior", "far", "x = 60, by learn_posterior", EYE, 0.5, ask=_asked([60.0, 60.0, 60.0]),
           bar="said", learn="learn_posterior"),
    linear("far_as_a_constant", "far", "a datum that is 3 in all rows is 4", EYE, 0.5,
           extra=lambda x: {"version": jnp.array(3.0)}, bar="said", blame=("version",),
           ask=lambda: {"x": np.zeros((1, 3)), "version": np.array([4.0])}),
    linear("infinite_observation", "far", "an observation is infinite", EYE, 0.5, ask=_asked([np.inf, 0.0, 0.0]),
           bar="said"),
]  # fmt: skip


# missing numbers and inputs of other types --------------------------------------------------------------------------


def _masked(observed: Rows) -> Any:
    return {"x": np.ma.masked_array(np.nan_to_num(observed["x"], nan=-999.0), np.isnan(observed["x"]))}


def _masked_rows(sims: Rows) -> Any:
    x = np.ma.masked_array(sims["x"], np.random.default_rng(0).uniform(size=sims["x"].shape) < 0.1)
    x.data[x.mask] = -999.0
    return {**sims, "x": x}


def _padded(sims: Rows) -> Rows:
    counts = np.random.default_rng(0).integers(1, 7, len(sims["x"]))
    sims["x"][np.arange(6) >= counts[:, None]] = np.nan
    return sims


def _as_type(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Rows], Any]:
    return lambda sims: {**sims, name: change(sims[name])}


def _frozen(theta: Any) -> Any:
    return theta + 0.5 * np.random.default_rng().normal(size=3)  # drawn once, while JAX traces


NAN = np.nan
GAPS = _asked([0.5, NAN, 1.0], [NAN, NAN, -1.5], [1.0, 0.2, NAN])
LINKED = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
INPUTS = [
    linear("missing_elements", "missing", "NaN is not observed, by joint", LINKED, 0.5, ask=GAPS, learn="joint",
           width=128, steps=6_000),
    linear("masked_observation", "missing", "a NumPy mask, by joint; -999 lies under it", LINKED, 0.5, ask=GAPS,
           learn="joint", width=128, steps=6_000, spoil_observations=_masked),
    linear("masked_rows", "missing", "a NumPy mask over training rows", EYE, 0.5, spoil=_masked_rows),
    linear("padded_rows", "missing", "training rows padded with NaN", SIX, 0.5, spoil=_padded),
    linear("complex_data", "types", "x is complex", EYE, 0.5,
           spoil=_as_type("x", lambda x: x + 1j * x), bar="said"),
    linear("text_data", "types", "x is text", EYE, 0.5, spoil=_as_type("x", lambda x: x.astype(str)), bar="said"),
    linear("datetimes", "types", "x are datetimes", EYE, 0.5,
           spoil=_as_type("x", lambda x: (1e9 * x).astype("datetime64[ns]")), bar="said"),
    linear("half_precision", "types", "x is float16", EYE, 0.5, spoil=_as_type("x", lambda x: x.astype(np.float16))),
    linear("integers", "types", "x are integers, 1000 (theta + .5 e)", EYE, 0.5,
           spoil=_as_type("x", lambda x: np.round(1000 * x).astype(np.int64)),
           spoil_observations=_as_type("x", lambda x: np.round(1000 * x).astype(np.int64))),
    linear("objects", "types", "x is an array of Python objects", EYE, 0.5,
           spoil=_as_type("x", lambda x: x.astype(object))),
    Case("frozen_noise", "claims", "NumPy noise in an undecorated simulator: drawn once", _of_theta(0.5),
         lambda: rd.Problem({"theta": STANDARD}, lambda key, theta: {"x": _frozen(theta)}), bar="said",
         blame=("simulator",), ask=_asked([0.5, 0.3, 0.7])),
    Case("outside_support", "claims", "rows of a parameter declared in (0, 1) lie in (0, 2)", None,
         lambda: rd.Problem({"theta": dist.Uniform(0.0, 1.0)}, lambda key, theta: {"x": theta + jr.normal(key)}),
         spoil=_as_type("theta", lambda theta: 2 * theta), bar="said", blame=("theta",)),
    Case("outside_support_of_data", "claims", "an observation of data declared positive is -1", None,
         lambda: rd.Problem({"theta": STANDARD}, lambda key, theta: {"x": jnp.exp(theta + 0.5 * jr.normal(key))},
                            supports={"x": dist.constraints.positive}), bar="said", ask=_asked(-1.0)),
    Case("delta_prior", "claims", "a parameter is Delta(2)", _of_theta(0.5),
         lambda: rd.Problem({"theta": STANDARD, "fixed": dist.Delta(2.0)},
                            lambda key, theta, fixed: {"x": theta + 0.5 * jr.normal(key, (3,))}),
         blame=("fixed",)),
]  # fmt: skip


ACCIDENTS = [*RUNAWAYS, *FAILURES, *FAR, *INPUTS]
