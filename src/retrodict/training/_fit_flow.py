"""Training of a `FlowModel` on simulations, row by row."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from retrodict._types import Key, Scalar, as_key
from retrodict.models import FlowModel, Record, ReferenceData
from retrodict.nets import AbstractNet
from retrodict.simulation._failures import weights_of_failures
from retrodict.training._learned import warn_if_not_learned
from retrodict.training._loop import History, TrainingBudget, rows_loss
from retrodict.training._run import AbstractLoss, extended, train
from retrodict.training._table import SimulationTable
from retrodict.transforms import scaling_notes
from retrodict.transforms.scaling import Scaling


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
        if not self.weighted:
            return rows_loss(model.loss, rows, key)
        total = rows_loss(lambda row, key, u: row[-1] * model.loss(row[:-1], key, u), rows, key)
        return total / jnp.mean(rows[:, -1])


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
    if not model.trained:
        together = (*model.embedded, *model.layout.functions, *model.layout.places)
        scaling = Scaling.fit(model.layout, train_rows, together)
        scaling_notes.check(scaling, train_rows)
        model = dataclasses.replace(model, scaling=scaling.with_affine(model.scaling.affine, train_rows))
    held_out_rows = validation_rows if separate is None else separate
    validation_rows = table.scaled(model.scaling, held_out_rows)
    rows: Any = table.scaled(model.scaling, train_rows) if not table.streamed else table.stream(model.scaling, held_out)
    model, history = train(
        model,
        RowsLoss.of(model, weighted=table.failures is not None),
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
    if what == "training":
        warn_if_not_learned(model, train_rows, held_out_rows)
    reference = ReferenceData.of(model.scaling, train_rows, held_out_rows, rng)
    return dataclasses.replace(model, record=extended(model.record, table.count, history, (), reference)), history
