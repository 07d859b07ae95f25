"""Training of a `FlowModel` on simulations, row by row."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._types import Key, Scalar, as_key
from retrodict.models import FlowModel, Record, ReferenceData
from retrodict.models._manifest import blank_baseline
from retrodict.nets import AbstractNet
from retrodict.roles import LATENT, VARIES
from retrodict.simulation._failures import weights_of_failures
from retrodict.training._learned import warn_if_not_learned, warn_of_few_rows
from retrodict.training._loop import History, Trainer, TrainingBudget, rows_loss
from retrodict.training._run import AbstractLoss, extended, train
from retrodict.training._table import SimulationTable
from retrodict.transforms import scaling_notes
from retrodict.transforms.joint_affine import chosen
from retrodict.transforms.scaling import Scaling


NEGLIGIBLE_GAIN = 5e-4  # of the validation loss: a network that learns no more from normal residuals only adds noise
ROWS_PER_QUESTION = 8  # of a batch: their baseline is computed once
MAX_LATENT = 64  # every question has a matrix of so many rows and columns, in models of all questions a QR as well
MAX_ELEMENTS = 1024


class AbstractFlowLoss(AbstractLoss[FlowModel]):
    """A loss of the network of a flow."""

    @staticmethod
    def parts(model: FlowModel) -> AbstractNet:
        return model.net

    @staticmethod
    def with_parts(model: FlowModel, parts: AbstractNet) -> FlowModel:
        return dataclasses.replace(model, net=parts)


class RowsLoss(AbstractFlowLoss):
    """The flow loss of a batch of scaled rows; with `weighted` the last element of a row is its weight."""

    form: FlowModel
    weighted: bool = eqx.field(static=True, default=False)

    @classmethod
    def of(cls, model: FlowModel, *, weighted: bool) -> "RowsLoss":
        return cls(dataclasses.replace(cls.form_of(model), record=Record()), weighted)

    def __call__(self, weights: Any, rows: Any, key: PRNGKeyArray) -> Scalar:
        model = self.combined(self.form, weights)
        means = rows_loss if model.baseline is None else grouped_loss
        if not self.weighted:
            return means(model.loss, rows, key)
        total = means(lambda row, *rest: row[-1] * model.loss(row[:-1], *rest), rows, key)
        return total / jnp.mean(rows[:, -1])


def grouped_loss(loss: Callable[..., Scalar], rows: Array, key: PRNGKeyArray) -> Scalar:
    """Returns the mean of `loss(row, key, u, key_roles)` over rows; groups of rows share roles and so their baseline.

    The times of a group are spread over (0, 1) as those of all rows are.
    """
    shared = math.gcd(len(rows), ROWS_PER_QUESTION)
    groups, (key_roles, key_rows) = len(rows) // shared, jr.split(key)

    key_time, key_noise = jr.split(key_rows)
    u = (jnp.arange(len(rows)) + jr.uniform(key_time, (len(rows),))) / len(rows)
    inputs = (rows, jr.split(key_noise, len(rows)), u)
    grouped = (array.reshape(shared, groups, *array.shape[1:]) for array in inputs)
    losses = jax.vmap(jax.vmap(loss, (0, 0, 0, None)), (1, 1, 1, 0))
    return jnp.mean(losses(*grouped, jr.split(key_roles, groups)))


def fit_rows(
    model: FlowModel,
    sims: Mapping[str, Any],
    budget: TrainingBudget,
    *,
    key: Key,
    validation: Mapping[str, Any] | None,
    validation_fraction: float = 0.0,
    patience: int | None,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None = None,
    what: str = "training",
    reweight: bool = False,
) -> tuple[FlowModel, History]:
    """Trains one flow; arguments and errors are those of `fit`."""
    table = SimulationTable.of(model.layout, sims, weights_of_failures(sims) if reweight else None)
    key_split, key_validation, key_train = jr.split(as_key(key), 3)
    rng = np.random.default_rng(np.asarray(jr.key_data(key_split)))
    separate = None if validation is None else SimulationTable.of(model.layout, validation).tokens()
    train_rows, validation_rows, held_out = table.split(rng, 0.0 if separate is not None else validation_fraction)
    held_out_rows, normal = validation_rows if separate is None else separate, False
    if not model.trained:
        model, normal = _with_coordinates(model, train_rows, held_out_rows)
    validation_rows = table.scaled(model.scaling, held_out_rows)
    rows: Any = table.scaled(model.scaling, train_rows) if not table.streamed else table.stream(model.scaling, held_out)
    start, loss = model, RowsLoss.of(model, weighted=table.failures is not None)
    model, history = train(
        start,
        loss,
        rows,
        validation_rows,
        budget,
        keys=(key_train, key_validation),
        patience=patience,
        progress=progress,
        label=what,
        checkpoint=checkpoint,
        # a stream is identified by its validation rows, and by its length where that stays
        identity=table.count * (not table.growing) if table.streamed else None,
    )
    if start.baseline is not None and not start.trained:
        least_gain = NEGLIGIBLE_GAIN if normal else 0.0
        untrained = Trainer(loss.weights_of(start), loss, rows, validation_rows, budget)
        if untrained.validate(untrained.initial, key_validation) <= (1.0 + least_gain) * history.best:
            model = start
    if what == "training":
        warn_of_few_rows(model.layout, len(train_rows))
        warn_if_not_learned(model, train_rows, held_out_rows)
    reference = ReferenceData.of(model.scaling, train_rows, held_out_rows, rng)
    return dataclasses.replace(model, record=extended(model.record, table.count, history, (), reference)), history


def _with_coordinates(model: FlowModel, train_rows: np.ndarray, held_out: np.ndarray) -> tuple[FlowModel, bool]:
    """Returns an untrained model with its scaling and its baseline, and whether the rows look normal."""
    together = (*model.embedded, *model.layout.functions, *model.layout.places)
    scaling = Scaling.fit(model.layout, train_rows, together)
    scaling_notes.check(scaling, train_rows)
    scaling = scaling.with_affine(model.scaling.affine, train_rows)
    return with_baseline(dataclasses.replace(model, scaling=scaling), train_rows, held_out)


def with_baseline(model: FlowModel, train_rows: np.ndarray, held_out: np.ndarray) -> tuple[FlowModel, bool]:
    """Returns a model with its affine baseline fitted, or chosen, by rows in the user's units.

    The second is whether the rows look normal, which is asked where it is chosen.
    """
    wanted, scale = model.baseline is not None, model.scaling.of_rows
    if not wanted and not model.chooses_baseline:
        return model, False
    robust, (low, high) = model.scaling.robust, model.layout.ends
    straight = np.isfinite(low) & np.isfinite(high) & ~np.asarray(robust.heavy)
    low, high = (
        np.where(straight, robust.forward(np.full(len(low), unit)), open_)
        for unit, open_ in ((0.0, -np.inf), (1.0, np.inf))
    )
    blank, fixed = blank_baseline(model.layout, model.law).between(low, high), model.law.fixed(model.layout)
    latent = (fixed == LATENT) | (fixed == VARIES)
    baseline, normal = None, False
    if wanted:
        baseline = blank.fit(scale(train_rows))
    elif latent.sum() <= MAX_LATENT and len(latent) <= MAX_ELEMENTS:
        baseline, normal = chosen(blank, scale(train_rows), scale(held_out), latent)
    return dataclasses.replace(model, baseline=baseline, chooses_baseline=False), normal
