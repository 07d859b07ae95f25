"""Influenza at an English boarding school, January 1978: 763 boys, and how many of them lay in bed each day.

    S' = -beta S I / N,   I' = beta S I / N - gamma I,   R' = gamma I,    N = 763;   t in days
    in_bed[t] ~ NegativeBinomial(mean I(t), variance I(t) + a I(t)^2),    t = 1, ..., 14

The counts are those of the report (British Medical Journal 1978, 1, 587), whose first day, 22 January, is t = 1. Day 0
is the day before it, and S(0) = N - I(0), R(0) = 0. Each parameter is what one has an opinion about:

    r0 = beta / gamma            ~ LogNormal(log 3, .5)     whom one boy infects at first, 1.1 to 8 (95 %)
    period = 1 / gamma           ~ LogNormal(log 2, .5)     days until he is gone from I, .75 to 5.3
    initial = I(0)               ~ LogNormal(0, 1)          boys, .14 to 7.1
    overdispersion = a           ~ Exponential(5)           a count is off by a fifth of itself at a = .04

Where boys sleep in one room, r0 is above the 1.3 to 1.8 of towns (Biggerstaff et al. 2014), and one who lies in bed
infects few: a period is how long he stays *infectious*, a day or two, rather than ill. The negative binomial stands for
all that the equations leave out, beds first of all: infectious and in bed are not the same. The prior of a is that of
the Stan case study (Grinsztajn et al. 2021, Statistics in Medicine 40, 6209), whose others are on beta and gamma, and
which sets I(0) = 1. Counts are treated as real numbers, and a negative binomial knows of no 763: a few are above.

Two models share all of this. In `problem` beta is constant; in `varying` it is a function of time, `contact`,

    log beta(t) = log(r0 / period) + f(t),   f a Gaussian process, cov(f(s), f(t)) = .5^2 exp(-(s - t)^2 / (2 * 3^2))

which lets contacts halve or double within days, as boys go to bed; it lives on `GRID`, four points a day.
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

from retrodict._errors import DataError
from retrodict._types import Key, as_key
from retrodict.problem import Function, Prior, Problem
from retrodict_bench.tasks._epidemic import epidemic
from retrodict_bench.tasks._functions import cholesky
from retrodict_bench.tasks._nuts import exact_draws
from retrodict_bench.tasks._task import Rows, Task, frozen


BOYS, DAYS = 763, 14
IN_BED = (3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4)
PARAMETERS = ("r0", "period", "initial", "overdispersion")

A_DAY, STEPS = 4, 5  # points of the grid, and steps from one to the next
# Against ten times as many steps: of 20,000 draws of the prior, 1 + I(t) is within .4 % in all, .05 % in all but 20.
GRID = np.linspace(0.0, DAYS, A_DAY * DAYS + 1)
AMPLITUDE, LENGTH = 0.5, 3.0
POINTS = 14  # of beta(t) in a row, at random times
LEFT_OUT = 1e-4  # of the variance of f, where NUTS needs it as a sum of few waves

FEWEST = 1e-6  # boys: the mean of a count is not below, where its logarithm would be lost
REFERENCE, SEED = 10_000, 78


def curves(contact: Float[Array, "57"], period: Array, initial: Array) -> dict[str, Float[Array, "57"]]:
    """`susceptible`, `infected` and `recovered` boys on the grid, given beta(t) there."""
    share = jnp.minimum(initial / BOYS, 1.0)
    s, i, a = epidemic(contact, 1 / period, (1 - share, share), between=1 / A_DAY, steps=STEPS)
    return {"susceptible": BOYS * s, "infected": BOYS * i, "recovered": BOYS * a / period}


def constant_contact(r0: Array, period: Array) -> Float[Array, "57"]:
    """beta on the grid, the same all the time."""
    return jnp.broadcast_to(r0 / period, GRID.shape)


def contact_law(r0: Array, period: Array) -> Any:
    """The law of beta on the grid, as it varies in time."""
    import numpyro.distributions as dist

    factor = jnp.asarray(cholesky(tuple(GRID.tolist()), AMPLITUDE, LENGTH), float)
    center = jnp.log(constant_contact(r0, period))
    return dist.TransformedDistribution(
        dist.MultivariateNormal(center, scale_tril=factor), dist.transforms.ExpTransform()
    )


def means(infected: Float[Array, "57"]) -> Float[Array, "14"]:
    """The means of the counts of days 1 to 14."""
    return jnp.maximum(infected[A_DAY::A_DAY], FEWEST)


def count(key: PRNGKeyArray, mean: Float[Array, "14"], overdispersion: Array) -> Float[Array, "14"]:
    """One draw of counts: Poisson with a mean that is gamma distributed, hence negative binomial."""
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
    """One draw of `in_bed`, given beta(t) on the grid or, without it, with a constant contact rate."""
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
    """log P(in_bed | parameters), `contact` as in `simulate`; a count that is NaN was not seen, and adds nothing.

    In float32 good to .01 while the overdispersion is above 1e-4, which it is but once in 2,000 draws of the prior.
    """
    beta = constant_contact(r0, period) if contact is None else contact
    mean = means(curves(beta, period, initial)["infected"])
    seen = ~jnp.isnan(in_bed)
    x, shape = jnp.where(seen, in_bed, 0.0), 1 / overdispersion
    ways = gammaln(x + shape) - gammaln(shape) - gammaln(x + 1)
    excess = overdispersion * mean
    terms = ways + x * (jnp.log(excess) - jnp.log1p(excess)) - shape * jnp.log1p(excess)
    return jnp.sum(jnp.where(seen, terms, 0.0))


def prior() -> dict[str, Any]:
    """The four parameters of the module's first lines, independent and positive."""
    import numpyro.distributions as dist

    return {
        "r0": dist.LogNormal(math.log(3.0), 0.5),
        "period": dist.LogNormal(math.log(2.0), 0.5),
        "initial": dist.LogNormal(0.0, 1.0),
        "overdispersion": dist.Exponential(5.0),
    }


def problem() -> Problem:
    """The priors and the simulator with a constant contact rate."""
    return Problem(prior(), simulate)


def varying() -> Problem:
    """The priors and the simulator with `contact`, beta(t), a function of time."""
    return Problem({**prior(), "contact": Function(contact_law, GRID, POINTS)}, simulate)


def exact_posterior(in_bed: Any, key: Key, *, draws: int = 4000, varies: bool = False) -> dict[str, np.ndarray]:
    """Draws `(draws,)` of each of the four parameters from their exact posterior, by NUTS.

    Args:
        in_bed: the counts (14,); one that is NaN was not seen.
        key: a key from `jax.random`, or an integer.
        draws: taken evenly from four chains, which are longer where fewer would leave too few independent ones.
        varies: whether the contact rate does; `contact` `(draws, 57)` on the grid is then there, too.

    Raises:
        DataError: the counts have another shape or are negative, or `draws` is not positive.
        QueryError: the chains disagree (r_hat of 1.01 or more), or hold fewer than 1000 independent draws.
    """
    counts = np.asarray(in_bed, np.float32)
    if counts.shape != (DAYS,):
        raise DataError(f"'in_bed' has one count for each of {DAYS} days, got the shape {counts.shape}")
    if not np.all((counts >= 0) & np.isfinite(counts) | np.isnan(counts)):
        raise DataError("'in_bed' has counts that are no counts: write NaN for what was not observed")
    given = jnp.asarray(counts)
    waves = _waves() if varies else np.zeros((0, len(GRID)))
    loads = [f"load {i}" for i in range(len(waves))]

    def contact(values: Mapping[str, Any]) -> Array:
        f = jnp.stack([values[name] for name in loads]) @ jnp.asarray(waves, float) if varies else 0.0
        return constant_contact(values["r0"], values["period"]) * jnp.exp(f)

    def score(values: Mapping[str, Array]) -> Array:
        return log_likelihood(in_bed=given, contact=contact(values), **{name: values[name] for name in PARAMETERS})

    flat, _ = exact_draws(Prior({**prior(), **_standard(loads)}), score, as_key(key), draws=draws)
    found = {name: flat[name] for name in PARAMETERS}
    return {**found, "contact": np.asarray(jax.vmap(contact)(flat))} if varies else found


def _waves() -> Float[np.ndarray, "waves 57"]:
    """The Karhunen-Loeve functions of f times their standard deviations, without the last 1e-4 of its variance."""
    factor = cholesky(tuple(GRID.tolist()), AMPLITUDE, LENGTH)
    values, vectors = np.linalg.eigh(factor @ factor.T)
    left_out = np.cumsum(values) / values.sum()
    kept = left_out > LEFT_OUT
    return (vectors[:, kept] * np.sqrt(values[kept])).T


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
    draws = exact_posterior(IN_BED, SEED, draws=REFERENCE)
    return {name: frozen(value[None].astype(np.float32)) for name, value in draws.items()}


def task() -> Task:
    """Four parameters and `in_bed` (14,), the contact rate constant; one observation, the one that history made.

    Its reference is 10,000 draws by NUTS, made when they are asked for, once in a process.
    """
    return Task("influenza", problem(), _observations, _no_truths, _references, log_likelihood)
