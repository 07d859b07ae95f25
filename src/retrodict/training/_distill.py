"""Distillation: a small network that draws with one or two evaluations, trained on the draws of a model.

    model      x1(x0): the end of the path of the noise x0 by a fine solver, for the given values
    sampler    a network of its own, trained until k Euler steps end there:  mean (Euler_k(x0) - x1)^2

(Luhman and Luhman 2021, arXiv 2101.02388, who take one step.) Nothing is simulated: given values come from simulations,
and pairs of noise and end are drawn from the model, once. A strict classifier compares the draws of both at the end; a
sampler whose draws it recognizes with an accuracy above `bar` does not pass. Densities are distilled by themselves, as
a mixture density of the same ends.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import DataError, QueryError
from retrodict._runtime.precision import in_single_precision
from retrodict._types import Key, Scalar, as_key
from retrodict.diagnostics import c2st
from retrodict.evaluation import given_in_rows, held_out_tokens
from retrodict.models import (
    ConditionalRows,
    DistilledDensity,
    DistilledSampler,
    Family,
    FlowModel,
    MixtureDensity,
    Proof,
    Record,
    Sizes,
    model_for,
)
from retrodict.models._auto_solver import followed
from retrodict.models._flow_answers import default_sampler, widened
from retrodict.models._flow_rows import ends_of, scaled_rows
from retrodict.nets import AbstractArchitecture, ResMLP
from retrodict.query import Batch, unflatten
from retrodict.roles import GIVEN, LATENT
from retrodict.solvers import AbstractSolver
from retrodict.training import History, TrainingBudget, fit_mixture
from retrodict.training._fit_flow import AbstractFlowLoss
from retrodict.training._run import train


TRAINING_PAIRS = 2**18  # of noise and end
VALIDATION_PAIRS = 4096
BAR = 0.52  # mean accuracy of the classifier; .5 is chance


class DistillationWarning(UserWarning):
    """A distilled sampler whose draws a classifier can tell from those of its model."""


class DistillationLoss(AbstractFlowLoss):
    """The mean squared distance between the ends of a sampler's steps and those of the model."""

    form: FlowModel
    solver: AbstractSolver

    def __call__(self, weights: Any, rows: Any, key: PRNGKeyArray) -> Scalar:
        del key
        model = self.combined(self.form, weights)

        def row_loss(z: Array, roles: Array, noise: Array, end: Array) -> Scalar:
            ready = model.ready(z, roles)
            latent = ready.roles == LATENT
            reached = self.solver(model.flow_from(ready), jnp.where(latent, noise, 0.0), *model.path.span)
            return jnp.sum(jnp.where(latent, (reached - end) ** 2, 0.0)) / jnp.sum(latent)

        return jnp.mean(jax.vmap(row_loss)(*rows))


@in_single_precision
def distill(
    model: FlowModel,
    sims: Mapping[str, Any],
    *,
    given: Iterable[str] | Mapping[str, Any],
    of: Iterable[str] | None = None,
    net: AbstractArchitecture | None = None,
    evaluations: int = 1,
    steps: int = 10_000,
    batch_size: int = 512,
    learning_rate: float = 2e-3,
    solver: AbstractSolver | None = None,
    observations: int = 10,
    draws: int = 5_000,
    bar: float = BAR,
    key: Key,
    progress: bool = True,
) -> tuple[DistilledSampler, History]:
    """Distills a trained model into a fast sampler for one family of queries; returns it with its history.

    Args:
        sims: simulations `{name: (n, *shape)}` with the given values, at least 50, of which a tenth validates.
        given: the names of the given variables, or a mapping from name to booleans `shape`, true for given elements.
        of: the names of the variables to draw; by default all that `given` does not name.
        net: the network of the sampler, by default a residual MLP of a quarter of the usual work.
        evaluations: evaluations of the network for every draw.
        solver: the solver of the model, without noise of its own.
        observations: the number of held-out observations at which the classifier compares draws.
        draws: the draws of each side at an observation.
        bar: the mean accuracy of the classifier above which the sampler does not pass.

    Raises:
        DataError: simulations of the wrong names or shapes, or too few.
        QueryError: a query that this model cannot answer, or a solver that cannot follow its path.

    Warns:
        DistillationWarning: the sampler did not pass; its `proof` has the accuracies.
    """
    if evaluations < 1:
        raise QueryError(f"a distilled sampler needs at least one evaluation, got {evaluations}")
    keys = jr.split(as_key(key), 7)
    task = _DistillationTask.of(model, sims, given, of, solver, observations)
    start = dataclasses.replace(model.with_net(net or ResMLP(128, 3), key=keys[0]), record=Record())
    sampler = DistilledSampler(start, task.family, evaluations, Proof((), bar), Record(familiar=model.reference))
    loss = DistillationLoss(DistillationLoss.form_of(start.without_training_state()), sampler.solver)
    rows, validation = (task.pairs(*arguments) for arguments in task.parts(keys[1:3]))
    budget, run_keys = TrainingBudget(steps, batch_size, learning_rate), (keys[3], keys[4])
    trained, history = train(
        start, loss, rows, validation, budget, keys=run_keys, patience=steps, progress=progress, label="distillation"
    )
    sampler = dataclasses.replace(sampler, model=trained)
    accuracies = _accuracies(task, sampler, observations, draws, keys[5:])
    sampler = dataclasses.replace(sampler, proof=Proof(accuracies, bar))
    _warn_unless_passed(sampler.proof)
    return sampler, history


@in_single_precision
def distill_density(
    model: FlowModel,
    sims: Mapping[str, Any],
    *,
    given: Iterable[str] | Mapping[str, Any],
    of: Iterable[str] | None = None,
    components: int = 8,
    width: int = 128,
    depth: int = 3,
    steps: int = 10_000,
    solver: AbstractSolver | None = None,
    observations: int = 200,
    key: Key,
    progress: bool = True,
) -> tuple[DistilledDensity, History]:
    """Distills the densities of one family of queries, for uses that need millions (MCMC, evidence).

    A `MixtureDensity` learns draws of the model by maximum likelihood. It is compared with the exact density of the
    model at one draw for each of some held-out observations: `kl` and `spread` of the result, in nats.

    Args:
        components: Gaussians for each number, given the numbers before it.
        width: the width of the network.
        depth: the depth of the network, in blocks.
        observations: the number of held-out observations at which densities are compared.

    Other arguments and errors are those of `distill`.
    """
    keys = jr.split(as_key(key), 6)
    task = _DistillationTask.of(model, sims, given, of, solver, observations)
    latent, observed = task.family.where(LATENT), task.family.where(GIVEN)

    def mixture_rows(pairs: Any) -> ConditionalRows:
        z, roles, _, ends = pairs
        y = scaled_rows(model.without_training_state(), z, roles, jnp.asarray(ends))[:, latent[model.kept]]
        return ConditionalRows(z[:, observed], jnp.zeros(len(z), jnp.int32), y, y, y)

    rows, validation = (mixture_rows(task.pairs(*arguments)) for arguments in task.parts(keys[:2]))
    sizes = Sizes(1, int(observed.sum()), int(latent.sum()), components=components, width=width, depth=depth)
    start = MixtureDensity.blank(sizes, key=keys[2]).with_baseline(rows)
    mixture, history = fit_mixture(
        start, rows, validation, TrainingBudget(steps), key=keys[3], patience=steps, progress=progress
    )
    record = Record(familiar=model.reference)
    density = DistilledDensity(task.family, 0.0, 0.0, model.scaling, mixture, record)
    batch = task.observed(task.tokens[:observations])
    latent_masks, flow = task.family.elements(LATENT), task.model.without_warnings()
    sample = flow.sample(1, given=batch, of=latent_masks, solver=task.solver, key=keys[4])
    values = {name: draws[:, 0] for name, draws in sample.items()}
    gaps = flow.log_prob(values, given=batch) - density.log_prob(values, given=batch)
    return dataclasses.replace(density, kl=float(gaps.mean()), spread=float(gaps.std())), history


def _warn_unless_passed(proof: Proof) -> None:
    if not proof.ok:
        warnings.warn(
            f"the distilled sampler did not pass: a classifier tells its draws from the model's with an accuracy of "
            f"{proof.mean:.3f}, the bar is {proof.bar}; allow more steps, a larger network or another evaluation",
            DistillationWarning,
            stacklevel=3,
        )


class _DistillationTask(NamedTuple):
    """A family of queries to a model, and simulations for it, the first `held_out` of which validate."""

    model: FlowModel
    family: Family
    solver: AbstractSolver
    tokens: np.ndarray
    held_out: int

    @classmethod
    def of(
        cls,
        model: FlowModel,
        sims: Mapping[str, Any],
        given: Iterable[str] | Mapping[str, Any],
        of: Iterable[str] | None,
        solver: AbstractSolver | None,
        observations: int,
    ) -> "_DistillationTask":
        """Returns the task, or raises the errors of `distill`."""
        model = model_for("distill", model).as_flow("distill")
        if model.layout.functions or model.embedded:
            raise QueryError("only models without functions or embeddings can be distilled")
        solver = solver or default_sampler(model)
        if reason := solver.refusal(model.path):
            raise QueryError(reason)
        tokens = held_out_tokens(model, sims)
        held_out = max(observations, len(tokens) // 10)
        if held_out > len(tokens) // 2:
            raise DataError(f"{observations} observations for validation need {2 * observations} simulations or more")
        observed = given_in_rows(model.layout, given, unflatten(model.layout, tokens[:1], model.layout.names))
        names = tuple(of) if of is not None else tuple(name for name in model.modeled.names if name not in observed)
        question = model.parse(observed, names).roles
        roles = widened(model, question)[0]
        if (roles != question).any():
            raise QueryError("this model was trained for one question; leave `of` out, to distill all of it")
        solver = followed(solver, model.path)
        return cls(model, Family(model.layout, tuple(roles.tolist())), solver, tokens, held_out)

    def parts(self, keys: Array) -> tuple[tuple[np.ndarray, int, PRNGKeyArray], ...]:
        """Returns the arguments of `pairs` for training and for validation."""
        train_tokens, validation_tokens = self.tokens[self.held_out :], self.tokens[: self.held_out]
        return (train_tokens, TRAINING_PAIRS, keys[0]), (validation_tokens, VALIDATION_PAIRS, keys[1])

    def pairs(self, tokens: np.ndarray, n: int, key: PRNGKeyArray) -> tuple[Array, ...]:
        """Returns `n` scaled rows, their roles, noise, and the end of its path by the model."""
        core, scaled = self.model.without_warnings().without_training_state(), self.model.scaling.of_rows(tokens)
        z = jnp.asarray(scaled[np.asarray(jr.randint(key, (n,), 0, len(scaled)))])
        roles = jnp.broadcast_to(jnp.asarray(self.family.roles), z.shape)
        return (z, roles, *ends_of(core, self.solver, z, roles, jr.fold_in(key, 1)))

    def observed(self, tokens: np.ndarray) -> Batch:
        """Returns the given values of rows."""
        values = np.where(self.family.where(GIVEN), tokens, np.nan)
        return Batch(unflatten(self.family.layout, values, list(self.family.elements(GIVEN))))


def _accuracies(
    task: _DistillationTask, sampler: DistilledSampler, observations: int, draws: int, keys: Array
) -> tuple[float, ...]:
    """Returns C2ST between draws of the model and of the sampler, for every observation."""
    batch, masks = task.observed(task.tokens[:observations]), task.family.elements(LATENT)
    model_draws = task.model.without_warnings().sample(draws, given=batch, of=masks, solver=task.solver, key=keys[0])
    sampler_draws = sampler.without_warnings().sample(draws, given=batch, key=keys[1])

    def latent(values: Mapping[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
        return {name: values[name][i].reshape(draws, -1)[:, np.ravel(mask)] for name, mask in masks.items()}

    return tuple(float(c2st(latent(model_draws, i), latent(sampler_draws, i))) for i in range(observations))
