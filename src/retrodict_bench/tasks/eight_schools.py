"""Eight schools: the effect of coaching on test scores in eight schools, each with a known standard error.

    mu ~ N(0, 5),   tau ~ HalfCauchy(5),   theta_s ~ N(mu, tau^2),   y_s ~ N(theta_s, sigma_s^2), sigma_s known

The data are Rubin's (1981, Journal of Educational Statistics 6, 377), as in Gelman et al., Bayesian Data Analysis,
section 5.5, in points of the test. The priors are those of Stan's and PyMC's versions of the example. A simulated
school has log sigma ~ U(log 5, log 25), which covers all eight; sigma is a datum: give it together with y.

Reference. NUTS on mu, tau and the z_s of theta_s = mu + tau z_s, whose prior, unlike that of theta_s, is independent of
tau.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict import DataError, Plate, Problem
from retrodict._types import Key, as_key
from retrodict.problem import Prior
from retrodict_bench.tasks._laws import log_normal
from retrodict_bench.tasks._nuts import exact_draws
from retrodict_bench.tasks._sites import log_joint
from retrodict_bench.tasks._task import Rows, Task, frozen


EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
ERRORS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)
SCALE = 5.0  # of both priors
MIN_ERROR, MAX_ERROR = 5.0, 25.0  # standard errors of simulated schools
REFERENCE_DRAWS, SEED = 10_000, 1981


def simulate(key: PRNGKeyArray, mu: Array, tau: Array, theta: Array) -> dict[str, Array]:
    """Draws `y` and its standard error `sigma` of one school, in points."""
    key_error, key_noise = jr.split(key)
    sigma = jnp.exp(jr.uniform(key_error, minval=math.log(MIN_ERROR), maxval=math.log(MAX_ERROR)))
    return {"y": theta + sigma * jr.normal(key_noise), "sigma": sigma}


def log_likelihood(*, mu: Array, tau: Array, theta: Array, y: Array, sigma: Array) -> Array:
    """Returns log p(y | theta, sigma) of one school."""
    return log_normal(y, theta, sigma)


def problem() -> Problem:
    """Returns the priors of the module's first lines and the simulator; the plate is `site`, a school."""
    import numpyro.distributions as dist

    prior = {
        "mu": dist.Normal(0.0, SCALE),
        "tau": dist.HalfCauchy(SCALE),
        "site": Plate("site", {"theta": lambda mu, tau: dist.Normal(mu, tau)}),
    }
    return Problem(prior, simulate, supports={"sigma": dist.constraints.interval(MIN_ERROR, MAX_ERROR)})


def exact_posterior(
    y: Any, sigma: Any, key: Key, *, draws: int = REFERENCE_DRAWS
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """Draws `mu` and `tau` (draws,) and `theta` (draws, schools) by NUTS.

    Args:
        y: the effects (schools,), in points.
        sigma: their standard errors (schools,), positive.
        key: a key from `jax.random`, or an integer.
        draws: their number, taken evenly from four chains.

    Returns:
        The draws; and, by the names `mu`, `tau` and `z 0`, ..., `r_hat` and the number of independent draws, `ess`.

    Raises:
        DataError: `y` and `sigma` do not fit, or `draws` is not positive.
        QueryError: the chains disagree (r_hat of 1.01 or more), or hold fewer than 1000 independent draws.
    """
    import numpyro.distributions as dist

    y, sigma = np.asarray(y, np.float32), np.asarray(sigma, np.float32)
    if y.ndim != 1 or sigma.shape != y.shape or not (np.isfinite(y).all() and np.all(sigma > 0)):
        raise DataError(f"each school has an effect and a positive error, got {y.shape} and {sigma.shape}")
    names = [f"z {s}" for s in range(len(y))]

    def score(values: Mapping[str, Array]) -> Array:
        z = jnp.stack([values[name] for name in names])
        return jnp.sum(log_normal(y, values["mu"] + values["tau"] * z, sigma))

    flat = {"mu": dist.Normal(0.0, SCALE), "tau": dist.HalfCauchy(SCALE), **{k: dist.Normal() for k in names}}
    chains, numbers = exact_draws(Prior(flat), score, as_key(key), draws=draws)
    theta = chains["mu"][:, None] + chains["tau"][:, None] * np.stack([chains[k] for k in names], axis=1)
    return {"mu": chains["mu"], "tau": chains["tau"], "theta": theta}, numbers


@functools.cache
def reference() -> tuple[Rows, Mapping[str, Mapping[str, float]]]:
    """Returns the draws of `task().reference(1)` with a leading axis of one, and the convergence of their chains."""
    draws, numbers = exact_posterior(EFFECTS, ERRORS, SEED)
    return {name: frozen(value[None].astype(np.float32)) for name, value in draws.items()}, numbers


@functools.cache
def _observations() -> Rows:
    return {"y": frozen(np.asarray([EFFECTS], np.float32)), "sigma": frozen(np.asarray([ERRORS], np.float32))}


def _no_truths() -> Rows:
    raise DataError("'eight_schools' has real data: nobody knows the true parameters; see `task.reference(1)`")


def task() -> Task:
    """Returns the task: `mu` and `tau`, and for every school `theta`, `y` and `sigma`; one real observation.

    Its reference is 10,000 draws by NUTS, made on first use, once in a process.
    """
    schools = problem()
    joint = log_joint(schools, log_likelihood)
    return Task(
        "eight_schools",
        schools,
        _observations,
        _no_truths,
        lambda: reference()[0],
        log_likelihood,
        sites=len(EFFECTS),
        log_joint=joint,
    )
