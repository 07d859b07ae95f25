"""Training the density of a site's own parameters: a baseline, then center and width with a flow of the residual."""

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
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
from retrodict.transforms.affine import least_squares


RIDGE_PER_ROW = 1e-6  # inputs are standardized
MIN_WIDTH = 1e-6  # of the baseline, in units of the prior's


def location_scale_loss(
    flow: FlowModel, value: Array, center: Array, width: Array, given: Array, key: PRNGKeyArray, u: Scalar
) -> Scalar:
    """Returns the negative log density of the Gaussian (center, width) plus a flow's loss of the residual.

    The flow reads `given` and has no gradient in center and width: its errors carry no information about them.
    """
    gaussian = jnp.mean(0.5 * ((value - center) / width) ** 2 + jnp.log(width))
    center, width = jax.lax.stop_gradient((center, width))
    return gaussian + flow.loss(jnp.concatenate([(value - center) / width, given]), key, u)


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
        model = self.combined(self.form, weights)

        def loss(z: Array, key: PRNGKeyArray, u: Scalar) -> Scalar:
            parameters, inputs = z[model.latent], z[~model.latent]
            return location_scale_loss(model.flow, parameters, *model.center_and_width(inputs), inputs, key, u)

        return rows_loss(loss, rows, key)


def fit_site_parameters(
    model: SiteParameterModel,
    site: FlowModel,
    rows: Mapping[str, Any],
    validation: Mapping[str, Any],
    budget: TrainingBudget,
    *,
    key: Key,
    patience: int | None,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None,
) -> tuple[SiteParameterModel, History]:
    """Trains a model on rows of sites, in the coordinates of `site`, the model of one site."""
    train_rows, validation_rows = (scaled(site, named) for named in (rows, validation))
    inputs, parameters = train_rows[:, ~model.latent], train_rows[:, model.latent]
    coefficients, residual = least_squares(inputs, parameters, ridge=RIDGE_PER_ROW * len(train_rows))
    log_width, single = np.log(residual.std(axis=0) + MIN_WIDTH), partial(jnp.asarray, dtype=jnp.float32)
    model = dataclasses.replace(model, coefficients=single(coefficients), log_width=single(log_width))
    key_train, key_validation = jr.split(as_key(key))
    return train(
        model,
        SiteParameterLoss.of(model),
        train_rows,
        validation_rows,
        budget,
        keys=(key_train, key_validation),
        patience=patience,
        progress=progress,
        label="own parameters",
        checkpoint=checkpoint,
        name="own",
    )
