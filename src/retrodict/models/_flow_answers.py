"""Answers of a flow model: queries in tokens, worked on in blocks of rows.

The methods of `FlowModel` are implemented here; the compiled functions are in `_flow_rows`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import QueryError, listed
from retrodict._runtime.blocks import block_size, in_blocks
from retrodict._types import Key, as_key
from retrodict.densities import AbstractTrace, Exact, check
from retrodict.guidance import refusal
from retrodict.models._auto_solver import chosen
from retrodict.models._flow_protocol import FlowLike
from retrodict.models._flow_rows import carried_rows, density_rows, field_rows, log_density, one_draw, solve_rows
from retrodict.paths import LogSNR
from retrodict.query import Query, elements, flatten, unflatten
from retrodict.roles import ABSENT, GIVEN, LATENT, VARIES
from retrodict.solvers import AbstractSolver, DPMSolver, Midpoint, Normalized, Straightened
from retrodict.transforms import supports


# sds within 1.5 %, also of posteriors thirty times narrower than the prior
SAMPLER = Straightened(DPMSolver(20, LogSNR()))
# the same, exact for standard normal data, which a baseline leaves where all is linear and Gaussian
NORMALIZED_SAMPLER = Normalized(SAMPLER)
# errs by .03 nats in the mean on two moons, less than the model
INTEGRATOR = Midpoint(steps=16)
DRAWS_WITH_PROGRESS = 100_000
ROWS_PER_BLOCK = 8192  # memory stays bounded however many draws are asked for
MAX_MATRIX_NUMBERS = 2**25  # of the baselines of one block's questions
DENSITY_ROWS_PER_BLOCK = 256  # so that the k derivatives of a row stay in a core's cache


class Estimate(NamedTuple):
    """A log density by random probes, and its standard error."""

    value: np.ndarray
    standard_error: np.ndarray


class Gradient(NamedTuple):
    """A log density and its gradients with respect to the values and to what was given, by name."""

    log_prob: np.ndarray
    values: dict[str, np.ndarray]
    given: dict[str, np.ndarray]


class Densities(NamedTuple):
    """Estimates of log densities `(n, m)`, the gradient by every token, or nothing, and the number of latent ones."""

    estimates: np.ndarray
    slope: np.ndarray
    latent: int


def sample(model: FlowLike, query: Query, n: int, solver: AbstractSolver | None, key: PRNGKeyArray) -> np.ndarray:
    """Returns draws without guidance, tokens `(m, n, k)`."""
    solver = solver or default_sampler(model)
    if reason := solver.refusal(model.path):
        raise QueryError(reason)
    return draw(model, query, n, chosen(model, query.roles, query.values, solver), key)


def default_sampler(model: FlowLike) -> AbstractSolver:
    """Returns the solver of draws for which no other is named."""
    return SAMPLER if model.baseline is None else NORMALIZED_SAMPLER


def widened(model: FlowLike, roles: np.ndarray) -> np.ndarray:
    """Returns the roles `(m, d)` of the query that the model was trained for and whose answer holds that of `roles`.

    A model that always draws all parameters draws those that are not asked, too.

    Raises:
        QueryError: there is no such query.
    """
    fixed = model.law.fixed(model.layout)
    left_out, strange = (roles == ABSENT) & (fixed == LATENT), (roles != fixed) & (fixed != VARIES)
    for name in model.layout.functions:  # fewer points than slots are no other query, but none at all are
        block = model.layout.slices[name]
        left_out[:, block] = False
        strange[:, block] &= (roles[:, block] != ABSENT) | (roles[:, block] == ABSENT).all(axis=1, keepdims=True)
    if (strange & ~left_out).any():
        inputs, targets = (listed(elements(model.layout, fixed == role)) for role in (GIVEN, LATENT))
        raise QueryError(
            f"this model was trained for one question, {targets} given {inputs or 'nothing'}, and knows no other; "
            "give all of it, or ask a model of `rd.joint`"
        )
    return np.where(left_out, LATENT, roles)


def draw(model: FlowLike, query: Query, n: int, solver: AbstractSolver, key: PRNGKeyArray) -> np.ndarray:
    """Returns `n` draws for each of m observations, tokens `(m, n, k)` in the user's units."""
    z = _for_each(model, query, n, solver, key, solve_rows)
    return model.scaling.only(model.modeled).to_rows(z).reshape(-1, n, model.modeled.size)


def propose(
    model: FlowLike, query: Query, n: int, solver: AbstractSolver, key: PRNGKeyArray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `n` draws of a model of one query for each of m observations, and their log densities.

    Tokens `(m n, k)`, and `(m n,)` log densities with which the solver draws them, whatever its steps get wrong; see
    `guidance.carried`.

    Raises:
        QueryError: a query that the model was not trained for, or a solver whose draws have no density.
    """
    if reason := refusal(solver) or solver.refusal(model.path):
        raise QueryError(reason)
    latent = widened(model, query.roles)[0, model.kept] == LATENT
    compiled = functools.partial(carried_rows, directions=jnp.eye(model.modeled.size)[latent])
    z, log_densities = _for_each(model, query, n, solver, key, compiled)
    return model.scaling.only(model.modeled).to_rows(z), log_densities


def _for_each(
    model: FlowLike, query: Query, n: int, solver: AbstractSolver, key: PRNGKeyArray, compiled: Callable[..., Any]
) -> Any:
    """Returns the arrays `(m n, ...)` of a compiled function for m observations, `n` rows each."""
    m = len(query.roles)
    size = block_size(m * n, _rows_per_block(model))
    z, roles = model.scaling.forward(query.values), jnp.asarray(widened(model, query.roles))
    observations = min(m, (size - 1) // n + 2)  # that one block can touch
    core = model.without_training_state()

    def block(index: np.ndarray, k: int) -> Any:
        start = k * size
        touched = (start // n + np.arange(observations)) % m
        observation = jnp.asarray((start + np.arange(size)) // n - start // n) % observations if m > 1 else None
        return compiled(core, solver, z[touched], roles[touched], size, observation, jr.fold_in(key, k))

    label = "drawing" if m * n > DRAWS_WITH_PROGRESS else ""
    return in_blocks(block, m * n, size, shown=label, unit=f"{m} questions")


def _rows_per_block(model: FlowLike) -> int:
    """Returns how many rows are solved at once; every question has a matrix if there is a baseline."""
    if model.baseline is None:
        return ROWS_PER_BLOCK
    return max(1, min(ROWS_PER_BLOCK, MAX_MATRIX_NUMBERS // len(model.baseline.root) ** 2))


def density(
    model: FlowLike,
    query: Query,
    rows: np.ndarray,
    solver: AbstractSolver | None,
    trace: AbstractTrace,
    key: Key,
    *,
    slopes: bool = False,
) -> Densities:
    """Returns log densities of the latent tokens of rows `(n, d)` in the user's units."""
    solver = solver or INTEGRATOR
    check(solver)
    if (widened(model, query.roles) != query.roles).any():
        raise QueryError(
            "this model was trained for one question, and knows the density of all that it draws but not of a part; "
            "give all of it in `values`, or ask a model of `rd.joint`"
        )
    roles, latent = np.broadcast_to(query.roles, rows.shape), query.roles[0] == LATENT
    solver = chosen(model, roles, rows, solver, "densities")
    near = model.scaling.density_point(rows, _shares(model))
    z = model.scaling.of_rows(np.where(latent, near.point, rows))
    directions, root = jnp.eye(model.modeled.size)[latent[model.kept]], as_key(key)
    core = model.without_training_state()

    def block(index: np.ndarray, k: int) -> Any:
        seed = jr.fold_in(root, k)
        result = density_rows(core, solver, trace, z[index], roles[index], directions, seed, slopes)
        return (result.estimates, result.slope) if slopes else (result.estimates,)

    estimates, *slope = in_blocks(block, len(rows), block_size(len(rows), DENSITY_ROWS_PER_BLOCK))
    inside = np.all(supports.contains(rows, *model.layout.ends) | ~latent, axis=1)
    log_ratio = np.where(latent, near.log_ratio, 0.0).sum(axis=1)
    estimates = np.where(inside[:, None], estimates + log_ratio[:, None], -np.inf)
    by_token = np.zeros((len(rows), 0))
    if slopes:
        by_token = np.where(latent & near.moved, near.slope, model.scaling.gradient(z, slope[0]))
    return Densities(estimates, by_token, int(latent.sum()))


def _shares(model: FlowLike) -> Any:
    """Returns the shares of their sds that elements keep by the baseline, if there is one."""
    return 1.0 if model.baseline is None else model.baseline.shares


def density_function(model: FlowLike, query: Query) -> Callable[[Array], Array]:
    """Returns the log density of the latent tokens of one row `(d,)`, a function for JAX."""
    if (widened(model, query.roles) != query.roles).any():
        raise QueryError("this model has a density of all that it was trained to draw; name all of it in `of`")
    core, roles = model.without_training_state(), jnp.asarray(query.roles[0])
    directions = jnp.eye(model.modeled.size)[query.roles[0, model.kept] == LATENT]

    shares = _shares(model)

    def density(tokens: Array) -> Array:
        near, latent = core.scaling.density_point(tokens, shares), roles == LATENT
        z = core.scaling.forward(jnp.where(latent, near.point, tokens))
        log_prob = log_density(core, INTEGRATOR, Exact(), z, roles, directions, jr.key(0))[0]
        return log_prob + jnp.sum(jnp.where(latent, near.log_ratio, 0.0))

    return density


def sampler_function(
    model: FlowLike, query: Query, solver: AbstractSolver | None = None
) -> Callable[[PRNGKeyArray], Array]:
    """Returns the function from a key to one draw, tokens `(k,)` in the user's units, for JAX."""
    solver = solver or default_sampler(model)
    if reason := solver.refusal(model.path):
        raise QueryError(reason)
    core, roles = model.without_training_state(), jnp.asarray(widened(model, query.roles)[0])
    z, fixed = (jnp.asarray(x) for x in (model.scaling.forward(query.values[0]), query.values[0, model.kept]))
    role_columns = query.roles[0, model.kept]

    def draw(key: PRNGKeyArray) -> Array:
        tokens = one_draw(core, solver, z, roles, key)
        return jnp.where(role_columns == LATENT, tokens, jnp.where(role_columns == GIVEN, fixed, jnp.nan))

    return draw


def field(model: FlowLike, kind: str, query: Query, rows: np.ndarray, t: float) -> np.ndarray:
    """Returns the velocity or the score of noisy rows `(n, k)`; see `FlowModel.velocity` and `FlowModel.score`."""
    low, high = model.path.span
    if not low <= t <= high:
        raise QueryError(f"`t` must lie between {low:g} (noise) and {high:g} (data), got {t:g}")
    if kind == "score" and not model.path.gaussian:
        raise QueryError(f"noise from {type(model.path.source).__name__} has no score that a guess of it could give")
    if kind == "score" and float(model.path.schedule(jnp.asarray(t, float))[1]) == 0.0:
        raise QueryError(f"at t = {t:g} no noise is left and so no score; ask a little earlier, or use grad_log_prob")
    if (widened(model, query.roles) != query.roles).any():
        raise QueryError("this model was trained for one question; give all that it draws in `values`")
    roles, columns = np.broadcast_to(query.roles, rows.shape), model.kept
    z = model.scaling.forward(np.where(roles == GIVEN, rows, 0.0))
    core, x, time = model.without_training_state(), jnp.asarray(rows[:, columns], jnp.float32), jnp.asarray(t, float)
    vectors = np.asarray(field_rows(core, kind, x, z, jnp.asarray(roles), time))
    return np.where(roles[:, columns] == LATENT, vectors, np.nan)


def in_coordinates(
    model: FlowLike, values: Mapping[str, Any], transform: Callable[[Any], Any]
) -> dict[str, np.ndarray]:
    """Returns values by name through a map of tokens; see `FlowModel.to_coordinates`."""
    missing = [name for name in model.layout.names if name not in values]
    if model.scaling.affine is not None and missing:
        raise QueryError(
            f"the coordinates of a model with an affine baseline follow what is given; `values` lacks {listed(missing)}"
        )
    tokens = flatten(model.layout, values, values, where="`values`")
    return unflatten(model.layout, np.asarray(transform(tokens)), values)


def to_residuals(model: FlowLike, query: Query, rows: np.ndarray) -> np.ndarray:
    """Returns rows `(n, d)` in the user's units in the coordinates of their question."""
    roles = jnp.broadcast_to(query.roles, rows.shape)
    return np.asarray(jax.vmap(model.ready)(model.scaling.forward(rows), roles).z)


def from_residuals(model: FlowLike, query: Query, rows: np.ndarray) -> np.ndarray:
    """Returns the inverse of `to_residuals`; given tokens are in the user's units."""
    roles = jnp.broadcast_to(query.roles, rows.shape)
    z = jax.vmap(lambda ready, x: ready.scaled(x))(
        jax.vmap(model.ready)(model.scaling.forward(rows), roles), jnp.asarray(rows)
    )
    return np.asarray(model.scaling.inverse(np.asarray(z)))


def refuse_functions(model: FlowLike, method: str) -> None:
    """Refuses a method that is not offered for models with functions.

    Raises:
        QueryError: the model has functions.
    """
    if model.layout.functions:
        raise QueryError(
            f"{method} is not offered for models with functions ({listed(model.layout.functions)}); their draws and "
            "densities are, and `model.seen_at(layout).flow` inside JAX"
        )
