"""Misspecification: could the simulator have made this observation, and if not, which datum does not fit?

Alone, as one datum among others, x_i is compared with the model's prediction from all the others,

    residual_i = | x_i - E[x_i | other x] | / sd[x_i | other x]        by draws, in the model's coordinates

and all together by nearest-neighbor distances to simulated data, once of the data and once of their residuals:

    neighbors    distance to the fifth nearest simulation, whitened
    datum        the largest residual
    together     the mean square of residuals

The p-value of each is its rank among the same of held-out simulations: right at any sample size, whether or not the
model predicts well. The three are combined by Bonferroni.

Source: Vovk, Gammerman and Shafer 2005 (p-values by rank); Gelfand, Dey and Chang 1992 (predicting
each datum from the others).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float, Int

from retrodict._errors import DataError, QueryError
from retrodict._runtime.precision import in_single_precision
from retrodict._runtime.tables import html_table
from retrodict._types import Key, as_key
from retrodict.diagnostics.summary import labels_of
from retrodict.evaluation._check_rows import held_out_tokens, reference_data
from retrodict.models import AbstractModel, ReferenceData, model_for
from retrodict.query import Batch, parse, unflatten
from retrodict.roles import GIVEN
from retrodict.variables import Layout


TESTS = 3  # of data that are predicted from one another
MAX_DATA = 64  # data that are left out one by one; of more, as many spread evenly
MAX_SIMULATIONS = 2_000  # to compare with: all their distances are a matrix of 32 MB


@dataclasses.dataclass(frozen=True)
class Unlike:
    """The outcome of a comparison of an observation with simulations.

    `surprise` and `datum_p` hold, by element, the distance from the model's prediction in its standard deviations and
    its p-value, most surprising first; empty where the model was not trained to predict data from data. `p_values`
    are those of all data together, `p_value` the one that counts.
    """

    surprise: dict[str, float]
    datum_p: dict[str, float]
    p_values: dict[str, float]
    p_value: float
    level: float

    @property
    def ok(self) -> bool:
        """Whether the simulator could have made the observation, at a rate `level` of false alarms."""
        return self.p_value > self.level

    @property
    def worst(self) -> str | None:
        """The datum that fits worst."""
        return next(iter(self.surprise), None)

    def summary(self) -> str:
        """Returns the outcome in one line."""
        if self.ok:
            return f"the observation is like the simulations (p = {self.p_value:.2g})"
        verdict = f"the observation is unlike the simulations (p = {self.p_value:.2g})"
        if self.worst is None:
            return verdict
        return f"{verdict}; '{self.worst}' fits worst, {self.surprise[self.worst]:.1f} sd from what the other data say"

    tell = summary  # the name of earlier versions

    def __repr__(self) -> str:
        return f"Unlike({self.summary()})"

    def _repr_html_(self) -> str:
        rows = [("outcome", self.summary()), *((name, f"p = {p:.2g}") for name, p in self.p_values.items())]
        return html_table("Unlike", rows)


@in_single_precision
def unlike(
    model: AbstractModel,
    observation: Mapping[str, Any],
    sims: Mapping[str, Any] | None = None,
    *,
    references: int = 99,
    draws: int = 32,
    level: float = 0.05,
    key: Key,
) -> Unlike:
    """Tests an observation `{name: shape}` for misspecification (out-of-distribution data), and names the worst datum.

    The question is whether the simulator could have made the observation.

    NaN means not observed, and is then left out of the simulations, too. `sims` are held-out simulations
    `{name: (n, *shape)}`, of which the first 2,000 are looked at; a model keeps some of its own after `fit` or a check.
    `references` of them have each datum predicted from the others, by `draws` draws, as the observation has: a model
    that was trained on the posterior alone, or on embedded data, cannot do that, and is judged by neighbors only.

    Raises:
        DataError: an observation of a wrong name, shape or type, with nothing observed, or simulations that
            are too few for `level`.
        QueryError: the observation names a parameter, or the model has functions.

    Source: Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World.
    """
    if isinstance(observation, Batch):
        raise DataError("unlike takes one observation; for a Batch of them there is unlike_each")
    return _outcomes(model, observation, sims, references, draws, level, key)[0]


@in_single_precision
def unlike_each(
    model: AbstractModel,
    observations: Batch,
    sims: Mapping[str, Any] | None = None,
    *,
    references: int = 99,
    draws: int = 32,
    level: float = 0.05,
    key: Key,
) -> list[Unlike]:
    """Tests each of a Batch of observations by `unlike`, at little more than the cost of one, each at `level`.

    Raises:
        DataError: besides, where the same elements are not missing everywhere.
    """
    return _outcomes(model, Batch(observations), sims, references, draws, level, key)


def _outcomes(
    model: AbstractModel,
    observation: Mapping[str, Any],
    sims: Mapping[str, Any] | None,
    references: int,
    draws: int,
    level: float,
    key: Key,
) -> list[Unlike]:
    model_for("unlike", model)
    if model.of_sites or model.layout.functions:
        reason = "of many sites: ask `model.site` about one of them" if model.of_sites else "with functions"
        raise QueryError(f"unlike is not offered for models {reason}")
    for name in observation:
        if name in model.layout.parameters:
            raise QueryError(f"'{name}' is a parameter: an observation is made of data")
    reference = _references(model, sims)
    names = [name for name in model.modeled.names if name not in observation] or None
    query = parse(model.layout, observation, names, embedded=model._pieces)
    if (query.roles != query.roles[0]).any():
        raise DataError("the same elements must be observed in all observations: ask about the others apart")
    z = np.asarray(model.coordinates.forward(np.where(query.roles == GIVEN, query.values, np.nan)))
    if not np.isfinite(z[0, list(reference.tokens)]).any():
        raise DataError("nothing of the observation was observed, or nothing that the simulations kept")
    data, residuals = _data_to_predict(model, reference, np.isfinite(z[0])), None
    predicted = data.size > 1 and _predicts_data(model)
    rows, tests = (min(references, len(reference.data)), TESTS) if predicted else (len(reference.data), 1)
    if rows < (fewest := math.ceil(tests / level) - 1):
        raise DataError(
            f"{rows} simulations cannot fail anything at a level of {level:g}; compare with {fewest} or more"
        )
    if predicted:
        tokens = _with_references(reference, z, references)
        residuals = _residuals(model.without_warnings(), tokens, data, draws, as_key(key))
    labels, outcomes = np.array(_labels(model.layout))[data], []
    for i, row in enumerate(z):
        alone = reference.p_value(row) or 1.0
        compared = None
        if residuals is not None:
            compared = np.concatenate([residuals[: -len(z)], residuals[len(residuals) - len(z) + i, None]])
        outcomes.append(_outcome(alone, compared, labels, level))
    return outcomes


def _references(model: AbstractModel, sims: Mapping[str, Any] | None) -> ReferenceData:
    if sims is None:
        reference = None if model.reference is None else model.reference.unseen
    else:
        reference = reference_data(model, held_out_tokens(model, sims)[:MAX_SIMULATIONS])
    if reference is None:
        raise DataError("hand in held-out simulations as `sims`: this model has none (rd.fit and rd.check keep some)")
    return reference


def _outcome(alone: float, residuals: Float[np.ndarray, "m k"] | None, labels: np.ndarray, level: float) -> Unlike:
    """Returns the outcome for the residuals of references and, in the last row, of an observation."""
    if residuals is None:
        return Unlike({}, {}, {"neighbors": alone}, alone, level)
    together = _rank((residuals**2).mean(axis=1))
    p_values = {"neighbors": alone, "datum": _rank(residuals.max(axis=1)), "together": together}
    order = np.argsort(-residuals[-1])
    surprise = {str(labels[i]): float(residuals[-1, i]) for i in order}
    datum_p = {str(labels[i]): _rank(residuals[:, i]) for i in order}
    return Unlike(surprise, datum_p, p_values, min(1.0, len(p_values) * min(p_values.values())), level)


def _rank(values: Float[np.ndarray, " n"]) -> float:
    """Returns the p-value of the last value among all, including itself."""
    return float((values >= values[-1]).mean())


def _data_to_predict(
    model: AbstractModel, reference: ReferenceData, observed: Bool[np.ndarray, " d"]
) -> Int[np.ndarray, " k"]:
    """Returns observed data that can be asked and that simulations were kept of."""
    askable = np.zeros(model.layout.size, bool)
    askable[list(reference.tokens)] = True
    for name in model.embedded:
        askable[model.layout.slices[name]] = False
    data = np.flatnonzero(askable & observed)
    return data[np.unique(np.linspace(0, len(data) - 1, min(len(data), MAX_DATA)).round().astype(int))]


def _predicts_data(model: AbstractModel) -> bool:
    """Whether training ever asked for a datum given another."""
    data = ~model.layout.is_parameter
    return model.has_draws and model.learned_to_predict(data, data)


def _with_references(reference: ReferenceData, z: Float[np.ndarray, "B d"], n: int) -> Float[np.ndarray, "m d"]:
    """Returns rows of scaled tokens: `n` simulations and the observations; NaN where these were not observed."""
    data = reference.data[:n]
    rows = np.full((len(data), z.shape[1]), np.nan, np.float32)
    rows[:, list(reference.tokens)] = data
    return np.where(np.isfinite(z[0]), np.concatenate([rows, z]), np.nan)


def _residuals(
    model: AbstractModel, rows: Float[np.ndarray, "m d"], data: Int[np.ndarray, " k"], draws: int, key: Any
) -> Float[np.ndarray, "m k"]:
    """Returns the distance of every datum of every row from its prediction from the others, in sds."""
    layout = model.layout
    units = np.asarray(model.coordinates.inverse(np.nan_to_num(rows)))
    units = np.where(np.isfinite(rows), units, np.nan)
    names = sorted({layout.variables[layout.owner[i]].name for i in np.flatnonzero(np.isfinite(rows[-1]))})
    columns = []
    for i in data:
        remaining, mask = units.copy(), np.zeros(layout.size, bool)
        remaining[:, i], mask[i] = np.nan, True
        name = layout.variables[layout.owner[i]].name
        predictions = model.sample(
            draws,
            given=Batch(unflatten(layout, remaining, names)),
            of={name: unflatten(layout, mask, [name])[name]},
            key=jr.fold_in(key, int(i)),
        )[name].reshape(len(rows), draws, -1)[..., i - layout.slices[name].start]
        tokens = np.zeros((len(rows), draws, layout.size))
        tokens[..., i] = predictions
        z = np.asarray(model.coordinates.forward(tokens))[..., i]
        columns.append(np.abs(rows[:, i] - z.mean(axis=1)) / np.maximum(z.std(axis=1, ddof=1), 1e-6))
    return np.stack(columns, axis=1)


def _labels(layout: Layout) -> list[str]:
    return [label for v in layout.variables for label in labels_of(v.name, v.shape)]
