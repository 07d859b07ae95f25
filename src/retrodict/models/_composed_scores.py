"""Composition: what single sites say of what they share, multiplied.

Sites are independent given what they share, g. With single-site posteriors p(g | y_s) and the prior p(g), diffused to
time t along the path,

    log p(g | y_1, ..., y_S) = (1 - S) log p(g) + sum over s of log p(g | y_s) + const
    score_t(x) = (1 - S) score_t(x; nothing) + sum over s of score_t(x; y_s)

The second line is the first only at t = 1: products of diffused densities are not diffused products. They are the
bridging densities of Geffner et al. (2023, arXiv 2209.14249, section 3): noise to data, each a start for the next, and
each corrected by Langevin steps at its own time, whose length follows the curvature there.

The way ends where noise of `END` is left, in units of the prior's width. There the posterior of a single site, w wide,
is sqrt(w^2 + END^2) wide; but a score is off by a share of 1 / END, S times, and nearer to the data that weighs more:
50 sites of H-Gaussian-Linear came out 466 times as wide as the prior where the way ended at .001. The errors of S
scores add up, so that this is for a few sites.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict.models._flow_protocol import FlowLike
from retrodict.query import SiteQuery
from retrodict.query.tokens import unflatten
from retrodict.roles import ABSENT, GIVEN, LATENT


LEVELS = 60  # bridging densities, dense near the data
STEPS = 10  # Langevin steps at each
END = 0.3
REACH = 6.0  # widths of the prior beyond which there is nothing to learn scores from
LENGTH = 0.1  # of a step, in units of the variance that the curvature suggests


def compose(site: FlowLike, question: SiteQuery, n: int, *, key: PRNGKeyArray) -> dict[str, np.ndarray]:
    """`n` draws of everything shared, given all sites.

    Raises:
        QueryError: some of it is given, own parameters are given, or the path has no scores.
    """
    layout = question.layout
    model = site.seen_at(layout)
    if question.shared:
        raise QueryError("composition draws everything that is shared; give none of it, or take another method")
    if any(layout[name].kind == "parameter" for name in question.own):
        raise QueryError("composition knows sites by their data; give no own parameters, or take another method")
    if not model.path.gaussian:
        raise QueryError("composition adds up scores, which need Gaussian noise")
    own = layout.tokens_of(layout.own)
    keep = (question.roles == GIVEN).any(axis=1)
    values = np.zeros((int(keep.sum()), layout.size), np.float32)
    values[:, own] = question.values[keep]
    roles = np.full(values.shape, ABSENT, np.int32)
    roles[:, own] = question.roles[keep]
    roles[:, layout.tokens_of(layout.shared)] = LATENT
    z = model.scaling.forward(values)
    rows = _langevin(model.without_training_state(), z, jnp.asarray(roles), n, key)
    return unflatten(model.modeled, np.asarray(rows), layout.shared)


@eqx.filter_jit
def _langevin(model: FlowLike, z: Array, roles: Array, n: int, key: PRNGKeyArray) -> Array:
    """Draws in the user's units, `(n, k)`; only shared elements mean anything."""
    sites = jnp.shape(z)[0]
    ready = jax.vmap(model.ready)(z, roles)
    nothing = model.ready(jnp.zeros_like(z[0]), jnp.where(roles[0] == LATENT, LATENT, ABSENT))
    latent = nothing.roles == LATENT
    low, _ = model.path.span
    # dense near the end, which is short of the data
    last = model.path.schedule.at_ratio(jnp.asarray(END))
    times = last - (last - low) * jnp.linspace(1.0, 0.0, LEVELS) ** 2

    def score(x: Array, t: Array) -> Array:
        each = jax.vmap(lambda r: model.flow_from(r).score(x, t))(ready)
        return jnp.where(latent, jnp.sum(each, axis=0) + (1 - sites) * model.flow_from(nothing).score(x, t), 0.0)

    def level(x: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
        t, key = row
        alpha, sigma = model.path.schedule(t)
        slopes = jnp.sum(jnp.abs(jax.jacfwd(score)(x, t)), axis=1)
        wide = 1.0 / jnp.maximum(slopes, 1.0 / (alpha**2 + sigma**2))
        reach = REACH * jnp.sqrt(alpha**2 + sigma**2)

        def step(x: Array, key: PRNGKeyArray) -> tuple[Array, None]:
            # a guess far from everything must not throw a chain out of the region it knows
            push = jnp.clip(LENGTH * wide * score(x, t), -1.0, 1.0)
            noise = jnp.sqrt(2.0 * LENGTH * wide) * jr.normal(key, x.shape)
            return jnp.clip(x + jnp.where(latent, push + noise, 0.0), -reach, reach), None

        return jax.lax.scan(step, x, jr.split(key, STEPS))[0], None

    def one(key: PRNGKeyArray) -> Array:
        key_start, key_way = jr.split(key)
        x = jnp.where(latent, model.path.begin(model.path.noise(key_start, latent.shape)), 0.0)
        x, _ = jax.lax.scan(level, x, (times, jr.split(key_way, LEVELS)))
        return x / model.path.schedule(times[-1])[0]

    found = jax.lax.map(one, jr.split(key, n), batch_size=min(n, max(1, 4096 // sites)))
    return model.scaling.only(model.modeled).inverse(found)
