"""The cheapest solver that is good enough, measured on the model itself.

A flow without noise of its own is a map T from noise x0 to data, and a solver an approximation T' of it. With the same
noise in both, s how far the draws of one observation spread, and a mean over draws, elements and observations,

    error = sqrt(mean of ((T'(x0) - T(x0)) / s)^2)        of draws
    error = sqrt(mean of (log p'(x1) - log p(x1))^2)      of densities, in nats, at draws x1

Both pair every draw with its own approximation, so that the first is at least the Wasserstein distance (of second
order, in units of s) between what is drawn and what the flow says. T itself is RK4's solution with so many steps that
half of them are within a tenth of the error that is wanted; what half of them leave is added (triangle inequality).

The search looks at all candidates at equal cost, 8 evaluations of the network, then 16, 32 and so on. Those much worse
than the best are left behind; where one is good enough, the fewest evaluations are found by bisection.
"""

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from retrodict._errors import QueryError
from retrodict.densities import Exact
from retrodict.models._flow_protocol import FlowLike
from retrodict.models._flow_rows import density_rows
from retrodict.models._guided_rows import raw_rows
from retrodict.models._record import Choice, fingerprint
from retrodict.paths import Path, Power
from retrodict.query.family import shares_of
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.solvers import (
    MAX_ERROR,
    RK4,
    AbstractSolver,
    Auto,
    Straightened,
    at_cost,
    gaussian_error,
    straightened,
    stripped,
    told,
)


OBSERVATIONS, DRAWS, DENSITIES = 16, 32, 8  # observations; draws and densities of each
COSTS = (8, 16, 32, 64, 128, 256)  # evaluations at which all candidates are compared
BEHIND = 4.0  # times the error of the best: a candidate further behind is not looked at again
FINEST = (16, 32, 64, 128)  # steps of RK4
LONGEST = 256  # steps for which programs are compiled
CERTAIN = 0.1  # of the error that is wanted, at most so much may the fine solution itself leave
FINE = 16  # bisection stops at a 16th of the evaluations
NARROWEST = 1e-4  # of a standard deviation: below, single precision is no longer precise
LAWS = 256  # draws of the law of roles, that tell what a model was trained to be asked
Kind = Literal["draws", "densities"]
_CHOSEN: dict[Any, Choice] = {}  # a choice follows from its key, so that it may be forgotten at any time
MOST = 256  # of them that are remembered


class SolverWarning(UserWarning):
    """A solver that errs by more than what is wanted, or whose steps are too few for any answer."""


class Observations(NamedTuple):
    """Observations to measure on: scaled tokens and roles, `(m, d)` each."""

    z: np.ndarray
    roles: np.ndarray


def chosen(
    model: FlowLike, roles: np.ndarray, values: np.ndarray, solver: AbstractSolver, kind: Kind = "draws"
) -> AbstractSolver:
    """Returns the solver as it is followed or, for `Auto`, what it stands for in a query of these roles and values."""
    if not isinstance(solver, Auto):
        return followed(solver, model.path, kind)
    choice = recorded_choice(model, roles, solver, kind)
    if choice is None:
        places = [model.layout.slices[name] for name in model.layout.places]
        patterns = np.unique(roles, axis=0)
        points = tuple(values[0, block].tobytes() for block in places)
        key = (
            fingerprint(model),
            jax.tree.structure(model.without_training_state()),
            patterns.tobytes(),
            points,
            kind,
            solver,
        )
        if key not in _CHOSEN:
            while len(_CHOSEN) >= MOST:
                del _CHOSEN[next(iter(_CHOSEN))]
            _CHOSEN[key] = measured(model, typical(model, patterns, values[0]), solver, kind)
        choice = _CHOSEN[key]
    if choice.error > choice.wanted:
        warnings.warn(_warning_text(choice), SolverWarning, stacklevel=5)  # equinox wraps methods
    return choice.solver


def followed(solver: AbstractSolver, path: Path, kind: Kind = "draws") -> AbstractSolver:
    """Returns the solver along straight lines, as densities always are, and warns if its steps are too few."""
    along_lines = straightened(solver, path)
    error = gaussian_error(along_lines, path)
    if not abs(error) <= MAX_ERROR:
        warnings.warn(
            f"{type(stripped(solver)).__name__} takes too few steps: its draws of a Gaussian are {abs(error):.0%} too "
            f"{'narrow' if error < 0 else 'wide'}; take more, or leave the choice to rd.solvers.Auto(error=0.01)",
            SolverWarning,
            stacklevel=7,
        )
    return along_lines if kind == "draws" else solver


def recorded_choice(model: FlowLike, roles: np.ndarray, solver: Auto, kind: Kind) -> Choice | None:
    """Returns the choice in the model's record, if it was measured with these weights for such roles."""
    if not model.record.solvers:
        return None
    wish = (kind, shares_of(model.layout, roles), float(solver.error), Choice.named(solver.candidates))
    choices = [choice for choice in model.calibration.solvers if choice.wish == wish]
    return choices[0] if choices else None


def typical(model: FlowLike, patterns: np.ndarray, values: np.ndarray) -> Observations:
    """Observations for roles `(p, d)`, drawn from the model itself if it was trained to be asked about them.

    Otherwise from the standard normal, which has the mean and the standard deviations of what it was trained on.
    Places of functions are where the question has them.
    """
    roles = patterns[np.arange(OBSERVATIONS) * len(patterns) // OBSERVATIONS]
    key_draws, key_law = jr.split(jr.key(0))
    place = np.zeros(model.layout.size, bool)
    for name in model.layout.places:
        place[model.layout.slices[name]] = True
    given_mask = (patterns == GIVEN).any(axis=0) & ~place
    z = np.array(jr.normal(key_draws, roles.shape))
    z[:, place] = np.asarray(model.scaling.forward(values))[place]
    latent_roles = np.where(given_mask, LATENT, np.where(place, patterns[0], ABSENT))
    trained = jax.vmap(lambda key: model.law.draw(key, model.layout) == LATENT)(jr.split(key_law, LAWS)).any(axis=0)
    if given_mask.any() and trained[given_mask].all() and model.net.refusal(latent_roles[None]) is None:
        draw = told(_fine(FINEST[0]), model.path, LONGEST)
        draws = raw_rows(
            model.without_training_state(),
            draw,
            None,
            None,
            None,
            jnp.asarray(z[0]),
            jnp.asarray(latent_roles),
            DRAWS,
            key_draws,
        )
        draws = draws[:OBSERVATIONS]
        full = np.broadcast_to(z[:, model.kept], np.shape(draws))
        z[:, model.kept] = np.where(given_mask[model.kept], draws, full)
    return Observations(np.where(roles == GIVEN, z, 0.0).astype(np.float32), roles)


def measured(model: FlowLike, asked: Observations, solver: Auto, kind: Kind) -> Choice:
    """The cheapest candidate whose error is at most the wanted one, or the best.

    Raises:
        QueryError: no candidate can follow this path, or has densities where they are asked for.
    """
    candidates = solver.candidates
    if kind == "densities":  # these are followed along straight lines whatever the solver
        candidates = tuple(plain for plain in map(stripped, candidates) if plain.follows_velocity)
    candidates = tuple(candidate for candidate in candidates if candidate.refusal(model.path) is None)
    if not candidates:
        raise QueryError(f"none of Auto's candidates can follow this model's path and has {kind}; name another")
    truth = _truth(_ends(model, asked) if kind == "draws" else _logs(model, asked), solver.error)
    errors: dict[AbstractSolver, float] = {}

    def error(candidate: AbstractSolver) -> float:
        if candidate not in errors:
            errors[candidate] = truth.error(candidate)
        return errors[candidate]

    best = search(candidates, error, solver.error)
    return Choice(
        fingerprint=fingerprint(model),
        shares=shares_of(model.layout, asked.roles),
        kind=kind,
        wanted=float(solver.error),
        among=Choice.named(solver.candidates),
        solver=best,
        evaluations=int(best.evaluations or 0),
        error=error(best),
    )


# the search ---------------------------------------------------------------------------------------------------------


def search(
    candidates: tuple[AbstractSolver, ...], error: Callable[[AbstractSolver], float], wanted: float
) -> AbstractSolver:
    """The candidate with the fewest evaluations whose error is at most `wanted`; the best seen if there is none."""
    alive, before, best_errors = candidates, 1, dict[AbstractSolver, float]()
    for cost in COSTS:
        errors = {candidate: error(filled) for candidate in alive if (filled := _at(candidate, cost)) is not None}
        best_errors.update({at_cost(candidate, cost): measured_error for candidate, measured_error in errors.items()})
        good = sorted((candidate for candidate in errors if errors[candidate] <= wanted), key=errors.__getitem__)
        if good:
            return _cheapest(good, lambda filled: error(filled) <= wanted, before, cost)
        least = min(errors.values(), default=np.inf)
        alive = tuple(candidate for candidate in alive if errors.get(candidate, 0.0) <= BEHIND * least)
        before = cost
    return min(best_errors, key=best_errors.__getitem__)


def _cheapest(
    good: list[AbstractSolver], passes: Callable[[AbstractSolver], bool], low: int, high: int
) -> AbstractSolver:
    """Returns the candidate that passes at the least cost above `low`, of those that pass at a cost of `high`."""
    best = at_cost(good[0], high)
    for candidate in good:
        low_cost, high_cost = low, high
        if candidate is not good[0]:
            high_cost = int(best.evaluations or 0) - 1
            filled = _at(candidate, high_cost)
            if filled is None or not passes(filled):
                continue
            best = filled
        while high_cost - low_cost > max(1, high_cost // FINE):
            middle = (low_cost + high_cost) // 2
            filled = _at(candidate, middle)
            if filled is not None and passes(filled):
                best, high_cost = filled, middle
            else:
                low_cost = middle
    return best


def _at(candidate: AbstractSolver, cost: int) -> AbstractSolver | None:
    """The candidate at this cost, unless that is too little for it."""
    try:
        return at_cost(candidate, cost)
    except QueryError:
        return None


# what is measured ---------------------------------------------------------------------------------------------------


class _Truth(NamedTuple):
    """A fine solution `(m, n, k)`, how it is computed, the unit of comparisons, and its error."""

    solve: Callable[[AbstractSolver], np.ndarray]
    ends: np.ndarray
    unit: np.ndarray
    left: float

    def error(self, solver: AbstractSolver) -> float:
        return _rms(self.solve(solver), self.ends, self.unit) + self.left


def _truth(solve: Callable[[AbstractSolver], np.ndarray], wanted: float) -> _Truth:
    """A solution so fine that half of its steps differ by a tenth of the wanted error, or the finest."""
    coarse, truth = solve(_fine(FINEST[0])), None
    for steps in FINEST[1:]:
        solution = solve(_fine(steps))
        unit = _spread(solution)
        truth = _Truth(solve, solution, unit, _rms(coarse, solution, unit))
        if truth.left <= CERTAIN * wanted:
            break
        coarse = solution
    assert truth is not None
    return truth


def _fine(steps: int) -> AbstractSolver:
    return Straightened(RK4(steps, Power()))


def _spread(solution: np.ndarray) -> np.ndarray:
    """Half of the central 68 % of the draws `(m, n, k)` of every observation, which is their sd if they are Gaussian;
    of densities `(m, n)`, one nat."""
    if solution.ndim < 3:
        return np.ones(())
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(solution, [0.1587, 0.8413], axis=1, keepdims=True)
        return np.maximum((high - low) / 2, NARROWEST)


def _rms(values: np.ndarray, truth: np.ndarray, unit: np.ndarray) -> float:
    """The root mean square difference where anything was asked; infinite if a solver lost a row, or the fine one did.

    `truth` is NaN where nothing was asked, and infinite where a row was lost.
    """
    asked = ~np.isnan(truth)
    with np.errstate(invalid="ignore"):
        off = np.where(asked, (values - truth) / unit, 0.0)
    return float(np.sqrt((off**2).sum() / asked.sum())) if np.isfinite(off).all() else float("inf")


def _marked(values: np.ndarray) -> np.ndarray:
    """Returns values with infinity where a solver lost a row, which NaN would hide."""
    return np.where(np.isfinite(values), values, np.inf)


def _ends(model: FlowLike, asked: Observations) -> Callable[[AbstractSolver], np.ndarray]:
    """Returns the function from a solver to the ends of the same noise, `(m, n, k)` in the model's coordinates."""
    core, keys = model.without_training_state(), jr.split(jr.key(1), len(asked.z))
    latent = (asked.roles[:, model.kept] == LATENT)[:, None]

    def solve(solver: AbstractSolver) -> np.ndarray:
        solver = told(solver, model.path, LONGEST)
        rows = [
            np.asarray(raw_rows(core, solver, None, None, None, z, roles, DRAWS, key), np.float64)
            for z, roles, key in zip(*map(jnp.asarray, asked), keys, strict=True)
        ]
        return np.where(latent, _marked(np.stack(rows)), np.nan)

    return solve


def _logs(model: FlowLike, asked: Observations) -> Callable[[AbstractSolver], np.ndarray]:
    """The log densities `(m, n)` that a solver finds for the same draws."""
    core, keys, columns = model.without_training_state(), jr.split(jr.key(1), len(asked.z)), model.kept
    latent = asked.roles[0, columns] == LATENT
    rows, roles = [np.repeat(array, DENSITIES, axis=0) for array in asked]
    draws = _ends(model, asked)(_fine(FINEST[0]))[:, :DENSITIES].reshape(len(rows), -1)
    rows[:, columns] = np.where(roles[:, columns] == LATENT, draws, rows[:, columns])
    z = jnp.asarray(rows, jnp.float32)

    def solve(solver: AbstractSolver) -> np.ndarray:
        way = told(stripped(solver), model.path.straightened(), LONGEST, back=True)
        ask = (jnp.asarray(roles), jnp.eye(model.modeled.size)[latent], keys[0])
        densities = density_rows(core, way, Exact(), z, *ask, slopes=False)
        return _marked(np.asarray(densities.estimates, np.float64)[:, 0].reshape(len(asked.z), -1))

    return solve


def _warning_text(choice: Choice) -> str:
    return (
        f"no solver that Auto tried reaches an error of {choice.wanted:g}; the best of them, with "
        f"{choice.evaluations} evaluations of the network, errs by {choice.error:.2g}: ask for a larger error, or name "
        "other candidates"
    )
