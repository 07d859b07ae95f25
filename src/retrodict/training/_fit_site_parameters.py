"""Training the model of what one site has for itself, given all else: center, width, and a flow of what they leave."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._types import Key, Scalar, as_key
from retrodict.models import FlowModel, Record, SiteParameterModel
from retrodict.training._loop import History, TrainingBudget, rows_loss
from retrodict.training._run import AbstractLoss, train
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


class SiteParameterLoss(AbstractLoss[SiteParameterModel]):
    """The loss of a batch of scaled rows of one site."""

    form: SiteParameterModel

    @classmethod
    def of(cls, model: SiteParameterModel) -> "SiteParameterLoss":
        form = cls.form_of(model)
        return cls(dataclasses.replace(form, flow=dataclasses.replace(form.flow, record=Record())))

    @staticmethod
    def parts(model: SiteParameterModel) -> Any:
        return model.net, model.flow.net

    @staticmethod
    def with_parts(model: SiteParameterModel, parts: Any) -> SiteParameterModel:
        net, flow = parts
        return dataclasses.replace(model, net=net, flow=dataclasses.replace(model.flow, net=flow))

    def __call__(self, weights: Any, rows: Any, key: PRNGKeyArray) -> Scalar:
        narrow = self.combined(self.form, weights)

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
    train_rows, validation_rows = (scaled(site, part) for part in (rows, judged))
    own = narrow.asked
    design = np.concatenate([np.ones((len(train_rows), 1)), train_rows[:, ~own]], axis=1).astype(np.float64)
    gram = design.T @ design / len(design) + RIDGE * np.eye(design.shape[1])
    line = np.linalg.solve(gram, design.T @ train_rows[:, own] / len(design))
    left = np.log(np.std(train_rows[:, own] - design @ line, axis=0) + 1e-6)
    narrow = dataclasses.replace(narrow, line=jnp.asarray(line, jnp.float32), usual=jnp.asarray(left, jnp.float32))
    key_train, key_validation = jr.split(as_key(key))
    return train(
        narrow,
        SiteParameterLoss.of(narrow),
        train_rows,
        validation_rows,
        pace,
        keys=(key_train, key_validation),
        patience=patience,
        progress=progress,
        label="own parameters",
        checkpoint=checkpoint,
        name="own",
    )
