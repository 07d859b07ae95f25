"""Influenza at an English boarding school, January 1978: 763 boys, and the number of them in bed on each day.

    S' = -beta S I / N,   I' = beta S I / N - gamma I,   R' = gamma I,    N = 763;   t in days
    in_bed[t] ~ NegativeBinomial(mean I(t), variance I(t) + a I(t)^2),    t = 1, ..., 14

The counts are those of the report (British Medical Journal 1978, 1, 587), whose first day, 22 January, is t = 1. Day 0
is the day before, and S(0) = N - I(0), R(0) = 0. The parameters are quantities with an interpretation:

    r0 = beta / gamma            ~ LogNormal(log 3, .5)     boys infected by one boy at first, 1.1 to 8 (95 %)
    period = 1 / gamma           ~ LogNormal(log 2, .5)     mean days in I, .75 to 5.3
    initial = I(0)               ~ LogNormal(0, 1)          boys, .14 to 7.1
    overdispersion = a           ~ Exponential(5)           the relative sd of a large count is a fifth at a = .04

Boys who sleep in one room have a larger r0 than the 1.3 to 1.8 of towns (Biggerstaff et al. 2014). A boy in bed infects
few others, so `period` is the time he stays *infectious*, a day or two, rather than ill. The negative binomial covers
errors of the equations, above all that boys in bed and infectious boys are not the same. The prior of a is that of the
Stan case study (Grinsztajn et al. 2021, Statistics in Medicine 40, 6209), which has its other priors on beta and gamma
and sets I(0) = 1. Counts are treated as real numbers. A negative binomial is not bounded by 763, and a few counts are
larger.

Two models share all of this. In `problem` beta is constant; in `varying` it is a function of time, `contact`,

    log beta(t) = log(r0 / period) + f(t),   f a Gaussian process, cov(f(s), f(t)) = .5^2 exp(-(s - t)^2 / (2 * 3^2))

which lets contacts halve or double within days, as boys go to bed. It has values on `GRID`, four points a day.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import DataError, Function, Problem
from retrodict._types import Key, as_key
from retrodict.problem import Prior
from retrodict_bench.tasks._epidemic import epidemic
from retrodict_bench.tasks._functions import cholesky
from retrodict_bench.tasks._nuts import exact_draws
from retrodict_bench.tasks._task import Rows, Task, frozen


BOYS, DAYS = 763, 14
IN_BED = (3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4)
PARAMETERS = ("r0", "period", "initial", "overdispersion")

# points of the grid a day, and steps from one to the next: 1 + I(t) is within .4 % of a solution with finer steps
A_DAY, STEPS = 4, 5
GRID = np.linspace(0.0, DAYS, A_DAY * DAYS + 1)
AMPLITUDE, LENGTH = 0.5, 3.0
POINTS = 14  # of beta(t) in a row, at random times
TRUNCATED_VARIANCE = 1e-4  # share of the variance of f that NUTS's sum of waves leaves out

MIN_MEAN = 1e-6  # of a count, in boys: its logarithm stays finite
REFERENCE_DRAWS, SEED = 10_000, 78


def curves(contact: Float[Array, "57"], period: Array, initial: Array) -> dict[str, Float[Array, "57"]]:
    """Returns `susceptible`, `infected` and `recovered` boys on the grid, given beta(t) there."""
    share = jnp.minimum(initial / BOYS, 1.0)
    s, i, a = epidemic(contact, 1 / period, (1 - share, share), between=1 / A_DAY, steps=STEPS)
    return {"susceptible": BOYS * s, "infected": BOYS * i, "recovered": BOYS * a / period}


def constant_contact(r0: Array, period: Array) -> Float[Array, "57"]:
    """Returns beta on the grid, constant in time."""
    return jnp.broadcast_to(r0 / period, GRID.shape)


def contact_law(r0: Array, period: Array) -> Any:
    """Returns the law of beta(t) on the grid."""
    import numpyro.distributions as dist

    factor = jnp.asarray(cholesky(tuple(GRID.tolist()), AMPLITUDE, LENGTH), float)
    center = jnp.log(constant_contact(r0, period))
    return dist.TransformedDistribution(
        dist.MultivariateNormal(center, scale_tril=factor), dist.transforms.ExpTransform()
    )


def means(infected: Float[Array, "57"]) -> Float[Array, "14"]:
    """Returns the means of the counts of days 1 to 14."""
    return jnp.maximum(infected[A_DAY::A_DAY], MIN_MEAN)


def count(key: PRNGKeyArray, mean: Float[Array, "14"], overdispersion: Array) -> Float[Array, "14"]:
    """Draws negative binomial counts, as Poisson counts whose mean is gamma distributed."""
    key_mean, key_count = jr.split(key)
    shape = 1 / overdispersion
    return jr.poisson(key_count, mean * jr.gamma(key_mean, shape, mean.shape) / shape).astype(float)


def simulate(
    key: PRNGKeyArray,
    r0: Array,
    period: Array,
    initial: Array,
    overdispersion: Array,
    contact: Float[Array, "57"] | None = None,
) -> dict[str, Float[Array, "14"]]:
    """Draws `in_bed` given beta(t) on the grid, or with a constant contact rate."""
    beta = constant_contact(r0, period) if contact is None else contact
    return {"in_bed": count(key, means(curves(beta, period, initial)["infected"]), overdispersion)}


def log_likelihood(
    *,
    in_bed: Float[Array, "14"],
    r0: Array,
    period: Array,
    initial: Array,
    overdispersion: Array,
    contact: Float[Array, "57"] | None = None,
) -> Float[Array, ""]:
    """Returns log P(in_bed | parameters), with `contact` as in `simulate`; counts that are NaN are left out.

    In float32 its error is below .01 if the overdispersion is above 1e-4, as in nearly all draws of the prior.
    """
    beta = constant_contact(r0, period) if contact is None else contact
    mean = means(curves(beta, period, initial)["infected"])
    observed = ~jnp.isnan(in_bed)
    x, shape = jnp.where(observed, in_bed, 0.0), 1 / overdispersion
    log_binomial = gammaln(x + shape) - gammaln(shape) - gammaln(x + 1)
    excess = overdispersion * mean
    terms = log_binomial + x * (jnp.log(excess) - jnp.log1p(excess)) - shape * jnp.log1p(excess)
    return jnp.sum(jnp.where(observed, terms, 0.0))


def prior() -> dict[str, Any]:
    """Returns the laws of the four parameters of the module's first lines, independent and positive."""
    import numpyro.distributions as dist

    return {
        "r0": dist.LogNormal(math.log(3.0), 0.5),
        "period": dist.LogNormal(math.log(2.0), 0.5),
        "initial": dist.LogNormal(0.0, 1.0),
        "overdispersion": dist.Exponential(5.0),
    }


def problem() -> Problem:
    """Returns the priors and the simulator with a constant contact rate."""
    return Problem(prior(), simulate)


def varying() -> Problem:
    """Returns the priors and the simulator with `contact`, beta(t), a function of time."""
    return Problem({**prior(), "contact": Function(contact_law, GRID, POINTS)}, simulate)


def exact_posterior(in_bed: Any, key: Key, *, draws: int = 4000, varies: bool = False) -> dict[str, np.ndarray]:
    """Draws each of the four parameters `(draws,)` from their exact posterior, by NUTS.

    Args:
        in_bed: the counts (14,); NaN is not observed.
        key: a key from `jax.random`, or an integer.
        draws: their number, taken evenly from four chains of at least 1000 draws.
        varies: whether the contact rate varies; `contact` `(draws, 57)` on the grid is then drawn, too.

    Raises:
        DataError: the counts have another shape or are negative, or `draws` is not positive.
        QueryError: the chains disagree (r_hat of 1.01 or more), or hold fewer than 1000 independent draws.
    """
    counts = np.asarray(in_bed, np.float32)
    if counts.shape != (DAYS,):
        raise DataError(f"'in_bed' has one count for each of {DAYS} days, got the shape {counts.shape}")
    if not np.all((counts >= 0) & np.isfinite(counts) | np.isnan(counts)):
        raise DataError("'in_bed' has counts that are no counts: write NaN for what was not observed")
    waves = _waves() if varies else np.zeros((0, len(GRID)))
    loads = [f"load {i}" for i in range(len(waves))]

    def contact(values: Mapping[str, Any]) -> Array:
        f = jnp.stack([values[name] for name in loads]) @ jnp.asarray(waves, float) if varies else 0.0
        return constant_contact(values["r0"], values["period"]) * jnp.exp(f)

    def score(values: Mapping[str, Array]) -> Array:
        return log_likelihood(
            in_bed=jnp.asarray(counts), contact=contact(values), **{name: values[name] for name in PARAMETERS}
        )

    flat, _ = exact_draws(Prior({**prior(), **_standard(loads)}), score, as_key(key), draws=draws)
    parameters = {name: flat[name] for name in PARAMETERS}
    return {**parameters, "contact": np.asarray(jax.vmap(contact)(flat))} if varies else parameters


def _waves() -> Float[np.ndarray, "waves 57"]:
    """Returns the Karhunen-Loeve functions of f times their sds, without the last 1e-4 of its variance."""
    factor = cholesky(tuple(GRID.tolist()), AMPLITUDE, LENGTH)
    values, vectors = np.linalg.eigh(factor @ factor.T)
    large = np.cumsum(values) / values.sum() > TRUNCATED_VARIANCE
    return (vectors[:, large] * np.sqrt(values[large])).T


def _standard(names: Sequence[str]) -> dict[str, Any]:
    import numpyro.distributions as dist

    return {name: dist.Normal(0.0, 1.0) for name in names}


@functools.cache
def _observations() -> Rows:
    return {"in_bed": frozen(np.asarray([IN_BED], np.float32))}


def _no_truths() -> Rows:
    raise DataError("'influenza' has real data: nobody knows the true parameters; see `task.reference(1)`")


@functools.cache
def _references() -> Rows:
    draws = exact_posterior(IN_BED, SEED, draws=REFERENCE_DRAWS)
    return {name: frozen(value[None].astype(np.float32)) for name, value in draws.items()}


def task() -> Task:
    """Returns the task: four parameters and `in_bed` (14,), with a constant contact rate; one real observation.

    Its reference is 10,000 draws by NUTS, made on first use, once in a process.
    """
    return Task("influenza", problem(), _observations, _no_truths, _references, log_likelihood)
