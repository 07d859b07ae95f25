"""Answers: questions in names become tokens, tokens are worked on in blocks of rows, and come back by name.

What a `FlowModel` promises in its methods is done here; what is compiled is in `_rows`. A question about functions is
first given the slots it needs.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from retrodict._errors import DataError, QueryError, listed, unknown
from retrodict._runtime.progress import Progress
from retrodict._types import Key, as_key
from retrodict.constraints import Interval
from retrodict.densities import AbstractTrace, check
from retrodict.guidance import refusal
from retrodict.models._auto_solver import chosen
from retrodict.models._flow_rows import carried_rows, density_rows, field_rows, solve_rows
from retrodict.paths import LogSNR
from retrodict.query.functions import Slots, slots
from retrodict.query.tokens import Batch, Question, as_numbers, ask, elements, flatten, unflatten
from retrodict.roles import ABSENT, GIVEN, LATENT, VARIES
from retrodict.solvers import AbstractSolver, DPMSolver, Midpoint, Straightened
from retrodict.transforms import supports
from retrodict.variables import At


# sds within 1.5 %, also of posteriors thirty times narrower than the prior, where AdamsBashforth(16) had 5 % too little
SAMPLER = Straightened(DPMSolver(20, LogSNR()))
# errs by .03 nats in the mean (median .02) on two moons, less than the model; Midpoint(48) for a tenth of that
INTEGRATOR = Midpoint(steps=16)
MANY = 100_000  # draws that take long enough to be watched
ROWS = 8192  # rows solved per dispatch: memory stays bounded however many draws are asked for
# of densities, whose k derivatives a row then stay in a core's cache: 1,000 of SLCP take a quarter less than in one go
DENSITY_ROWS = 256


class Densities(NamedTuple):
    """Estimates of log densities `(n, m)`, and what was asked."""

    estimates: np.ndarray
    slope: np.ndarray  # of every token, or empty
    roles: np.ndarray
    latent: int


def at_points(
    model: Any, given: Mapping[str, Any] | None, of: Iterable[str] | Mapping[str, Any] | None
) -> tuple[Any, Any, Any, Mapping[str, slice]]:
    """The model and the question with as many slots as its functions need, and where their answers lie."""
    if not model.layout.functions or _in_slots(model, given):
        return model, given, of, {}
    between = {name: at for name, at in _functions(given).items() if isinstance(at.values, Interval)}
    if not between:
        found = slots(model.layout, given, of)
        return model.seen_at(found.layout), found.given, found.of, found.answers
    # what is known exactly goes through slots as numbers; the rest comes back as an interval of every slot
    ends = {name: at.values.ends(np.shape(at.points)[:1], name) for name, at in between.items()}
    known = {name: At(between[name].points, np.where(low == high, low, np.nan)) for name, (low, high) in ends.items()}
    found = slots(model.layout, {**(given or {}), **known}, of)
    open_ = {name: np.full(found.layout[name].size - len(low), np.inf) for name, (low, _) in ends.items()}
    held = {
        name: Interval(np.append(low, -open_[name]), np.append(high, open_[name])) for name, (low, high) in ends.items()
    }
    return model.seen_at(found.layout), {**found.given, **held}, found.of, found.answers


def _in_slots(model: Any, given: Mapping[str, Any] | None) -> bool:
    """Whether a question says itself what lies in which slot, as rows of simulations do."""
    return isinstance(given, Mapping) and not set(model.layout.places).isdisjoint(given)


def _functions(given: Mapping[str, Any] | None) -> dict[str, At]:
    """What one observation gives as functions; a Batch has none with intervals."""
    one = isinstance(given, Mapping) and not isinstance(given, Batch)
    return {name: at for name, at in given.items() if isinstance(at, At)} if one and given is not None else {}


def sample(
    model: Any, n: int, given: Mapping[str, Any] | None, of: Any, solver: AbstractSolver, key: PRNGKeyArray
) -> dict[str, np.ndarray]:
    """`FlowModel.sample` without guidance."""
    if reason := solver.refusal(model.path):
        raise QueryError(reason)
    question = questioned(model, given, of)
    solver = chosen(model, question, solver)
    draws = draw(model, question, n, solver, key)
    draws = draws.reshape(-1, n, model.modeled.size) if isinstance(given, Batch) else draws
    return unflatten(model.modeled, draws, question.of)


def questioned(model: Any, given: Mapping[str, Any] | None, of: Iterable[str] | Mapping[str, Any] | None) -> Question:
    """The question in tokens, unless the network cannot answer it."""
    if of is None and model.embedded and isinstance(given, Mapping | None):
        of = [name for name in model.modeled.names if name not in (given or {})]
    question = ask(model.layout, given, of)
    for name in model.embedded:
        roles = question.roles[:, model.layout.slices[name]]
        if name in question.of:
            raise QueryError(f"'{name}' is read as a whole by an embedding; it can be given, not asked")
        if not model.architecture.pieces(name) and (roles != roles[:, :1]).any():
            raise QueryError(f"'{name}' is read as a whole by an embedding; give all of it, or leave it out of `given`")
    if reason := model.net.refusal(question.roles):
        raise QueryError(reason)
    return question


def completed(model: Any, roles: np.ndarray) -> np.ndarray:
    """The roles `(m, d)` of the question that a model was trained for and whose answer holds that of the one asked: one
    that always draws all parameters draws those that are not asked, too.

    Raises:
        QueryError: there is none.
    """
    fixed = model.law.fixed(model.layout)
    left_out, strange = (roles == ABSENT) & (fixed == LATENT), (roles != fixed) & (fixed != VARIES)
    for name in model.layout.functions:  # fewer points than slots are no other question, but none at all are
        block = model.layout.slices[name]
        left_out[:, block] = False
        strange[:, block] &= (roles[:, block] != ABSENT) | (roles[:, block] == ABSENT).all(axis=1, keepdims=True)
    if (strange & ~left_out).any():
        known, asked = (listed(elements(model.layout, fixed == role)) for role in (GIVEN, LATENT))
        raise QueryError(
            f"this model was trained for one question, {asked} given {known or 'nothing'}, and knows no other; "
            "give all of it, or ask a model of `rd.joint`"
        )
    return np.where(left_out, LATENT, roles)


def draw(model: Any, question: Question, n: int, solver: AbstractSolver, key: PRNGKeyArray) -> np.ndarray:
    """`n` draws for each of m questions one after the other, `(m n, k)` tokens in the user's units, NaN if absent.

    Raises:
        QueryError: a question that the model was not trained for.
    """
    draws, kept = _in_blocks(model, question, n, solver, key, solve_rows), model.kept
    roles = np.repeat(question.roles[:, kept], n, axis=0)
    known = np.where(roles == GIVEN, np.repeat(question.values[:, kept], n, axis=0), np.nan)
    return np.where(roles == LATENT, draws, known)


def propose(
    model: Any, question: Question, n: int, solver: AbstractSolver, key: PRNGKeyArray
) -> tuple[np.ndarray, np.ndarray]:
    """`n` draws of all that a model of one question draws, for each of m questions, `(m n, k)` tokens, and the log
    densities `(m n,)` with which the solver draws them, whatever its steps get wrong; see `guidance.carried`.

    Raises:
        QueryError: a question that the model was not trained for, or a solver whose draws have no density.
    """
    if reason := refusal(solver) or solver.refusal(model.path):
        raise QueryError(reason)
    latent = completed(model, question.roles)[0, model.kept] == LATENT
    by = functools.partial(carried_rows, directions=jnp.eye(model.modeled.size)[latent])
    draws, logs = _in_blocks(model, question, n, solver, key, by)
    return draws, logs


def _in_blocks(
    model: Any, question: Question, n: int, solver: AbstractSolver, key: PRNGKeyArray, by: Callable[..., Any]
) -> Any:
    """What `by` gives for m questions, `n` rows each, as arrays `(m n, ...)`."""
    m = len(question.roles)
    size = min(ROWS, 1 << (m * n - 1).bit_length())
    z, where = model.scaling.forward(question.values), jnp.asarray(completed(model, question.roles))
    parts, core = [], model.core()
    count = min(m, (size - 1) // n + 2)  # questions that one block can touch
    with Progress("drawing", m * n, shown=m * n > MANY) as progress:
        for start in range(0, m * n, size):
            asked = (start // n + np.arange(count)) % m
            which = jnp.asarray((start + np.arange(size)) // n - start // n) % count if m > 1 else None
            parts.append(
                jax.device_get(by(core, solver, z[asked], where[asked], size, which, jr.fold_in(key, start // size)))
            )
            progress.at(min(start + size, m * n), f"{m} questions")
    return jax.tree.map(lambda *part: np.concatenate(part)[: m * n], *parts)


def pairs(
    model: Any, values: Mapping[str, Any], given: Mapping[str, Any] | None, by: Callable[..., Question] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of values and givens, roles, `(n, d)` each, and which tokens are asked, `(d,)`, of a density; `by` is
    `questioned`, or whatever else turns a question in names into one in tokens."""
    if not isinstance(values, Mapping) or not values:
        raise QueryError("`values` must map at least one name to its values")
    for name in values:
        if name not in model.layout.names:
            raise QueryError(unknown("`values`", name, model.layout.names))
    tokens = flatten(model.layout, values, values, where="`values`")
    asked = ~np.isnan(tokens)
    if (asked != asked[0]).any():
        raise DataError("`values` has NaN in some rows only; NaN leaves an element out, in every row or in none")
    question = (by or questioned)(model, given, unflatten(model.layout, asked[0], values))
    if isinstance(given, Batch) and len(question.roles) != len(tokens):
        raise DataError(
            f"`values` has {len(tokens)} rows and the Batch {len(question.roles)} observations; "
            "they are paired row by row"
        )
    if by is None and (completed(model, question.roles) != question.roles).any():
        raise QueryError(
            "this model was trained for one question, and knows the density of all that it draws but not of a part; "
            "give all of it in `values`, or ask a model of `rd.joint`"
        )
    roles = np.broadcast_to(question.roles, tokens.shape)
    return np.where(roles == LATENT, tokens, question.values), roles, question.roles[0] == LATENT


def density(
    model: Any,
    values: Mapping[str, Any],
    given: Mapping[str, Any] | None,
    solver: AbstractSolver | None,
    trace: AbstractTrace,
    key: Key,
    *,
    slopes: bool = False,
) -> Densities:
    """`FlowModel.log_prob` and its relatives."""
    if model.layout.functions and not _in_slots(model, given):
        found = slots(model.layout, given, {k: _where(v) for k, v in values.items()})
        resized, filled = model.seen_at(found.layout), _filled(found, values)
        return density(resized, filled, found.given, solver, trace, key, slopes=slopes)
    solver = solver or INTEGRATOR
    check(solver)
    rows, roles, latent = pairs(model, values, given)
    solver = chosen(model, Question(roles, rows, ()), solver, "densities")
    x, where = jnp.asarray(rows), jnp.asarray(roles)
    directions, n = jnp.eye(model.modeled.size)[latent[model.kept]], len(rows)
    size = min(DENSITY_ROWS, 1 << (n - 1).bit_length())
    parts, core = [], model.core()
    for start in range(0, n, size):
        which = np.arange(start, start + size) % n
        seed = jr.fold_in(as_key(key), start // size)
        parts.append(density_rows(core, solver, trace, x[which], where[which], directions, seed, slopes))
    estimates = np.concatenate([np.asarray(part.estimates) for part in parts])[:n]
    slope = np.concatenate([np.asarray(part.slope) for part in parts])[:n] if slopes else np.zeros((n, 0))
    inside = supports.contains(rows, *(end.astype(np.float32) for end in model.layout.ends))
    inside = np.all(inside | ~latent, axis=1)
    return Densities(np.where(inside[:, None], estimates, -np.inf), slope, roles, int(latent.sum()))


def field(
    model: Any, kind: str, values: Mapping[str, Any], t: float, given: Mapping[str, Any] | None
) -> dict[str, np.ndarray]:
    """`FlowModel.velocity` and `FlowModel.score`."""
    no_functions(model, kind)
    low, high = model.path.span
    if not low <= t <= high:
        raise QueryError(f"`t` must lie between {low:g} (noise) and {high:g} (data), got {t:g}")
    if kind == "score" and not model.path.gaussian:
        raise QueryError(f"noise from {type(model.path.source).__name__} has no score that a guess of it could give")
    if kind == "score" and float(model.path.schedule(jnp.asarray(t, float))[1]) == 0.0:
        raise QueryError(f"at t = {t:g} no noise is left and so no score; ask a little earlier, or use grad_log_prob")
    rows, roles, _ = pairs(model, values, given)
    z = model.scaling.forward(np.where(roles == GIVEN, rows, 0.0))
    kept = model.kept
    found = np.asarray(
        field_rows(model.core(), kind, jnp.asarray(rows[:, kept]), z, jnp.asarray(roles), jnp.asarray(t, float))
    )
    return unflatten(model.modeled, np.where(roles[:, kept] == LATENT, found, np.nan), values)


def in_coordinates(model: Any, values: Mapping[str, Any], by: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    """`FlowModel.to_coordinates` and its inverse."""
    absent = [name for name in model.layout.names if name not in values]
    if model.scaling.affine is not None and absent:
        raise QueryError(f"the coordinates of a framed model follow what is given; `values` lacks {listed(absent)}")
    return unflatten(model.layout, np.asarray(by(flatten(model.layout, values, values, where="`values`"))), values)


def no_functions(model: Any, what: str) -> None:
    """Raises QueryError for what is not answered about functions."""
    if model.layout.functions:
        raise QueryError(
            f"{what} is not offered for models with functions ({listed(model.layout.functions)}); their draws and "
            "densities are, and `model.seen_at(layout).flow` inside JAX"
        )


def count(n: Any) -> int:
    """A number of draws."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise QueryError(f"the number of draws must be a positive whole number, got {n!r}")
    return int(n)


def _where(values: Any) -> At | None:
    """What a density asks of a variable: of a function, its points."""
    return At(values.points) if isinstance(values, At) else None


def _filled(found: Slots, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a density, those of functions `(n, k)` in their slots."""
    filled: dict[str, Any] = {}
    for name, value in values.items():
        filled[name] = value
        if isinstance(value, At):
            own = as_numbers(value.values, f"the values of '{name}'")
            block = found.answers[name]
            if own.ndim != 2 or own.shape[1] != block.stop - block.start:
                raise DataError(f"'{name}' in `values` needs values (n, k) at points (k,), got {own.shape}")
            filled[name] = np.full((len(own), *found.layout[name].shape), np.nan, np.float32)
            filled[name][:, block] = own
    return filled
