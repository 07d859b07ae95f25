"""Guided draws for many rows at once: one row's mathematics, batched by `vmap` and compiled once."""

from typing import Any, NamedTuple

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
from retrodict.guidance._guides import Response
from retrodict.models._flow_protocol import FlowLike
from retrodict.paths import Flow
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.solvers import AbstractSolver, Midpoint


TARGET = Midpoint(steps=16)  # of the density without guidance, as for `log_prob`


class Mapped(AbstractGuide):
    """A guide of scaled tokens, as a flow in other coordinates needs it."""

    guide: AbstractGuide
    ready: Any

    @property
    def size(self) -> int:
        return self.guide.size

    def functional(self, x1: Tokens) -> Float[Array, " j"]:
        return self.guide.functional(self.ready.scaled(x1))

    def respond(self, m: Float[Array, " j"], v: Float[Array, "j j"]) -> Response:
        return self.guide.respond(m, v)

    def log_factor(self, x1: Tokens) -> Scalar:
        return self.guide.log_factor(self.ready.scaled(x1))


class _Flows(NamedTuple):
    """Flows of the guided answer, of the answer, and of the answer with nothing given; and what the last two know."""

    guided: Flow
    answer: Flow
    blank: Flow
    ready: Any
    blank_ready: Any


def _flows(
    model: FlowLike,
    guide: AbstractGuide | None,
    spread: Spread | None,
    strength: Scalar | None,
    z: Tokens,
    roles: Int[Array, " d"],
) -> _Flows:
    """Returns the flows for one question; with a baseline a strength does not guide, and counts in the weights only."""
    ready = model.ready(z, roles)
    blank_ready = ready if strength is None else model.ready(z, jnp.where(roles == GIVEN, ABSENT, roles))
    flow, blank = model.flow_from(ready), model.flow_from(blank_ready)
    bent = flow if strength is None or model.baseline is not None else strengthened(flow, blank, strength)
    if guide is not None:
        bent = guided(bent, guide if model.baseline is None else Mapped(guide, ready), spread)
    return _Flows(bent, flow, blank, ready, blank_ready)


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
    """Returns `n` draws, scaled tokens."""
    key_noise, key_way = jr.split(key)
    latent = roles[model.kept] == LATENT
    flows = _flows(model, guide, spread, strength, z, roles)
    noise = jnp.where(latent, model.path.begin(model.path.noise(key_noise, (n, model.modeled.size))), 0.0)
    draws = jax.vmap(lambda x, key: solver(flows.guided, x, *model.path.span, key=key))(noise, jr.split(key_way, n))
    return jnp.where(latent, jax.vmap(flows.ready.scaled)(draws), z[model.kept])


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
    """Returns `n` draws, scaled tokens, and their log weights."""
    latent = roles[model.kept] == LATENT
    bent, flow, blank, ready, blank_ready = _flows(model, guide, spread, strength, z, roles)
    noise = jnp.where(latent, model.path.begin(model.path.noise(key, (n, model.modeled.size))), 0.0)

    def log_density(flow: Flow, x: Tokens) -> Scalar:
        noise, gain = pull_back(flow, x, directions, TARGET, Exact(), key)
        return jnp.sum(directions @ model.path.log_begin(noise)) + gain[0]

    def blank_density(x: Tokens) -> Scalar:
        if model.baseline is None:
            return log_density(blank, x)
        blank_x = blank_ready.unscaled(ready.scaled(x))
        change = jnp.sum(ready.log_slope(x)) - jnp.sum(blank_ready.log_slope(blank_x))
        return log_density(blank, blank_x) + change

    def one(x: Tokens) -> tuple[Tokens, Scalar]:
        draw, log_proposal = carried(bent, solver, x, directions)
        target = log_density(flow, draw)
        if strength is not None:
            target = strength * target + (1.0 - strength) * blank_density(draw)
        scaled = jnp.where(latent, ready.scaled(draw), z[model.kept])
        factor = jnp.zeros(()) if guide is None else guide.log_factor(scaled)
        return scaled, target + factor - log_proposal

    return jax.vmap(one)(noise)
