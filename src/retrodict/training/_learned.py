"""A look at what was learned: a regression on the data, and on their moments, against the network's posterior mean.

    network       E[z | data], the denoised data at the noise end of the path: one evaluation, for any path
    regression    z on [1, data, means, log sds along the first axis of each variable], least squares with a ridge

Where data carry little, both err by the sd of the prior. If the regression, which costs nothing, errs far less on
held-out rows, the network has not learned what the data say.
"""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from retrodict._errors import listed
from retrodict.diagnostics.summary import labels_of
from retrodict.models import FlowModel
from retrodict.query import Query, unflatten
from retrodict.roles import GIVEN, LATENT
from retrodict.variables import Layout


MAX_ROWS, MAX_HELD_OUT = 4_000, 500
MAX_FEATURES = 100  # elements and moments
FEW_ROWS = 500
MIN_HELD_OUT = 50
RATIO = 3.0  # of the errors, as the first guess of a network is less precise than its draws
MAX_AMPLIFICATION = 10.0  # of errors of the prediction, in its denoised data
SIGNIFICANT_ERRORS = 4.0  # standard errors


class LearningWarning(UserWarning):
    """A warning that a trained network knows less than a regression on the data, or was shown few simulations."""


def warn_of_few_rows(layout: Layout, count: int) -> None:
    """Warns of parameters that are learned from few simulations."""
    if count < FEW_ROWS and layout.parameters:
        warnings.warn(
            f"few simulations: {listed(layout.parameters)} learned from {count} rows alone, by which posteriors can be "
            "too narrow or too wide; simulate some thousands, or see what rd.check says with others",
            LearningWarning,
            stacklevel=7,  # `fit`, by the dispatch of kinds and in single precision
        )


def warn_if_not_learned(
    model: FlowModel, trained: Float[np.ndarray, "n d"], held_out: Float[np.ndarray, "h d"]
) -> None:
    """Warns if a linear regression predicts held-out parameters far better than the model; rows in the user's units."""
    held_out = held_out[:MAX_HELD_OUT]
    ratios = _ratios(model, trained[:MAX_ROWS], held_out) if len(held_out) >= MIN_HELD_OUT else None
    if ratios is None or not np.any(ratios >= RATIO):
        return
    layout, worst = model.layout, int(np.argmax(ratios))
    labels = [label for name in layout.parameters for label in labels_of(name, layout[name].shape)]
    warnings.warn(
        f"too little was learned about '{labels[worst]}': a regression on the data is {ratios[worst]:.2g} "
        "times as precise as the model; take more steps, conditional_affine=True or, for i.i.d. trials, "
        'rd.Plate("trial", {}) (docs/trials.md)',
        LearningWarning,
        stacklevel=7,  # `fit`, by the dispatch of kinds and in single precision
    )


def _ratios(
    model: FlowModel, trained: Float[np.ndarray, "n d"], held_out: Float[np.ndarray, "h d"]
) -> Float[np.ndarray, " p"] | None:
    """Returns by how much the regression is more precise, 0 where that may be chance; None if it cannot be said."""
    layout = model.layout
    parameter = layout.is_parameter
    if not _tells_means(model):
        return None
    if layout.functions or layout.places or layout.plate or parameter.all() or not parameter.any():
        return None
    roles = np.where(parameter, LATENT, GIVEN).astype(np.int32)
    query = Query(layout, model.modeled, roles[None], np.zeros((1, layout.size), np.float32), ())
    if model.refusal(query) is not None or not model.learned_to_predict(parameter, ~parameter):
        return None
    z, z_held_out = model.scaling.of_rows(trained), model.scaling.of_rows(held_out)
    inputs, inputs_held_out = _features(model, z), _features(model, z_held_out)
    if len(z) < 4 * inputs.shape[1]:
        return None
    targets, truth = z[:, parameter], z_held_out[:, parameter]
    ridge = 1e-6 * len(z) * np.eye(inputs.shape[1])
    solution = np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ targets)
    by_regression = (truth - inputs_held_out @ solution) ** 2
    by_network = (truth - _means(model, z_held_out, roles)[:, parameter[model.kept]]) ** 2
    gain = by_network - RATIO**2 * by_regression
    certain = gain.mean(axis=0) > SIGNIFICANT_ERRORS * gain.std(axis=0) / len(gain) ** 0.5
    return np.where(certain, np.sqrt(by_network.mean(axis=0) / np.maximum(by_regression.mean(axis=0), 1e-12)), 0.0)


def _features(model: FlowModel, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n q"]:
    """Returns a constant, elements of the data spread evenly, and moments along the first axis of every variable."""
    columns = [np.ones((len(z), 1))]
    for name, values in unflatten(model.layout, np.asarray(z, np.float64), model.layout.data).items():
        flat = values.reshape(len(z), -1)
        columns.append(
            flat[:, np.unique(np.linspace(0, flat.shape[1] - 1, min(flat.shape[1], 20)).round().astype(int))]
        )
        if len(model.layout[name].shape) and values.shape[1] >= 4:
            rest = values.reshape(len(z), values.shape[1], -1)[:, :, :10]
            columns += [rest.mean(axis=1), np.log(rest.std(axis=1) + 1e-6)]
    return np.concatenate(columns, axis=1)[:, :MAX_FEATURES]


def _means(model: FlowModel, z: Float[np.ndarray, "n d"], roles: np.ndarray) -> Float[np.ndarray, "n k"]:
    """Returns the posterior means that the network tells at the noise end of its path."""
    filled = np.resize(z, (MAX_HELD_OUT, z.shape[1]))  # one compiled program for any number of rows
    return np.asarray(_denoised(model.without_training_state(), jnp.asarray(filled), jnp.asarray(roles)))[: len(z)]


@eqx.filter_jit
def _denoised(model: FlowModel, z: Array, roles: Array) -> Array:
    start = jnp.asarray(model.path.span[0], float)

    def mean(row: Array) -> Array:
        ready = model.ready(row, roles)
        return ready.scaled(model.flow_from(ready).guess(jnp.zeros(ready.z.shape), start).data)

    return jax.vmap(mean)(z)


def _tells_means(model: FlowModel) -> bool:
    """Whether the denoised data at the noise end are well determined by the prediction; of VP they are not."""
    path = model.path
    prediction = jnp.ones(())
    data = path.guess(jnp.zeros(()), prediction, jnp.asarray(path.span[0], float)).data
    return bool(jnp.abs(data) < MAX_AMPLIFICATION)
