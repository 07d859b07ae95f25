"""Answers for many rows at once: one row's mathematics, batched by `vmap` and compiled once.

`d` are the tokens of the whole layout, `k` those of variables that can be asked. Compiled code is used again whenever
only numbers change: weights, values, roles, keys.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from retrodict._runtime.devices import row_by_row
from retrodict._types import Roles, Scalar, Tokens
from retrodict.densities import AbstractTrace, pull_back
from retrodict.guidance import carried
from retrodict.models._flow_protocol import FlowLike
from retrodict.roles import ABSENT, LATENT
from retrodict.solvers import AbstractSolver


# rows of many tokens are solved in blocks whose activations stay in a core's cache (docs/ablations.md)
PAIRS_IN_CACHE = 2**17  # of tokens, of rows solved together
MIN_ROWS, MAX_ROWS = 32, 4096
DERIVATIVE_ROWS = 128  # rows solved side by side with their derivatives


def rows_in_cache(tokens: int) -> int:
    """Returns the number of rows that are solved side by side."""
    return max(MIN_ROWS, min(MAX_ROWS, 1 << max(0, (PAIRS_IN_CACHE // tokens**2).bit_length() - 1)))


@eqx.filter_jit
def solve_rows(
    model: FlowLike,
    solver: AbstractSolver,
    z: Float[Array, "m d"],
    roles: Int[Array, "m d"],
    n: int,
    which: Int[Array, " n"] | None,
    key: PRNGKeyArray,
) -> Float[Array, "n k"]:
    """Returns `n` draws in the model's coordinates; row i answers question `which[i]` (the only one, for None)."""

    def one(ready: Any, noise: Tokens, key: PRNGKeyArray) -> Tokens:
        return ready.scaled(solver(model.flow_from(ready), noise, *model.path.span, key=key))

    return _solved(model, one, z, roles, n, which, key, rows_in_cache(model.modeled.size))


@eqx.filter_jit
def carried_rows(
    model: FlowLike,
    solver: AbstractSolver,
    z: Float[Array, "m d"],
    roles: Int[Array, "m d"],
    n: int,
    which: Int[Array, " n"] | None,
    key: PRNGKeyArray,
    directions: Float[Array, "a k"],
) -> tuple[Float[Array, "n k"], Float[Array, " n"]]:
    """Returns such draws, and their log densities, in the user's units, under the solver with its errors."""
    scaling = model.scaling.only(model.modeled)

    def one(ready: Any, noise: Tokens, key: PRNGKeyArray) -> tuple[Tokens, Scalar]:
        del key
        x, log_prob = carried(model.flow_from(ready), solver, noise, directions)
        z = ready.scaled(x)
        slope = scaling.log_slope(z) + ready.log_slope(x)
        return z, log_prob - jnp.sum(jnp.where(ready.roles == LATENT, slope, 0.0))

    return _solved(model, one, z, roles, n, which, key, DERIVATIVE_ROWS)


def _solved(
    model: FlowLike,
    one: Callable[..., Any],
    z: Any,
    roles: Any,
    n: int,
    which: Any,
    key: PRNGKeyArray,
    rows_together: int,
) -> Any:
    """Returns `one(ready, noise, key)` for `n` rows, each with its noise, some of them side by side."""
    key_noise, key_way = jr.split(key)
    noise = model.path.begin(model.path.noise(key_noise, (n, model.modeled.size)))
    # once a question, not once a draw
    ready = jax.vmap(model.ready)(z, roles)

    def answers(ready: Any, rows: Any) -> Any:
        def answer(row: Any) -> Any:
            question, noise, key = row
            prepared = jax.tree.map(lambda a: a[question], ready)
            return one(prepared, jnp.where(prepared.roles == LATENT, noise, 0.0), key)

        return jax.lax.map(answer, rows, batch_size=rows_together)

    questions = jnp.zeros(n, int) if which is None else which
    return row_by_row(answers, ready, (questions, noise, jr.split(key_way, n)))


@eqx.filter_jit
def ends_of(
    model: FlowLike, solver: AbstractSolver, z: Float[Array, "n d"], roles: Int[Array, "n d"], key: PRNGKeyArray
) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
    """Returns noise, and the ends to which a solver carries it, in the model's coordinates, for every row."""
    noise = model.path.begin(model.path.noise(key, (len(z), model.modeled.size)))

    def one(row: Any) -> Tokens:
        z, roles, noise = row
        ready = model.ready(z, roles)
        return solver(model.flow_from(ready), jnp.where(ready.roles == LATENT, noise, 0.0), *model.path.span)

    return noise, jax.lax.map(one, (z, roles, noise), batch_size=rows_in_cache(model.modeled.size))


@eqx.filter_jit
def scaled_rows(
    model: FlowLike, z: Float[Array, "n d"], roles: Int[Array, "n d"], x: Float[Array, "n k"]
) -> Float[Array, "n k"]:
    """Returns the scaled tokens of latent ones `x` in the flow's coordinates, for every row."""

    def one(row: Any) -> Tokens:
        z, roles, x = row
        return x if model.baseline is None else model.ready(z, roles).scaled(x)

    return jax.lax.map(one, (z, roles, x), batch_size=rows_in_cache(model.modeled.size))


def log_density(
    model: FlowLike,
    solver: AbstractSolver,
    trace: AbstractTrace,
    z: Tokens,
    roles: Roles,
    directions: Float[Array, "a k"],
    key: PRNGKeyArray,
) -> Float[Array, " m"]:
    """Returns estimates `(m,)` of the log density, in the user's units, of one row of scaled tokens."""
    z = jnp.where(roles != ABSENT, z, 0.0)
    ready = model.ready(z, roles)
    noise, gain = pull_back(model.flow_from(ready), ready.z, directions, solver, trace, key)
    slope = model.scaling.only(model.modeled).log_slope(z[model.kept]) + ready.log_slope(ready.z)
    log_probs = model.path.log_begin(noise) - slope
    return jnp.sum(jnp.where(ready.roles == LATENT, log_probs, 0.0)) + gain


def one_draw(model: FlowLike, solver: AbstractSolver, z: Tokens, roles: Roles, key: PRNGKeyArray) -> Tokens:
    """Returns one draw `(k,)` in the user's units, given scaled tokens and roles `(d,)`."""
    ready, (key_noise, key_way) = model.ready(z, roles), jr.split(key)
    noise = model.path.begin(model.path.noise(key_noise, (model.modeled.size,)))
    noise = jnp.where(ready.roles == LATENT, noise, 0.0)
    z = ready.scaled(solver(model.flow_from(ready), noise, *model.path.span, key=key_way))
    return model.scaling.only(model.modeled).inverse(z)


class Density(NamedTuple):
    """Estimates of log densities `(n, m)`, and their gradient by every scaled token `(n, d)`, if asked for."""

    estimates: Array
    slope: Array | None


@eqx.filter_jit
def density_rows(
    model: FlowLike,
    solver: AbstractSolver,
    trace: AbstractTrace,
    z: Float[Array, "n d"],
    roles: Int[Array, "n d"],
    directions: Float[Array, "a k"],
    key: PRNGKeyArray,
    slopes: bool,  # noqa: FBT001 - positional because filter_jit is
) -> Density:
    """Returns log densities, in the user's units, of the latent tokens of every row of scaled ones."""

    def one(z: Tokens, roles: Roles, key: PRNGKeyArray) -> Array:
        return log_density(model, solver, trace, z, roles, directions, key)

    keys = jr.split(key, jnp.shape(z)[0])
    estimates = jax.vmap(one)(z, roles, keys)
    slope = jax.vmap(jax.grad(lambda *row: jnp.mean(one(*row))))(z, roles, keys) if slopes else None
    return Density(estimates, slope)


@eqx.filter_jit
def field_rows(
    model: FlowLike,
    kind: str,
    x: Float[Array, "n k"],
    z: Float[Array, "n d"],
    roles: Int[Array, "n d"],
    t: Scalar,
) -> Float[Array, "n k"]:
    """Returns the velocity or the score at time `t`, all in the model's coordinates."""

    def one(x: Tokens, z: Tokens, roles: Roles) -> Tokens:
        flow = model.flow(z, roles)
        return flow(x, t) if kind == "velocity" else flow.score(x, t)

    return jax.vmap(one)(x, z, roles)
