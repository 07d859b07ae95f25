"""Training one model on simulations, row by row."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import DataError
from retrodict._types import Key, Scalar, as_key
from retrodict.estimators import Generative, Record
from retrodict.scaling import Scaling
from retrodict.tokens import flatten
from retrodict.training._checkpoint import Checkpoint
from retrodict.training._loop import History, Pace, Trainer, rows_loss


AT_ONCE = 8192  # rows that are scaled together
LEAST = 20  # rows below which nothing can be learned or validated


class RowsLoss(eqx.Module):
    """The loss of a model whose network has no weights of its own."""

    form: Generative

    def __call__(self, weights: Any, rows: Any, key: PRNGKeyArray) -> Scalar:
        model = dataclasses.replace(self.form, net=eqx.combine(weights, self.form.net))
        return rows_loss(model.loss, rows, key)


def fit_rows(
    model: Generative,
    sims: Mapping[str, Any],
    pace: Pace,
    *,
    key: Key,
    validation_fraction: float,
    validation: Mapping[str, Any] | None,
    patience: int | None,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None = None,
    what: str = "training",
) -> tuple[Generative, History]:
    """`fit` of one model; arguments and errors are those of `fit`."""
    rows = _rows(model, sims)
    key_split, key_validation, key_train = jr.split(as_key(key), 3)
    rng = np.random.default_rng(np.asarray(jr.key_data(key_split)))
    if validation is None:
        order, held_out = rng.permutation(len(rows)), max(LEAST // 4, round(validation_fraction * len(rows)))
        train, judge = rows[order[held_out:]], rows[order[:held_out]]
    else:
        train, judge = rows, _rows(model, validation)
    if not model.trained:
        together = (*model.embedded, *model.layout.functions, *model.layout.places)
        model = dataclasses.replace(model, scaling=Scaling.fit(model.layout, train, together))
    train, judge = (scaled_rows(model.scaling, part) for part in (train, judge))
    weights, form = eqx.partition(model.net, eqx.is_inexact_array)
    trainer = Trainer(weights, RowsLoss(dataclasses.replace(model, net=form, record=Record())), train, judge, pace)
    parts = (model, train, judge, pace, patience, key_train, key_validation)
    kept = None if checkpoint is None else Checkpoint(checkpoint, what, *parts)
    watch: dict[str, Any] = {"patience": patience, "shown": progress, "what": what, "checkpoint": kept}
    weights, history = trainer.run(key_train, key_validation, **watch)
    record = Record(
        simulations=model.record.simulations + len(rows),
        steps=model.record.steps + int(history.step[-1]),
        seconds=model.record.seconds + history.seconds,
        validation_loss=history.best,
    )
    return dataclasses.replace(model, net=eqx.combine(weights, model.net), record=record), history


def scaled_rows(scaling: Scaling, rows: np.ndarray) -> np.ndarray:
    """Rows `(n, d)` of tokens in the coordinates of a model; any number of them by the same compiled code."""
    parts = []
    for start in range(0, len(rows), AT_ONCE):
        block = rows[start : start + AT_ONCE]
        padded = np.pad(block, ((0, AT_ONCE - len(block)), (0, 0)), mode="edge")
        parts.append(np.asarray(_forward(scaling, jnp.asarray(padded)))[: len(block)])
    return np.concatenate(parts)


@eqx.filter_jit
def _forward(scaling: Scaling, rows: Array) -> Array:
    return scaling.forward(rows)


def _rows(model: Generative, sims: Mapping[str, Any]) -> np.ndarray:
    if not isinstance(sims, Mapping):
        raise DataError(f"simulations are a mapping from name to array, got {type(sims).__name__}")
    rows = flatten(model.layout, sims, model.layout.names, where="the simulations")
    bad = ~np.isfinite(rows)
    for name in (*model.layout.functions, *model.layout.places):  # NaN where a row has no point
        bad[:, model.layout.slices[name]] &= ~np.isnan(rows[:, model.layout.slices[name]])
    if bad.any():
        names = sorted({model.layout.variables[i].name for i in model.layout.owner[bad.any(axis=0)]})
        raise DataError(
            f"{int(bad.any(axis=1).sum())} of {len(rows)} simulations are not finite (in {', '.join(names)}); "
            "take these rows out: `rd.simulate` does so and counts them"
        )
    if len(rows) < LEAST:
        raise DataError(f"training needs at least {LEAST} simulations, got {len(rows)}")
    return rows
