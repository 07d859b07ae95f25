"""Questions with constraints: proposals that are guided towards them, and weights that make them right.

With p the model's density of what is asked given what is given, and c the product of all constraints, p c / Z is
wanted. Proposals come from the guided flow, whose density q is known; they are weighted by p c / q. However poorly
guidance approximates, the weighted draws are right, and the effective size tells what they are worth: near the number
of proposals where guidance did well, near one where it failed. Where it did worse than no guidance at all (a narrow
answer whose density is hard to find, under constraints that one draw in ten satisfies by itself), draws without
guidance are proposed instead, and weighted by c.

The strength of classifier-free guidance is corrected in the same way, with the target p(. | given)^w p(.)^(1 - w).
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, PRNGKeyArray

from retrodict._errors import QueryError, unknown
from retrodict._types import Key, as_key
from retrodict.constraints import AbstractConstraint, Between, Interval, Units, View
from retrodict.guidance import (
    AbstractGuide,
    Product,
    Renoised,
    Spread,
    Within,
    effective_size,
    refusal,
    resample,
)
from retrodict.models._auto_solver import chosen
from retrodict.models._flow_answers import completed, questioned
from retrodict.models._guided_rows import raw_rows, weighted_rows
from retrodict.query.tokens import Batch, Question, as_numbers, unflatten
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.solvers import AbstractOneStep, AbstractSolver, Midpoint, Straightened


PROPOSER = Straightened(Midpoint(steps=16))
PILOT = 1024  # draws without constraints, that tell how wide their answer is
BLOCK = 512  # rows per dispatch
MOST = 4  # proposals per draw that `guided_draws` may spend
WORTH, POOR = 0.5, 0.1  # effective draws per draw at which it is content, and per proposal below which it warns


class GuidanceWarning(UserWarning):
    """Guidance proposed so poorly that corrected draws are worth few independent ones."""


@dataclass(frozen=True)
class Guided:
    """Guided draws `(n, *shape)` by name, and the log weights `(n,)` that make them right."""

    draws: dict[str, np.ndarray]
    log_weights: np.ndarray

    @property
    def effective_size(self) -> float:
        """How many independent draws the weighted ones are worth: n if guidance was exact, near 1 if it failed."""
        return effective_size(self.log_weights)

    @property
    def weights(self) -> np.ndarray:
        """Weights that add up to 1.

        Raises:
            QueryError: no draw has a weight above zero.
        """
        top = np.max(self.log_weights)
        if not np.isfinite(top):
            raise QueryError(
                f"none of {len(self.log_weights)} guided draws satisfies the constraints; check that they can hold "
                "together with what is given, or take more draws or solver steps"
            )
        weights = np.exp(np.asarray(self.log_weights, np.float64) - top)
        return weights / weights.sum()

    @property
    def log_evidence(self) -> float:
        """The log of the mean of the constraints' factor under the model: for intervals, their log probability."""
        return float(np.logaddexp.reduce(np.asarray(self.log_weights, np.float64)) - np.log(len(self.log_weights)))

    def resampled(self, n: int, key: Key) -> dict[str, np.ndarray]:
        """`n` draws of equal weight; some of them are copies.

        Raises:
            QueryError: no draw has a weight above zero.
        """
        rng = np.random.default_rng(np.asarray(jr.key_data(as_key(key))))
        rows = resample(np.log(np.maximum(self.weights, 1e-300)), n, rng)
        return {name: values[rows] for name, values in self.draws.items()}


def ask_guided(
    model: Any,
    n: int,
    *,
    given: Mapping[str, Any] | None = None,
    guide: Sequence[AbstractConstraint] = (),
    of: Iterable[str] | Mapping[str, Any] | None = None,
    strength: float = 1.0,
    solver: AbstractSolver | None = None,
    key: Key,
) -> Guided:
    """`n` guided draws of the variables `of` with their weights; see `FlowModel.guided`.

    Raises:
        QueryError: a name that the model does not have, a Batch, noise that is not Gaussian, nothing to guide, or a
            solver whose draws have no density.
        DataError: a value of the wrong shape or type.
    """
    key_pilot, key_rows = jr.split(as_key(key))
    return _Asked(model, given, guide, of, strength, solver or PROPOSER, key_pilot).weighted(n, key_rows)


def sample_guided(
    model: Any,
    n: int,
    *,
    given: Mapping[str, Any] | None = None,
    guide: Sequence[AbstractConstraint] = (),
    of: Iterable[str] | Mapping[str, Any] | None = None,
    strength: float = 1.0,
    solver: AbstractSolver | None = None,
    correct: bool = True,
    key: Key,
) -> dict[str, np.ndarray]:
    """`n` draws of the variables `of`, of equal weight; see `FlowModel.sample`.

    Proposals are drawn until they are worth half of `n`, at most four times `n`. With `correct=False` the draws are
    what guidance alone gives, by any solver.

    Raises:
        QueryError: as `ask_guided`, or no draw satisfies the constraints.
    """
    key_pilot, key_rows, key_choice = jr.split(as_key(key), 3)
    asked = _Asked(model, given, guide, of, strength, solver or PROPOSER, key_pilot)
    if not correct:
        return asked.named(asked.raw(n, key_rows, asked.guide), kept=np.zeros(n, bool))
    parts: list[Guided] = []
    for i in range(MOST):
        parts.append(asked.weighted(n, jr.fold_in(key_rows, i)))
        whole = Guided(
            {name: np.concatenate([part.draws[name] for part in parts]) for name in parts[0].draws},
            np.concatenate([part.log_weights for part in parts]),
        )
        if whole.effective_size >= WORTH * n:
            break
    drawn = whole.resampled(n, key_choice)
    if whole.effective_size < POOR * len(whole.log_weights):
        warnings.warn(
            f"guidance did poorly: {len(whole.log_weights)} proposals are worth {whole.effective_size:.0f} independent "
            "draws; take more draws, more solver steps, or fewer constraints at once",
            GuidanceWarning,
            stacklevel=3,
        )
    return drawn


def repaint(
    model: Any,
    n: int,
    *,
    given: Mapping[str, Any],
    of: Iterable[str] | Mapping[str, Any] | None = None,
    repeats: int = 4,
    solver: AbstractOneStep | None = None,
    key: Key,
) -> dict[str, np.ndarray]:
    """Draws from the model of everything together, the given elements held by RePaint with `repeats` inner steps.

    For a model that was trained to be asked nothing; uncorrected, see `guidance.Renoised`.

    Raises:
        QueryError: as `FlowModel.sample`, a Batch, or noise that is not Gaussian.
    """
    if isinstance(given, Batch):
        raise QueryError(ONE)
    question = questioned(model, given, of)
    held = (question.roles == GIVEN) & np.isin(np.arange(model.layout.size), np.arange(model.layout.size)[model.kept])
    roles = np.where(held, LATENT, question.roles)
    if reason := model.net.refusal(roles):
        raise QueryError(reason)
    z = model.scaling.forward(question.values)[0]
    known = jnp.asarray(held[0, model.kept])
    way = Straightened(
        Renoised(solver=solver or Midpoint(steps=24), repeats=repeats, known=known, values=z[model.kept])
    )
    if reason := way.refusal(model.path):
        raise QueryError(reason)
    core, parts = model.core(), []
    for start in range(0, n, BLOCK):
        size = min(BLOCK, 1 << (n - 1).bit_length())
        parts.append(
            raw_rows(core, way, None, None, None, z, jnp.asarray(roles[0]), size, jr.fold_in(as_key(key), start))
        )
    drawn = model.scaling.only(model.modeled).inverse(np.concatenate(parts)[:n])
    exact = np.where(held, question.values, np.nan)[0, model.kept]
    asked = (question.roles != ABSENT)[0, model.kept]
    found = np.where(asked, np.where(np.isnan(exact), np.asarray(drawn), exact), np.nan)
    return unflatten(model.modeled, found, question.of)


def is_guided(given: Mapping[str, Any] | None, guide: Sequence[AbstractConstraint], strength: float) -> bool:
    """Whether a question needs guidance at all."""
    return bool(guide) or strength != 1.0 or (isinstance(given, Mapping) and bool(_intervals(given)))


ONE = "a question with constraints is about one observation; ask a Batch one by one"


class _Asked:
    """One question with its constraints, in tokens."""

    def __init__(
        self,
        model: Any,
        given: Mapping[str, Any] | None,
        guide: Sequence[AbstractConstraint],
        of: Iterable[str] | Mapping[str, Any] | None,
        strength: float,
        solver: AbstractSolver,
        key: PRNGKeyArray,
    ) -> None:
        if isinstance(given, Batch):
            raise QueryError(ONE)
        if reason := solver.refusal(model.path):
            raise QueryError(reason)
        if model.scaling.affine is not None:
            raise QueryError(
                "constraints speak of elements one by one, and this model was made with framed=True, which mixes them; "
                "ask one without it, or of `rd.joint`"
            )
        self.model, self.intervals = model, _intervals(given)
        between = [Between(self.intervals)] if self.intervals else []
        constraints = [c for c in (*between, *guide) if any(mask.any() for mask in c.masks(model.modeled).values())]
        self.question, self.of = _question(model, given, constraints, of)
        self.solver = chosen(model, self.question, solver)  # by the flow that guidance bends
        roles = completed(model, self.question.roles)[0]
        if strength != 1.0:
            completed(model, np.where(self.question.roles == GIVEN, ABSENT, self.question.roles))
        self.z, self.roles = model.scaling.forward(self.question.values)[0], jnp.asarray(roles)
        self.directions = jnp.eye(model.modeled.size)[roles[model.kept] == LATENT]
        self.strength = None if strength == 1.0 else jnp.asarray(strength, float)
        pilot = raw_rows(model.core(), PROPOSER, None, None, None, self.z, self.roles, PILOT, key)
        centered = pilot - jnp.mean(pilot, axis=0)
        self.spread = Spread.of(centered.T @ centered / PILOT)
        view = View(self.units, pilot)
        # what is exact for Gaussians responds first, intervals last
        guides = sorted((c.guide(view) for c in constraints), key=lambda guide: isinstance(guide, Within))
        self.guide = Product(tuple(guides)) if len(guides) > 1 else guides[0] if guides else None
        self.unguided, self.worth = False, 0.0
        if self.guide is not None and self.strength is None:
            self.worth = effective_size(np.asarray(self._factors(pilot))) / PILOT

    @property
    def units(self) -> Units:
        kept = self.model.kept
        return Units(self.model.scaling.only(self.model.modeled), self.z[kept], self.roles[kept] == LATENT)

    def weighted(self, n: int, key: PRNGKeyArray) -> Guided:
        """`n` draws and the log weights that make them right."""
        if reason := refusal(self.solver):
            raise QueryError(reason)
        if not self.unguided:
            question = (self.guide, self.spread, self.strength, self.z, self.roles, self.directions)
            blocks = [weighted_rows(self.model.core(), self.solver, *question, *block) for block in _blocks(n, key)]
            found = self._weighted(*(np.concatenate(part)[:n] for part in zip(*blocks, strict=True)))
            self.unguided = found.effective_size < self.worth * n
        if self.unguided:
            z = self.raw(n, jr.fold_in(key, n), None)
            found = self._weighted(z, np.asarray(self._factors(z)))
        return found

    def _weighted(self, z: np.ndarray, log_weights: np.ndarray) -> Guided:
        log_weights = np.where(np.isnan(log_weights), -np.inf, log_weights)  # a row that a solver lost
        return Guided(self.named(z, kept=np.isfinite(log_weights)), log_weights)

    def _factors(self, z: ArrayLike) -> Array:
        """The log of all constraints' factors for rows of tokens."""
        rows = jnp.asarray(z)
        return jnp.zeros(len(rows)) if self.guide is None else jax.vmap(self.guide.log_factor)(rows)

    def raw(self, n: int, key: PRNGKeyArray, guide: AbstractGuide | None) -> np.ndarray:
        """`n` rows of tokens in the model's coordinates, as `guide` proposes them."""
        question = (guide, self.spread, self.strength, self.z, self.roles)
        blocks = [raw_rows(self.model.core(), self.solver, *question, *block) for block in _blocks(n, key)]
        return np.concatenate(blocks)[:n]

    def named(self, z: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of tokens by name, in the user's units; those that count do not leave an interval by rounding."""
        modeled, roles = self.model.modeled, self.question.roles[0, self.model.kept]
        x = np.asarray(self.units.scaling.inverse(z))
        x = np.where(roles == GIVEN, self.question.values[0, self.model.kept], np.where(roles == LATENT, x, np.nan))
        found = unflatten(modeled, x, self.of)
        for name in set(self.intervals) & set(found):
            low, high = self.intervals[name].ends(modeled[name].shape, name)
            here = kept.reshape(-1, *(1 for _ in low.shape))
            found[name] = np.where(here, np.clip(found[name], low, high), found[name])
        return found


def _blocks(n: int, key: PRNGKeyArray) -> list[tuple[int, PRNGKeyArray]]:
    """The size and the key of every dispatch for `n` rows or a few more."""
    size = min(BLOCK, 1 << (n - 1).bit_length())
    return [(size, jr.fold_in(key, i)) for i in range(-(-n // size))]


def _intervals(given: Mapping[str, Any] | None) -> dict[str, Interval]:
    return {name: value for name, value in (given or {}).items() if isinstance(value, Interval)}


def _question(
    model: Any,
    given: Mapping[str, Any] | None,
    constraints: Sequence[AbstractConstraint],
    of: Iterable[str] | Mapping[str, Any] | None,
) -> tuple[Question, list[str]]:
    """The question with every constrained element latent that is not given, and the variables to return."""
    intervals, modeled = _intervals(given), model.modeled
    plain = {name: value for name, value in (given or {}).items() if name not in intervals}
    plain |= Between(intervals).given(modeled)
    seen = {name: ~np.isnan(as_numbers(value, f"'{name}' in `given`")) for name, value in plain.items()}
    names = [of] if isinstance(of, str) else of
    names = [name for name in modeled.names if name not in (given or {})] if names is None else list(names)
    asked: dict[str, np.ndarray] = {}
    for name in names:
        if name not in model.layout.names:
            raise QueryError(unknown("`of`", name, model.layout.names))
        # an element that is both asked and given is a contradiction only where the user named elements
        named = of[name] if isinstance(of, Mapping) else None
        asked[name] = _left(np.ones(model.layout[name].shape, bool), name, seen) if named is None else named
    for constraint in constraints:
        masks = {name: _left(mask, name, seen) for name, mask in constraint.masks(modeled).items()}
        if not any(mask.any() for mask in masks.values()):
            raise QueryError(
                f"nothing is left for {type(constraint).__name__} to guide: all that it speaks of is given; "
                "leave something out of `given`"
            )
        for name, mask in masks.items():
            asked[name] = np.asarray(asked.get(name, False)) | mask
    return questioned(model, plain, asked), names or list(intervals)


def _left(mask: np.ndarray, name: str, seen: Mapping[str, np.ndarray]) -> np.ndarray:
    """What of a mask is not given; given values of a wrong shape are reported later."""
    return mask & ~seen[name] if name in seen and seen[name].shape == mask.shape else mask
