"""Training a surrogate of one site: a regression, a network for the residual, and a correction of the regression.

The correction is the difference between regressions on simulations and on draws of the surrogate. An error of the
surrogate's mean moves every site in the same direction, and the posterior of S sites is sqrt(S) times narrower than
that of one. Even so, N simulations of one site determine the posterior of S sites no better than to about sqrt(S / N)
of its width, whatever the network.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from retrodict._types import Key, as_key
from retrodict.models import FlowModel, IntegerElements, MixtureDensity, SiteMixture, Surrogate
from retrodict.query.tokens import flatten, unflatten
from retrodict.training._fit_flow import fit_rows
from retrodict.training._fit_mixture import fit_mixture
from retrodict.training._loop import History, TrainingBudget
from retrodict.training._site_sets import scaled
from retrodict.transforms.affine import least_squares
from retrodict.transforms.scaling import Scaling, network_input_layout
from retrodict.variables import Layout


Rows: TypeAlias = Mapping[str, Any]
MIN_REGRESSION_ROWS = 200_000  # draws of the surrogate, at least, whose regression is compared with the simulations'


def fit_surrogate(
    surrogate: Surrogate | SiteMixture,
    site: FlowModel,
    rows: Rows,
    validation: Rows,
    budget: TrainingBudget,
    *,
    key: Key,
    **options: Any,
) -> tuple[Surrogate | SiteMixture, History]:
    """Trains a surrogate on rows of sites, in the coordinates of `site`, the model of one site.

    `options` are those of `fit`.
    """
    z = scaled(site, rows)
    result, history = _fit_network(surrogate, site, rows, validation, budget, key=key, **options)
    if result.is_baseline_only:  # the regression itself
        return result, history
    # A bias of a twentieth of y's standard deviation is invisible in a validation loss (.001 of it), and moves the
    # posterior of 200 sites by half of its width: draws are given the regression of the simulations.
    draws = result.sample(np.tile(z, (-(-MIN_REGRESSION_ROWS // len(z)), 1)), jr.fold_in(as_key(key), 1))
    simulated, learned = (regression(site.layout, result.inputs(values), values) for values in (z, draws))
    return result.with_correction(simulated - learned), history


@functools.singledispatch
def _fit_network(
    surrogate: Any,
    site: FlowModel,
    rows: Rows,
    validation: Rows,
    budget: TrainingBudget,
    *,
    key: Key,
    **options: Any,
) -> tuple[Any, History]:
    layout = site.layout
    train, held_out = (scaled(site, named) for named in (rows, validation))
    trend = jnp.asarray(regression(layout, surrogate.inputs(train), train), jnp.float32)
    surrogate = dataclasses.replace(surrogate, trend=trend)
    residuals, residuals_held_out = (
        unflatten(layout, z - np.asarray(surrogate.prediction(jnp.asarray(z))), layout.names) for z in (train, held_out)
    )
    options = {**options, "validation": residuals_held_out, "what": "surrogate"}
    model, history = fit_rows(surrogate.model, residuals, budget, key=key, **options)
    return dataclasses.replace(surrogate, model=model), history


@_fit_network.register(SiteMixture)
def _fit_mixture(
    surrogate: SiteMixture,
    site: FlowModel,
    rows: Rows,
    validation: Rows,
    budget: TrainingBudget,
    *,
    key: Key,
    **options: Any,
) -> tuple[SiteMixture, History]:
    layout = site.layout
    train, held_out = (flatten(layout, named, layout.names, where="the simulations") for named in (rows, validation))
    integers = IntegerElements.of(train, [np.array([i]) for i in np.flatnonzero(~layout.is_parameter)])
    surrogate = dataclasses.replace(
        surrogate,
        scaling=site.scaling,
        input_scaling=Scaling.fit(network_input_layout(layout), train[:, layout.is_parameter]),
        integers=IntegerElements(*map(jnp.asarray, integers)),
    )
    training_rows = surrogate.rows(train)
    sizes = surrogate.mixture.sizes._replace(whole=bool(integers.is_integer.any()))
    start = MixtureDensity.blank(sizes, key=as_key(key)).with_baseline(training_rows)
    mixture, history = fit_mixture(start, training_rows, surrogate.rows(held_out), budget, key=key, **options)
    return dataclasses.replace(surrogate, mixture=mixture), history


def regression(layout: Layout, inputs: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Returns least-squares coefficients `(1 + p, d)` of scaled data on [1, inputs], zero for parameters.

    All points of a function share theirs.
    """
    coefficients = np.zeros((1 + inputs.shape[1], layout.size))
    for name in layout.data:
        tokens = layout.slices[name]
        values, predictors = z[:, tokens], inputs
        if layout[name].axes:
            predictors, values = np.repeat(inputs, values.shape[1], axis=0), values.reshape(-1, 1)
            finite = np.isfinite(values[:, 0])
            predictors, values = predictors[finite], values[finite]
        coefficients[:, tokens] = least_squares(predictors, values)[0]
    return coefficients
