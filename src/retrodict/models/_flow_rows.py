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
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.solvers import AbstractSolver


# 1,000 draws of a Simformer's 36 tokens take 1.7 s in blocks of 64 rows, 2.5 s of 256 and 3.1 s all at once; 10,000 of
# a ResMLP that is 256 wide 8 % less by 512 rows than by 256 (12 tokens) and by 4,096 than by 1,024 (4), 64 wide 40 %
PAIRS = 2**17  # of tokens, of rows solved together
FEWEST, MOST = 32, 4096  # rows
# side by side with their derivatives: 8,192 draws of two parameters take 1.8 s, by 256 rows 2.3 and by 64 3.4; of five
# 4.2, 3.9 and 5.4
CARRIED = 128


def in_cache(tokens: int) -> int:
    """Rows solved side by side: what a network keeps of them should stay in a core's cache."""
    return max(FEWEST, min(MOST, 1 << max(0, (PAIRS // tokens**2).bit_length() - 1)))


@eqx.filter_jit
def solve_rows(
    model: Any,
    solver: AbstractSolver,
    z: Float[Array, "m d"],
    roles: Int[Array, "m d"],
    n: int,
    which: Int[Array, " n"] | None,
    key: PRNGKeyArray,
) -> Float[Array, "n k"]:
    """`n` draws in the user's units; row i answers question `which[i]` (the only one, for None)."""

    def one(ready: Any, noise: Tokens, key: PRNGKeyArray) -> Tokens:
        return _held(ready, solver(model.flow_from(ready), noise, *model.path.span, key=key))

    size = in_cache(model.modeled.size)
    return model.scaling.only(model.modeled).inverse(_drawn(model, one, z, roles, n, which, key, size))


@eqx.filter_jit
def carried_rows(
    model: Any,
    solver: AbstractSolver,
    z: Float[Array, "m d"],
    roles: Int[Array, "m d"],
    n: int,
    which: Int[Array, " n"] | None,
    key: PRNGKeyArray,
    directions: Float[Array, "a k"],
) -> tuple[Float[Array, "n k"], Float[Array, " n"]]:
    """The same, and the log densities of being drawn so, whatever the solver's steps get wrong."""
    scaling = model.scaling.only(model.modeled)

    def one(ready: Any, noise: Tokens, key: PRNGKeyArray) -> tuple[Tokens, Scalar]:
        del key
        there, own = carried(model.flow_from(ready), solver, noise, directions)
        there = _held(ready, there)
        return there, own - jnp.sum(jnp.where(ready.roles == LATENT, scaling.log_slope(there), 0.0))

    found, own = _drawn(model, one, z, roles, n, which, key, CARRIED)
    return scaling.inverse(found), own


def _held(ready: Any, x: Tokens) -> Tokens:
    """Drawn tokens beside those that are given."""
    return jnp.where(ready.roles == LATENT, x, jnp.where(ready.roles == GIVEN, ready.z, 0.0))


def _drawn(
    model: Any, one: Callable[..., Any], z: Any, roles: Any, n: int, which: Any, key: PRNGKeyArray, together: int
) -> Any:
    """`one(ready, noise, key)` for `n` rows, each with noise of its own, some of them side by side."""
    key_noise, key_way = jr.split(key)
    noise = model.path.begin(model.path.noise(key_noise, (n, model.modeled.size)))
    # once a question, not once a draw
    ready = jax.vmap(model.ready)(z, roles)

    def answers(ready: Any, rows: Any) -> Any:
        def of(row: Any) -> Any:
            question, noise, key = row
            own = jax.tree.map(lambda a: a[question], ready)
            return one(own, jnp.where(own.roles == LATENT, noise, 0.0), key)

        return jax.lax.map(of, rows, batch_size=together)

    questions = jnp.zeros(n, int) if which is None else which
    return row_by_row(answers, ready, (questions, noise, jr.split(key_way, n)))


@eqx.filter_jit
def ends_of(
    model: Any, solver: AbstractSolver, z: Float[Array, "n d"], roles: Int[Array, "n d"], key: PRNGKeyArray
) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
    """Noise, and where a solver carries it in the model's coordinates, for every row of scaled tokens and roles."""
    noise = model.path.begin(model.path.noise(key, (len(z), model.modeled.size)))

    def one(row: Any) -> Tokens:
        z, roles, noise = row
        ready = model.ready(z, roles)
        return solver(model.flow_from(ready), jnp.where(ready.roles == LATENT, noise, 0.0), *model.path.span)

    return noise, jax.lax.map(one, (z, roles, noise), batch_size=in_cache(model.modeled.size))


def log_density(
    model: Any,
    solver: AbstractSolver,
    trace: AbstractTrace,
    x: Tokens,
    roles: Roles,
    directions: Float[Array, "a k"],
    key: PRNGKeyArray,
) -> Float[Array, " m"]:
    """Estimates `(m,)` of the log density of one row of tokens in the user's units."""
    ready = model.ready(jnp.where(roles != ABSENT, model.scaling.forward(x), 0.0), roles)
    there, gain = pull_back(model.flow_from(ready), ready.z, directions, solver, trace, key)
    own = model.path.log_begin(there) - model.scaling.only(model.modeled).log_slope(ready.z)
    return jnp.sum(jnp.where(ready.roles == LATENT, own, 0.0)) + gain


class Density(NamedTuple):
    """Estimates of log densities `(n, m)` and their gradient with respect to every token, `(n, d)`, if asked for."""

    estimates: Array
    slope: Array | None


@eqx.filter_jit
def density_rows(
    model: Any,
    solver: AbstractSolver,
    trace: AbstractTrace,
    x: Float[Array, "n d"],
    roles: Int[Array, "n d"],
    directions: Float[Array, "a k"],
    key: PRNGKeyArray,
    slopes: bool,  # noqa: FBT001 - positional because filter_jit is
) -> Density:
    """Log densities, in the user's units, of the latent tokens of every row."""

    def one(x: Tokens, roles: Roles, key: PRNGKeyArray) -> Array:
        return log_density(model, solver, trace, x, roles, directions, key)

    keys = jr.split(key, jnp.shape(x)[0])
    found = jax.vmap(one)(x, roles, keys)
    slope = jax.vmap(jax.grad(lambda *row: jnp.mean(one(*row))))(x, roles, keys) if slopes else None
    return Density(found, slope)


@eqx.filter_jit
def field_rows(
    model: Any,
    kind: str,
    x: Float[Array, "n k"],
    z: Float[Array, "n d"],
    roles: Int[Array, "n d"],
    t: Scalar,
) -> Float[Array, "n k"]:
    """The velocity or the score at time `t`, all in the model's coordinates."""

    def one(x: Tokens, z: Tokens, roles: Roles) -> Tokens:
        flow = model.flow(z, roles)
        return flow(x, t) if kind == "velocity" else flow.score(x, t)

    return jax.vmap(one)(x, z, roles)
