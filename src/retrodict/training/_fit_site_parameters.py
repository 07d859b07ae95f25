"""Training the model of what one site has for itself, given all else: center, width, and a flow of what they leave."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._types import Key, Scalar, as_key
from retrodict.models import FlowModel, Record, SiteParameterModel
from retrodict.training._checkpoint import Checkpoint
from retrodict.training._loop import History, Trainer, TrainingBudget, rows_loss
from retrodict.training._site_sets import scaled


RIDGE = 1e-6  # of a Gram matrix of standardized columns


def placed_loss(
    flow: FlowModel, value: Array, center: Array, width: Array, seen: Array, key: PRNGKeyArray, u: Scalar
) -> Scalar:
    """Log density of the Gaussian (center, width), and the loss of a flow of what is left, given `seen`.

    The flow learns in coordinates that it does not move: what it gets wrong says nothing about center and width.
    """
    outright = jnp.mean(0.5 * ((value - center) / width) ** 2 + jnp.log(width))
    center, width = jax.lax.stop_gradient((center, width))
    return outright + flow.loss(jnp.concatenate([(value - center) / width, seen]), key, u)


class SiteParameterLoss(eqx.Module):
    """The loss of a batch of scaled rows of one site."""

    form: SiteParameterModel

    def __call__(self, weights: Any, rows: Any, key: PRNGKeyArray) -> Scalar:
        narrow = _with(self.form, weights)

        def one(z: Array, key: PRNGKeyArray, u: Scalar) -> Scalar:
            known = z[~narrow.asked]
            return placed_loss(narrow.flow, z[narrow.asked], *narrow.place(known), known, key, u)

        return rows_loss(one, rows, key)


def fit_narrow(
    narrow: SiteParameterModel,
    site: FlowModel,
    rows: Mapping[str, Any],
    judged: Mapping[str, Any],
    pace: TrainingBudget,
    *,
    key: Key,
    patience: int | None,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None,
) -> tuple[SiteParameterModel, History]:
    """A trained model in the coordinates of the model of one site, from rows of sites."""
    train, judge = (scaled(site, part) for part in (rows, judged))
    own = narrow.asked
    design = np.concatenate([np.ones((len(train), 1)), train[:, ~own]], axis=1).astype(np.float64)
    gram = design.T @ design / len(design) + RIDGE * np.eye(design.shape[1])
    line = np.linalg.solve(gram, design.T @ train[:, own] / len(design))
    left = np.log(np.std(train[:, own] - design @ line, axis=0) + 1e-6)
    narrow = dataclasses.replace(narrow, line=jnp.asarray(line, jnp.float32), usual=jnp.asarray(left, jnp.float32))
    weights, form = eqx.partition((narrow.net, narrow.flow.net), eqx.is_inexact_array)
    flow = dataclasses.replace(narrow.flow, net=form[1], record=Record())
    loss = SiteParameterLoss(dataclasses.replace(narrow, net=form[0], flow=flow))
    key_train, key_validation = jr.split(as_key(key))
    parts = (narrow, train, judge, pace, patience, key_train, key_validation)
    kept = None if checkpoint is None else Checkpoint(checkpoint, "own", *parts)
    trainer = Trainer(weights, loss, train, judge, pace)
    weights, history = trainer.run(
        key_train, key_validation, patience=patience, shown=progress, what="own parameters", checkpoint=kept
    )
    return _with(narrow, weights), history


def _with(narrow: SiteParameterModel, weights: Any) -> SiteParameterModel:
    """The model with other numbers in its networks."""
    net, flow = eqx.combine(weights, (narrow.net, narrow.flow.net))
    return dataclasses.replace(narrow, net=net, flow=dataclasses.replace(narrow.flow, net=flow))
