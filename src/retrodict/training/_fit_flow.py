"""Training one model on simulations, row by row."""

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
from retrodict.models import FlowModel, Record
from retrodict.simulation._failures import failures
from retrodict.training._checkpoint import Checkpoint
from retrodict.training._loop import History, Trainer, TrainingBudget, rows_loss
from retrodict.training._table import Table
from retrodict.transforms.scaling import Scaling


class RowsLoss(eqx.Module):
    """The loss of a model whose network has no weights of its own; where rows are `weighted` their last element says
    how much they count."""

    form: FlowModel
    weighted: bool = eqx.field(static=True, default=False)

    def __call__(self, weights: Any, rows: Any, key: PRNGKeyArray) -> Scalar:
        model = dataclasses.replace(self.form, net=eqx.combine(weights, self.form.net))
        if not self.weighted:
            return rows_loss(model.loss, rows, key)
        total = rows_loss(lambda row, key, u: row[-1] * model.loss(row[:-1], key, u), rows, key)
        return total / jnp.mean(rows[:, -1])


def fit_rows(
    model: FlowModel,
    sims: Mapping[str, Any],
    pace: TrainingBudget,
    *,
    key: Key,
    validation: Mapping[str, Any] | None,
    validation_fraction: float = 0.0,
    patience: int | None,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None = None,
    what: str = "training",
    correct: bool = False,
) -> tuple[FlowModel, History]:
    """`fit` of one model; arguments and errors are those of `fit`."""
    table = Table.of(model.layout, sims, failures(sims) if correct else None)
    key_split, key_validation, key_train = jr.split(as_key(key), 3)
    rng = np.random.default_rng(np.asarray(jr.key_data(key_split)))
    judged = None if validation is None else Table.of(model.layout, validation).tokens()
    train, judge, held_out = table.split(rng, 0.0 if judged is not None else validation_fraction)
    if not model.trained:
        together = (*model.embedded, *model.layout.functions, *model.layout.places)
        scaling = Scaling.fit(model.layout, train, together).with_affine(model.scaling.affine, train)
        model = dataclasses.replace(model, scaling=scaling)
    judge = table.seen(model.scaling, judge if judged is None else judged)
    source: Any = table.stream(model.scaling, held_out) if table.streamed else table.seen(model.scaling, train)
    weights, form = eqx.partition(model.net, eqx.is_inexact_array)
    loss = RowsLoss(dataclasses.replace(model, net=form, record=Record()), table.failures is not None)
    trainer = Trainer(weights, loss, source, judge, pace)
    # rows of a stream are known by those that validate, and by their number where that stays
    identity = (table.count * (not table.growing)) if table.streamed else source
    parts = (model, identity, judge, pace, patience, key_train, key_validation)
    kept = None if checkpoint is None else Checkpoint(checkpoint, what, *parts)
    watch: dict[str, Any] = {"patience": patience, "shown": progress, "what": what, "checkpoint": kept}
    weights, history = trainer.run(key_train, key_validation, **watch)
    record = Record(
        simulations=model.record.simulations + table.count,
        steps=model.record.steps + int(history.step[-1]),
        seconds=model.record.seconds + history.seconds,
        validation_loss=history.best,
    )
    return dataclasses.replace(model, net=eqx.combine(weights, model.net), record=record), history
