"""Guided draws for many rows at once: one row's mathematics, batched by `vmap` and compiled once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from retrodict._types import Scalar, Tokens
from retrodict.densities import Exact, pull_back
from retrodict.guidance import (
    AbstractGuide,
    Spread,
    carried,
    guided,
    strengthened,
)
from retrodict.models._flow_protocol import FlowLike
from retrodict.paths import Flow
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.solvers import AbstractSolver, Midpoint


TARGET = Midpoint(steps=16)  # of the density without guidance, as for `log_prob`


def _flows(
    model: FlowLike,
    guide: AbstractGuide | None,
    spread: Spread | None,
    strength: Scalar | None,
    z: Tokens,
    roles: Int[Array, " d"],
) -> tuple[Flow, Flow, Flow]:
    """Returns three flows: of the guided answer, of the answer, and of the answer with nothing given."""
    flow = model.flow(z, roles)
    blank = flow if strength is None else model.flow(z, jnp.where(roles == GIVEN, ABSENT, roles))
    bent = flow if strength is None else strengthened(flow, blank, strength)
    return (bent if guide is None else guided(bent, guide, spread)), flow, blank


@eqx.filter_jit
def raw_rows(
    model: FlowLike,
    solver: AbstractSolver,
    guide: AbstractGuide | None,
    spread: Spread | None,
    strength: Scalar | None,
    z: Tokens,
    roles: Int[Array, " d"],
    n: int,
    key: PRNGKeyArray,
) -> Float[Array, "n k"]:
    """Returns `n` draws in the model's coordinates."""
    key_noise, key_way = jr.split(key)
    latent = roles[model.kept] == LATENT
    flow, *_ = _flows(model, guide, spread, strength, z, roles)
    noise = jnp.where(latent, model.path.begin(model.path.noise(key_noise, (n, model.modeled.size))), 0.0)
    draws = jax.vmap(lambda x, key: solver(flow, x, *model.path.span, key=key))(noise, jr.split(key_way, n))
    return jnp.where(latent, draws, z[model.kept])


@eqx.filter_jit
def weighted_rows(
    model: FlowLike,
    solver: AbstractSolver,
    guide: AbstractGuide | None,
    spread: Spread | None,
    strength: Scalar | None,
    z: Tokens,
    roles: Int[Array, " d"],
    directions: Float[Array, "a k"],
    n: int,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "n k"], Float[Array, " n"]]:
    """Returns `n` draws in the model's coordinates, and their log weights."""
    latent = roles[model.kept] == LATENT
    bent, flow, blank = _flows(model, guide, spread, strength, z, roles)
    noise = jnp.where(latent, model.path.begin(model.path.noise(key, (n, model.modeled.size))), 0.0)

    def log_density(flow: Flow, x: Tokens) -> Scalar:
        noise, gain = pull_back(flow, x, directions, TARGET, Exact(), key)
        return jnp.sum(directions @ model.path.log_begin(noise)) + gain[0]

    def one(x: Tokens) -> tuple[Tokens, Scalar]:
        draw, log_proposal = carried(bent, solver, x, directions)
        target = log_density(flow, draw)
        if strength is not None:
            target = strength * target + (1.0 - strength) * log_density(blank, draw)
        factor = jnp.zeros(()) if guide is None else guide.log_factor(draw)
        return jnp.where(latent, draw, z[model.kept]), target + factor - log_proposal

    return jax.vmap(one)(noise)
