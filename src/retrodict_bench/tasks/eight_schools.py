"""Eight schools: what coaching did for test scores in eight schools, each effect estimated with an error of its own.

    mu ~ N(0, 5),   tau ~ HalfCauchy(5),   theta_s ~ N(mu, tau^2),   y_s ~ N(theta_s, sigma_s^2), sigma_s known

The data are Rubin's (1981, Journal of Educational Statistics 6, 377), as in Gelman et al., Bayesian Data Analysis,
section 5.5, in points of the test; the priors are those that Stan's and PyMC's versions of the example use. A simulated
school has log sigma ~ U(log 5, log 25), which covers all eight, and sigma stands among the data: give it with y.

Reference. NUTS on mu, tau and the z_s of theta_s = mu + tau z_s, which unlike theta_s do not depend on tau beforehand.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import DataError
from retrodict._types import Key, as_key
from retrodict.problem import Plate, Prior, Problem
from retrodict_bench.tasks._laws import log_normal
from retrodict_bench.tasks._nuts import exact_draws
from retrodict_bench.tasks._sites import log_joint
from retrodict_bench.tasks._task import Rows, Task, frozen


EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
ERRORS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)
SCALE = 5.0  # of both priors
LEAST, MOST = 5.0, 25.0  # standard errors of simulated schools
REFERENCE, SEED = 10_000, 1981


def simulate(key: PRNGKeyArray, mu: Array, tau: Array, theta: Array) -> dict[str, Array]:
    """One draw of `y` and its standard error `sigma` of one school, in points."""
    key_error, key_noise = jr.split(key)
    sigma = jnp.exp(jr.uniform(key_error, minval=math.log(LEAST), maxval=math.log(MOST)))
    return {"y": theta + sigma * jr.normal(key_noise), "sigma": sigma}


def log_likelihood(*, mu: Array, tau: Array, theta: Array, y: Array, sigma: Array) -> Array:
    """log p(y | theta, sigma) of one school."""
    return log_normal(y, theta, sigma)


def problem() -> Problem:
    """The priors of the module's first lines; the plate is `site`, a school."""
    import numpyro.distributions as dist

    prior = {
        "mu": dist.Normal(0.0, SCALE),
        "tau": dist.HalfCauchy(SCALE),
        "site": Plate("site", {"theta": lambda mu, tau: dist.Normal(mu, tau)}),
    }
    return Problem(prior, simulate, supports={"sigma": dist.constraints.interval(LEAST, MOST)})


def exact_posterior(
    y: Any, sigma: Any, key: Key, *, draws: int = REFERENCE
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """Draws of `mu` and `tau` (draws,) and `theta` (draws, schools) by NUTS, and how well the chains agree.

    Args:
        y: the effects (schools,), in points.
        sigma: their standard errors (schools,), positive.
        key: a key from `jax.random`, or an integer.
        draws: taken evenly from four chains.

    Returns:
        The draws; and by the names `mu`, `tau` and `z 0`, ... the `r_hat` and the independent draws, `ess`.

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
    found, numbers = exact_draws(Prior(flat), score, as_key(key), draws=draws)
    theta = found["mu"][:, None] + found["tau"][:, None] * np.stack([found[k] for k in names], axis=1)
    return {"mu": found["mu"], "tau": found["tau"], "theta": theta}, numbers


@functools.cache
def reference() -> tuple[Rows, Mapping[str, Mapping[str, float]]]:
    """The draws of `task().reference(1)` with a leading axis of one, and how well their chains agree."""
    draws, numbers = exact_posterior(EFFECTS, ERRORS, SEED)
    return {name: frozen(value[None].astype(np.float32)) for name, value in draws.items()}, numbers


@functools.cache
def _observations() -> Rows:
    return {"y": frozen(np.asarray([EFFECTS], np.float32)), "sigma": frozen(np.asarray([ERRORS], np.float32))}


def _no_truths() -> Rows:
    raise DataError("'eight_schools' has real data: nobody knows the true parameters; see `task.reference(1)`")


def task() -> Task:
    """`mu` and `tau`, and of every school `theta`, `y` and `sigma`; one observation, the one that history made.

    Its reference is 10,000 draws by NUTS, made when they are asked for, once in a process.
    """
    made = problem()
    joint = log_joint(made, log_likelihood)
    return Task(
        "eight_schools",
        made,
        _observations,
        _no_truths,
        lambda: reference()[0],
        log_likelihood,
        sites=len(EFFECTS),
        log_joint=joint,
    )
