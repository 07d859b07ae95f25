"""Composition: the posterior of shared parameters, from scores of single-site posteriors that add up.

Sites are independent given the shared parameters g. With single-site posteriors p(g | y_s) and the prior p(g), diffused
to time t along the path,

    log p(g | y_1, ..., y_S) = (1 - S) log p(g) + sum over s of log p(g | y_s) + const
    score_t(x) = (1 - S) score_t(x; no data) + sum over s of score_t(x; y_s)

The second line follows from the first only at t = 1: products of diffused densities are not diffused products. They are
the bridging densities of Geffner et al. (2023, arXiv 2209.14249, section 3). These lead from noise to data: draws of
each start the next, and Langevin steps at its own time correct them, whose length follows the curvature there.

Integration ends where noise of `FINAL_NOISE` remains, in units of the prior's width. There a single-site posterior of
width w has the width sqrt(w^2 + FINAL_NOISE^2). Nearer to the data the errors of S scores would grow as 1 / noise.

It is kept for few sites and as the published comparison: at 50 sites its central 90 % regions held .41 to .97 of the
truths, those of `method="likelihood"`, which is better, .81 to .94 (docs/hierarchies.md).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict.models._flow import FlowModel
from retrodict.query import SiteQuery, unflatten
from retrodict.roles import ABSENT, GIVEN, LATENT


LEVELS = 60  # bridging densities, dense near the data
LANGEVIN_STEPS = 10  # at each level
FINAL_NOISE = 0.3
MAX_DISTANCE = 6.0  # from the prior's center, in widths: beyond it scores were not trained
STEP_SIZE = 0.1  # in units of the variance that the curvature suggests
PAIRS_PER_BLOCK = 4096  # of draws and sites


def compose(site: FlowModel, question: SiteQuery, n: int, *, key: PRNGKeyArray) -> dict[str, np.ndarray]:
    """Draws all shared parameters `n` times, given all sites.

    Raises:
        QueryError: a shared parameter is given, own parameters are given, or the path has no scores.
    """
    layout = question.layout
    model = site.seen_at(layout)
    if question.shared:
        raise QueryError("composition draws everything that is shared; give none of it, or take another method")
    if any(layout[name].kind == "parameter" for name in question.own):
        raise QueryError("composition knows sites by their data; give no own parameters, or take another method")
    if not model.path.gaussian:
        raise QueryError("composition adds up scores, which need Gaussian noise")
    own_tokens, observed = layout.tokens_of(layout.own), (question.roles == GIVEN).any(axis=1)
    values = np.zeros((int(observed.sum()), layout.size))
    values[:, own_tokens] = question.values[observed]
    roles = np.full(values.shape, ABSENT, np.int32)
    roles[:, own_tokens] = question.roles[observed]
    roles[:, layout.tokens_of(layout.shared)] = LATENT
    z = model.scaling.forward(values)
    draws = _langevin(model.without_training_state(), jnp.asarray(z), jnp.asarray(roles), n, key)
    rows = model.scaling.only(model.modeled).to_rows(np.asarray(draws))
    return unflatten(model.modeled, rows, layout.shared)


@eqx.filter_jit
def _langevin(model: FlowModel, z: Array, roles: Array, n: int, key: PRNGKeyArray) -> Array:
    """Returns draws `(n, k)` in the model's coordinates, of which only the shared elements have a meaning."""
    sites = jnp.shape(z)[0]
    observed = jax.vmap(model.ready)(z, roles)
    prior = model.ready(jnp.zeros_like(z[0]), jnp.where(roles[0] == LATENT, LATENT, ABSENT))
    latent = prior.roles == LATENT
    start, _ = model.path.span
    # dense near the end, which is short of the data
    end = model.path.schedule.at_ratio(jnp.asarray(FINAL_NOISE))
    times = end - (end - start) * jnp.linspace(1.0, 0.0, LEVELS) ** 2

    def score(x: Array, t: Array) -> Array:
        site_scores = jax.vmap(lambda site: model.flow_from(site).score(x, t))(observed)
        prior_score = model.flow_from(prior).score(x, t)
        return jnp.where(latent, jnp.sum(site_scores, axis=0) + (1 - sites) * prior_score, 0.0)

    def level(x: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
        t, key = row
        alpha, sigma = model.path.schedule(t)
        curvature = jnp.sum(jnp.abs(jax.jacfwd(score)(x, t)), axis=1)
        variance = 1.0 / jnp.maximum(curvature, 1.0 / (alpha**2 + sigma**2))
        bound = MAX_DISTANCE * jnp.sqrt(alpha**2 + sigma**2)

        def step(x: Array, key: PRNGKeyArray) -> tuple[Array, None]:
            # a score far from all training data must not throw a chain out of the trained region
            drift = jnp.clip(STEP_SIZE * variance * score(x, t), -1.0, 1.0)
            noise = jnp.sqrt(2.0 * STEP_SIZE * variance) * jr.normal(key, x.shape)
            return jnp.clip(x + jnp.where(latent, drift + noise, 0.0), -bound, bound), None

        return jax.lax.scan(step, x, jr.split(key, LANGEVIN_STEPS))[0], None

    def draw(key: PRNGKeyArray) -> Array:
        key_start, key_levels = jr.split(key)
        x = jnp.where(latent, model.path.begin(model.path.noise(key_start, latent.shape)), 0.0)
        x, _ = jax.lax.scan(level, x, (times, jr.split(key_levels, LEVELS)))
        return x / model.path.schedule(times[-1])[0]

    draws = jax.lax.map(draw, jr.split(key, n), batch_size=min(n, max(1, PAIRS_PER_BLOCK // sites)))
    return draws
