"""Questions with constraints: proposals that are guided towards them, and weights that make them right.

With p the model's density of the answer and c the product of all constraints, p c / Z is wanted. Proposals come from
the guided flow, whose density q is known, and are weighted by p c / q. However poorly guidance approximates, the
weighted draws are right. The effective sample size tells their worth: near the number of proposals where guidance did
well, near one where it failed. Where it did worse than no guidance at all, draws without guidance are proposed instead,
and weighted by c.

The strength of classifier-free guidance is corrected in the same way, with the target p(. | given)^w p(.)^(1 - w).
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict._runtime.blocks import block_size, in_blocks
from retrodict._runtime.precision import in_single_precision
from retrodict._types import Key, as_key
from retrodict.constraints import Between, Units, View
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
from retrodict.models._flow_answers import widened
from retrodict.models._flow_protocol import FlowLike
from retrodict.models._guided_rows import raw_rows, weighted_rows
from retrodict.models._model import AbstractModel
from retrodict.query import ENOUGH, Query, ResampledDraws, ResampledTokens, count, parse
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.solvers import AbstractOneStep, AbstractSolver, Midpoint, Straightened


PROPOSER = Straightened(Midpoint(steps=16))
PILOT_DRAWS = 1024  # without constraints; they tell the spread of the answer
ROWS_PER_BLOCK = 512
MAX_ROUNDS = 4  # of as many proposals as draws are asked for


class GuidanceWarning(UserWarning):
    """A warning that guidance proposed poorly, so that corrected draws are worth few independent ones."""


@dataclass(frozen=True)
class Guided:
    """Guided draws `(n, *shape)` by name, and the log weights `(n,)` that make them right."""

    draws: dict[str, np.ndarray]
    log_weights: np.ndarray

    @property
    def effective_size(self) -> float:
        """The number of independent draws the weighted ones are worth: n if guidance was exact, near 1 if it failed."""
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
        """Returns `n` draws of equal weight, some of them copies, with their `effective_size`.

        Raises:
            QueryError: no draw has a weight above zero.
        """
        rows = self._rows(n, key)
        draws = {name: values[rows] for name, values in self.draws.items()}
        return ResampledDraws(draws, min(self.effective_size, float(n)))

    def _rows(self, n: int, key: Key) -> np.ndarray:
        rng = np.random.default_rng(np.asarray(jr.key_data(as_key(key))))
        return resample(np.log(np.maximum(self.weights, 1e-300)), n, rng)


def ask_guided(model: FlowLike, query: Query, n: int, *, solver: AbstractSolver | None, key: Key) -> Guided:
    """Returns `n` guided draws with their weights; see `FlowModel.guided`.

    Raises:
        QueryError: a Batch, noise that is not Gaussian, nothing to guide, or a solver whose draws have no density.
    """
    key_pilot, key_rows = jr.split(as_key(key))
    tokens, log_weights = _Proposals(model, query, solver or PROPOSER, key_pilot).weighted(n, key_rows)
    return Guided(query.named(tokens[None]), log_weights)


def sample_guided(model: FlowLike, query: Query, n: int, *, solver: AbstractSolver | None, key: Key) -> Any:
    """Returns `n` draws of equal weight, tokens `(1, n, k)`, with what they are worth.

    Proposals are drawn until they are worth half of `n`, at most four times `n`. Draws that are worth less come with a
    warning. Without `query.correct` the draws are
    those of guidance alone, by any solver.

    Raises:
        QueryError: as `ask_guided`, or no draw satisfies the constraints.
    """
    key_pilot, key_rows, key_choice = jr.split(as_key(key), 3)
    proposals = _Proposals(model, query, solver or PROPOSER, key_pilot)
    if not query.correct:
        z = proposals.raw(n, key_rows, proposals.guide)
        return proposals.in_units(z, counted=np.zeros(n, bool))[None]
    rounds: list[tuple[np.ndarray, np.ndarray]] = []
    for i in range(MAX_ROUNDS):
        rounds.append(proposals.weighted(n, jr.fold_in(key_rows, i)))
        tokens, log_weights = (np.concatenate(parts) for parts in zip(*rounds, strict=True))
        if effective_size(log_weights) >= ENOUGH * n:
            break
    rows = Guided({}, log_weights)._rows(n, key_choice)
    worth = min(effective_size(log_weights), n)
    if worth < ENOUGH * n:
        warnings.warn(
            f"guidance did poorly: {n} draws, resampled from {len(log_weights)} proposals, are worth {worth:.0f} "
            "independent ones (`draws.effective_size`), others are copies; take more draws, more solver steps, or "
            "fewer constraints at once",
            GuidanceWarning,
            stacklevel=5,
        )
    return ResampledTokens(tokens[rows][None], np.array([worth]))


@in_single_precision
def repaint(
    model: AbstractModel,
    n: int,
    *,
    given: Mapping[str, Any],
    of: Iterable[str] | Mapping[str, Any] | None = None,
    repeats: int = 4,
    solver: AbstractOneStep | None = None,
    key: Key,
) -> dict[str, np.ndarray]:
    """Draws from a model of everything together, the given elements held by RePaint with `repeats` inner steps.

    For a model that was trained to be asked nothing (`rd.unconditional`); uncorrected, see `guidance.Renoised`. A model
    of `rd.joint` is better asked by `sample`.

    Raises:
        QueryError: as `FlowModel.sample`, a Batch, noise that is not Gaussian, or a model that is no flow.
    """
    flow = model.as_flow("repaint")
    query = parse(flow.layout, given, of, embedded=flow._pieces)
    if query.batched or query.guided:
        raise QueryError("repaint is about one observation without intervals; ask a Batch one by one")
    flow = flow.seen_at(query.layout)
    if flow.baseline is not None:
        raise QueryError("repaint holds single elements, which an affine baseline mixes; ask this model by `sample`")
    given_tokens = (query.roles == GIVEN) & np.isin(np.arange(flow.layout.size), np.arange(flow.layout.size)[flow.kept])
    roles = np.where(given_tokens, LATENT, query.roles)
    if reason := flow.net.refusal(roles):
        raise QueryError(reason)
    z = flow.scaling.forward(query.values)[0]
    renoised = Renoised(
        solver=solver or Midpoint(steps=24),
        repeats=repeats,
        known=jnp.asarray(given_tokens[0, flow.kept]),
        values=z[flow.kept],
    )
    if reason := Straightened(renoised).refusal(flow.path):
        raise QueryError(reason)
    core, root = flow.without_training_state(), as_key(key)

    def block(index: np.ndarray, k: int) -> Any:
        size, seed = len(index), jr.fold_in(root, k * len(index))
        return raw_rows(core, Straightened(renoised), None, None, None, z, jnp.asarray(roles[0]), size, seed)

    draws = flow.scaling.only(flow.modeled).inverse(in_blocks(block, count(n), block_size(n, ROWS_PER_BLOCK)))
    exact = np.where(given_tokens, query.values, np.nan)[0, flow.kept]
    present = (query.roles != ABSENT)[0, flow.kept]
    return query.named(np.where(present, np.where(np.isnan(exact), np.asarray(draws), exact), np.nan)[None])


@eqx.filter_jit
def _in_the_flow(model: FlowLike, z: Array, roles: Array, rows: Array) -> Array:
    """Returns rows of scaled tokens in the coordinates of the flow."""
    return jax.vmap(model.ready(z, roles).unscaled)(rows)


class _Proposals:
    """Proposals for one query with constraints, in tokens."""

    def __init__(self, model: FlowLike, query: Query, solver: AbstractSolver, key: PRNGKeyArray) -> None:
        if reason := solver.refusal(model.path):
            raise QueryError(reason)
        self.model, self.query = model, query
        candidates = (*([Between(query.intervals)] if query.intervals else []), *query.constraints)
        constraints = [c for c in candidates if any(mask.any() for mask in c.masks(model.modeled).values())]
        self.solver = chosen(model, query.roles, query.values, solver)  # by the flow that guidance bends
        roles = widened(model, query.roles)[0]
        if query.strength != 1.0:
            widened(model, np.where(query.roles == GIVEN, ABSENT, query.roles))
        self.z, self.roles = model.scaling.forward(query.values)[0], jnp.asarray(roles)
        self.directions = jnp.eye(model.modeled.size)[roles[model.kept] == LATENT]
        self.strength = None if query.strength == 1.0 else jnp.asarray(query.strength, float)
        core = model.without_training_state()
        pilot = raw_rows(core, PROPOSER, None, None, None, self.z, self.roles, PILOT_DRAWS, key)
        in_flow = pilot if model.baseline is None else _in_the_flow(core, self.z, self.roles, pilot)
        centered = in_flow - jnp.mean(in_flow, axis=0)
        self.spread = Spread.of(centered.T @ centered / PILOT_DRAWS)
        view = View(self.units, pilot)
        # guides that are exact for Gaussians respond first, intervals last
        guides = sorted((c.guide(view) for c in constraints), key=lambda guide: isinstance(guide, Within))
        self.guide = Product(tuple(guides)) if len(guides) > 1 else guides[0] if guides else None
        self.unguided, self.unguided_share = False, 0.0
        if self.guide is not None and self.strength is None:
            self.unguided_share = effective_size(np.asarray(self._log_factors(pilot))) / PILOT_DRAWS

    @property
    def units(self) -> Units:
        columns = self.model.kept
        return Units(self.model.scaling.only(self.model.modeled), self.z[columns], self.roles[columns] == LATENT)

    def weighted(self, n: int, key: PRNGKeyArray) -> tuple[np.ndarray, np.ndarray]:
        """Returns `n` draws `(n, k)` in the user's units, and the log weights that make them right."""
        if reason := refusal(self.solver):
            raise QueryError(reason)
        if not self.unguided:
            core = self.model.without_training_state()
            question = (self.guide, self.spread, self.strength, self.z, self.roles, self.directions)
            size = block_size(n, ROWS_PER_BLOCK)

            def block(index: np.ndarray, k: int) -> Any:
                return weighted_rows(core, self.solver, *question, len(index), jr.fold_in(key, k))

            tokens, log_weights = self._checked(*in_blocks(block, n, size))
            self.unguided = effective_size(log_weights) < self.unguided_share * n
        if self.unguided:
            z = self.raw(n, jr.fold_in(key, n), None)
            tokens, log_weights = self._checked(z, np.asarray(self._log_factors(z)))
        return tokens, log_weights

    def _checked(self, z: np.ndarray, log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_weights = np.where(np.isnan(log_weights), -np.inf, log_weights)  # a row that a solver lost
        return self.in_units(z, counted=np.isfinite(log_weights)), log_weights

    def _log_factors(self, z: ArrayLike) -> Array:
        """Returns the log of all constraints' factors for rows of tokens."""
        rows = jnp.asarray(z)
        return jnp.zeros(len(rows)) if self.guide is None else jax.vmap(self.guide.log_factor)(rows)

    def raw(self, n: int, key: PRNGKeyArray, guide: AbstractGuide | None) -> np.ndarray:
        """Returns `n` rows of tokens in the model's coordinates, as `guide` proposes them."""
        core, question = self.model.without_training_state(), (guide, self.spread, self.strength, self.z, self.roles)

        def block(index: np.ndarray, k: int) -> Any:
            return raw_rows(core, self.solver, *question, len(index), jr.fold_in(key, k))

        return in_blocks(block, n, block_size(n, ROWS_PER_BLOCK))

    def in_units(self, z: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """Returns rows of tokens in the user's units; rows that count do not leave an interval by rounding."""
        modeled, columns = self.model.modeled, self.model.kept
        roles = self.query.roles[0, columns]
        x = np.asarray(self.units.scaling.inverse(z))
        x = np.where(roles == GIVEN, self.query.values[0, columns], np.where(roles == LATENT, x, np.nan))
        for name, interval in self.query.intervals.items():
            if name in modeled.names:
                block, (low, high) = modeled.slices[name], interval.ends(modeled[name].shape, name)
                clipped = np.clip(x[:, block], low.ravel(), high.ravel())
                x[:, block] = np.where(counted[:, None], clipped, x[:, block])
        return x
