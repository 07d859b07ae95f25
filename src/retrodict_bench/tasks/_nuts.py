"""Exact draws for a known prior and likelihood: the No-U-Turn sampler with several chains.

The chains start at particles of the posterior, by tempering from the prior,

    prior * likelihood^b,   b from 0 to 1 in steps that leave half of the particles effective.

No chain then starts in a minor mode and adapts its mass matrix to it. The mass matrix is dense, because the parameters
of an oscillation are strongly correlated. Differentiation is in forward mode, because a few parameters go through
thousands of solver steps.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import DataError, QueryError
from retrodict.problem import Prior


LogLikelihood = Callable[[Mapping[str, Array]], Array]

CHAINS, WARMUP = 4, 700
PARTICLES, MOVES = 1000, 10
MAX_R_HAT, MIN_ESS = 1.01, 1000  # of chains that have converged
MIN_LENGTH = 1000  # of a chain, in draws


def exact_draws(
    prior: Prior, log_likelihood: LogLikelihood, key: PRNGKeyArray, *, draws: int
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """Draws `(draws,)` of every parameter, evenly from all chains, and their `convergence`.

    Raises:
        DataError: `draws` is not positive.
        QueryError: the chains disagree, hold too few independent draws, or the data are impossible.
    """
    if draws < 1:
        raise DataError(f"the number of draws must be positive, got {draws}")
    length = max(MIN_LENGTH, math.ceil(draws / CHAINS))
    chains = nuts(prior, log_likelihood, key, draws=length)
    numbers = convergence(chains)
    for name, row in numbers.items():
        if not (row["r_hat"] < MAX_R_HAT and row["ess"] > MIN_ESS):
            raise QueryError(
                f"the chains have not converged: '{name}' has an r_hat of {row['r_hat']:.3f} (below {MAX_R_HAT} is "
                f"good) and {row['ess']:.0f} independent draws (above {MIN_ESS}); use another key or more draws"
            )
    rows = np.linspace(0, CHAINS * length - 1, draws).round().astype(int)
    return {name: chain.T.ravel()[rows] for name, chain in chains.items()}, numbers


def nuts(prior: Prior, log_likelihood: LogLikelihood, key: PRNGKeyArray, *, draws: int) -> dict[str, np.ndarray]:
    """Runs `CHAINS` chains of `draws` draws each of the posterior, name to `(CHAINS, draws)`.

    Args:
        prior: a product of independent scalar `numpyro` distributions.
        log_likelihood: of one value of every parameter; NaN counts as minus infinity.
        key: for the starting points and the chains.
        draws: the length of each chain after `WARMUP` draws.
    """
    import numpyro
    from numpyro.infer import MCMC, NUTS

    def model() -> None:
        values = {name: numpyro.sample(name, entry) for name, entry in prior.distributions.items()}
        numpyro.factor("data", log_likelihood(values))

    key_start, key_run = jr.split(key)
    starts = tempered(prior, log_likelihood, key_start, particles=PARTICLES)[:CHAINS]
    kernel = NUTS(model, dense_mass=True, forward_mode_differentiation=True)
    sampler = MCMC(
        kernel,
        num_warmup=WARMUP,
        num_samples=draws,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    sampler.run(key_run, init_params=dict(zip(prior.distributions, starts.T, strict=True)))
    chains = sampler.get_samples(group_by_chain=True)
    return {name: np.asarray(chains[name]) for name in prior.distributions}


def tempered(
    prior: Prior, log_likelihood: LogLikelihood, key: PRNGKeyArray, *, particles: int
) -> Float[Array, "particles d"]:
    """Draws particles of the posterior by sequential Monte Carlo, each parameter mapped to the real line."""
    from numpyro.distributions import biject_to

    maps = {name: biject_to(entry.support) for name, entry in prior.distributions.items()}

    def scores(w: Float[Array, " d"]) -> tuple[Array, Array]:
        pairs = [(name, transform, x) for (name, transform), x in zip(maps.items(), w, strict=True)]
        values = {name: transform(x) for name, transform, x in pairs}
        log_det = sum(transform.log_abs_det_jacobian(x, values[name]) for name, transform, x in pairs)
        return prior.log_prob(values) + log_det, jnp.nan_to_num(log_likelihood(values), nan=-jnp.inf, neginf=-jnp.inf)

    key, key_prior = jr.split(key)
    first = jax.vmap(prior.draw)(jr.split(key_prior, particles))
    w = jnp.stack([maps[name].inv(first[name]) for name in maps], axis=1)
    (score, data), b = jax.jit(jax.vmap(scores))(w), 0.0
    move = jax.jit(lambda key, b, state: _metropolis(key, b, state, jax.vmap(scores)))
    while b < 1.0:
        key, key_pick, key_move = jr.split(key, 3)
        step = _next_step(np.asarray(data, np.float64), 1.0 - b)
        pick = jr.categorical(key_pick, step * data, shape=(particles,))
        b += step
        w, score, data = move(key_move, b, (w[pick], score[pick], data[pick]))
    return w


def _next_step(data: np.ndarray, longest: float) -> float:
    """Returns the longest step of b that leaves half of the particles effective, to within a fifth."""
    if not np.isfinite(data.max()):
        raise QueryError("no draw of the prior makes these data possible: check them")
    step = longest
    while True:
        weight = np.exp(step * (data - data.max()))
        if weight.sum() ** 2 >= 0.5 * len(data) * (weight**2).sum():
            return step
        step /= 1.2


Particles = tuple[Array, Array, Array]  # values, log prior densities and log likelihoods


def _metropolis(
    key: PRNGKeyArray, b: Array, state: Particles, scores: Callable[[Array], tuple[Array, Array]]
) -> Particles:
    """Moves every particle `MOVES` times under prior * likelihood^b, with the cloud's covariance and many sizes."""
    n, d = state[0].shape
    shape = jnp.linalg.cholesky(jnp.cov(state[0].T) + 1e-6 * jnp.eye(d))

    def move(state: Particles, key: PRNGKeyArray) -> tuple[Particles, None]:
        w, score, data = state
        key_size, key_step, key_accept = jr.split(key, 3)
        size = 10 ** jr.uniform(key_size, (n, 1), minval=-1.5, maxval=0.0)
        new = w + size * jr.normal(key_step, (n, d)) @ shape.T
        new_score, new_data = scores(new)
        accept = jnp.log(jr.uniform(key_accept, (n,))) < new_score - score + b * (new_data - data)
        return (
            jnp.where(accept[:, None], new, w),
            jnp.where(accept, new_score, score),
            jnp.where(accept, new_data, data),
        ), None

    return jax.lax.scan(move, state, jr.split(key, MOVES))[0]


def convergence(chains: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Returns `r_hat`, which compares the chains, and `ess`, the equivalent number of independent draws."""
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    return {
        name: {"r_hat": float(split_gelman_rubin(x)), "ess": float(effective_sample_size(x))}
        for name, x in chains.items()
    }
