"""Likeness: could the simulator have made this observation, and if not, which datum does not fit?

Alone, as one datum among others, x_i is judged by the model's own prediction from all the others,

    surprise_i = | x_i - E[x_i | other x] | / sd[x_i | other x]        by draws, in the model's coordinates

and all together by how lonely they are among simulated data, once as they are and once as surprises:

    neighbors    distance to the fifth nearest simulation, whitened
    datum        the largest surprise
    together     the mean square of surprises

The p-value of each is its rank among the same of held-out simulations: right at any sample size, whether or not the
model predicts well. The three are read together by Bonferroni.

Source: Vovk, Gammerman and Shafer 2005 (p-values by rank); Gelfand, Dey and Chang 1992 (predicting
each datum from the others).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float, Int

from retrodict._errors import DataError, QueryError
from retrodict._types import Key, as_key
from retrodict.diagnostics.summary import labels_of
from retrodict.evaluation import reference_data, silent, tokens_of
from retrodict.models import FlowModel, ReferenceData
from retrodict.models._importance import ImportanceSampledPosterior
from retrodict.query.tokens import Batch, ask, unflatten
from retrodict.roles import GIVEN, LATENT


TESTS = 3  # of data that are predicted from one another
MOST = 64  # data that are left out one by one; of more, as many spread evenly
LARGEST = 2_000  # simulations to compare with: all their distances are a matrix of 32 MB
ASSIGNMENTS = 64  # of roles, to see whether a model was trained to predict data from data


@dataclasses.dataclass(frozen=True)
class Unlike:
    """How an observation compares with simulations.

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

    def tell(self) -> str:
        """The outcome in one line."""
        if self.ok:
            return f"the observation is like the simulations (p = {self.p_value:.2g})"
        found = f"the observation is unlike the simulations (p = {self.p_value:.2g})"
        if self.worst is None:
            return found
        return f"{found}; '{self.worst}' fits worst, {self.surprise[self.worst]:.1f} sd from what the other data say"

    def __repr__(self) -> str:
        return f"Unlike({self.tell()})"


def unlike(
    model: FlowModel | ImportanceSampledPosterior,
    observation: Mapping[str, Any],
    sims: Mapping[str, Any] | None = None,
    *,
    references: int = 99,
    draws: int = 32,
    level: float = 0.05,
    key: Key,
) -> Unlike:
    """Tests whether an observation `{name: shape}` is like simulated ones, and names the datum that is not.

    NaN means not observed, and is then left out of the simulations, too. `sims` are held-out simulations
    `{name: (n, *shape)}`, of which the first 2,000 are looked at; a model that was checked carries some of its own.
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
    return _judged(model, observation, sims, references, draws, level, key)[0]


def unlike_each(
    model: FlowModel | ImportanceSampledPosterior,
    observations: Batch,
    sims: Mapping[str, Any] | None = None,
    *,
    references: int = 99,
    draws: int = 32,
    level: float = 0.05,
    key: Key,
) -> list[Unlike]:
    """`unlike` for each of a Batch of observations, at little more than the cost of one; `level` is that of each.

    Raises:
        DataError: besides, where the same elements are not missing everywhere.
    """
    return _judged(model, Batch(observations), sims, references, draws, level, key)


def _judged(
    model: FlowModel | ImportanceSampledPosterior,
    observation: Mapping[str, Any],
    sims: Mapping[str, Any] | None,
    references: int,
    draws: int,
    level: float,
    key: Key,
) -> list[Unlike]:
    if not isinstance(model, FlowModel | ImportanceSampledPosterior):
        raise QueryError(f"unlike takes a model of `rd.joint` and its relatives, not a {type(model).__name__}")
    if model.layout.functions:
        raise QueryError("unlike is not offered for models with functions")
    for name in observation:
        if name in model.layout.parameters:
            raise QueryError(f"'{name}' is a parameter: an observation is made of data")
    familiar = model.calibration.familiar if sims is None else reference_data(model, tokens_of(model, sims)[:LARGEST])
    if familiar is None:
        raise DataError("hand in held-out simulations as `sims`: this model carries none (rd.check gives it some)")
    row = ask(model.layout, observation, [name for name in model.modeled.names if name not in observation])
    if (row.roles != row.roles[0]).any():
        raise DataError("the same elements must be observed in all observations: ask about the others apart")
    z = np.asarray(model.scaling.forward(np.where(row.roles == GIVEN, row.values, np.nan)))
    if not np.isfinite(z[0, list(familiar.tokens)]).any():
        raise DataError("nothing of the observation was observed, or nothing that the simulations kept")
    looked_at, found = _looked_at(model, familiar, np.isfinite(z[0])), None
    by_data = looked_at.size > 1 and _predicts_data(model)
    have, tests = (min(references, len(familiar.data)), TESTS) if by_data else (len(familiar.data), 1)
    if have < (fewest := math.ceil(tests / level) - 1):
        raise DataError(
            f"{have} simulations cannot fail anything at a level of {level:g}; compare with {fewest} or more"
        )
    if by_data:
        found = _surprises(silent(model), _among(familiar, z, references), looked_at, draws, as_key(key))
    labels, outcomes = np.array(_labels(model))[looked_at], []
    for i, one in enumerate(z):
        alone = familiar.p_value(one) or 1.0
        own = None if found is None else np.concatenate([found[: -len(z)], found[len(found) - len(z) + i, None]])
        outcomes.append(_outcome(alone, own, labels, level))
    return outcomes


def _outcome(alone: float, found: Float[np.ndarray, "m k"] | None, labels: np.ndarray, level: float) -> Unlike:
    """What the surprises of references and, in the last row, of an observation say."""
    if found is None:
        return Unlike({}, {}, {"neighbors": alone}, alone, level)
    p_values = {"neighbors": alone, "datum": _rank(found.max(axis=1)), "together": _rank((found**2).mean(axis=1))}
    order = np.argsort(-found[-1])
    surprise = {str(labels[i]): float(found[-1, i]) for i in order}
    datum_p = {str(labels[i]): _rank(found[:, i]) for i in order}
    return Unlike(surprise, datum_p, p_values, min(1.0, len(p_values) * min(p_values.values())), level)


def _rank(values: Float[np.ndarray, " n"]) -> float:
    """The p-value of the last value among all, of which it is one."""
    return float((values >= values[-1]).mean())


def _looked_at(
    model: FlowModel | ImportanceSampledPosterior, familiar: ReferenceData, seen: Bool[np.ndarray, " d"]
) -> Int[np.ndarray, " k"]:
    """Observed data that can be asked and that simulations were kept of."""
    can = np.zeros(model.layout.size, bool)
    can[list(familiar.tokens)] = True
    for name in model.embedded:
        can[model.layout.slices[name]] = False
    found = np.flatnonzero(can & seen)
    return found[np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST)).round().astype(int))]


def roles_of(model: FlowModel | ImportanceSampledPosterior) -> Int[np.ndarray, "m d"]:
    """Some of the roles that a model was trained under."""
    keys = jr.split(jr.key(0), ASSIGNMENTS)
    return np.asarray(jax.vmap(lambda key: model.law.draw(key, model.layout))(keys))


def _predicts_data(model: FlowModel | ImportanceSampledPosterior) -> bool:
    """Whether training ever asked for one datum given another."""
    roles = roles_of(model)[:, ~model.layout.is_parameter]
    return bool(np.any((roles == LATENT).any(axis=1) & (roles == GIVEN).any(axis=1)))


def _among(familiar: ReferenceData, z: Float[np.ndarray, "B d"], n: int) -> Float[np.ndarray, "m d"]:
    """Rows of scaled tokens: `n` simulations, and then the observations; NaN where these were not observed."""
    data = familiar.data[:n]
    rows = np.full((len(data), z.shape[1]), np.nan, np.float32)
    rows[:, list(familiar.tokens)] = data
    return np.where(np.isfinite(z[0]), np.concatenate([rows, z]), np.nan)


def _surprises(
    model: FlowModel | ImportanceSampledPosterior,
    rows: Float[np.ndarray, "m d"],
    looked_at: Int[np.ndarray, " k"],
    draws: int,
    key: Any,
) -> Float[np.ndarray, "m k"]:
    """How far every datum of every row lies from its prediction from the others."""
    units = np.asarray(model.scaling.inverse(np.nan_to_num(rows)))
    units = np.where(np.isfinite(rows), units, np.nan)
    names = sorted({model.layout.variables[model.layout.owner[i]].name for i in np.flatnonzero(np.isfinite(rows[-1]))})
    columns = []
    for i in looked_at:
        others, mask = units.copy(), np.zeros(model.layout.size, bool)
        others[:, i], mask[i] = np.nan, True
        name = model.layout.variables[model.layout.owner[i]].name
        found = model.sample(
            draws,
            given=Batch(unflatten(model.layout, others, names)),
            of={name: unflatten(model.layout, mask, [name])[name]},
            key=jr.fold_in(key, int(i)),
        )[name].reshape(len(rows), draws, -1)[..., i - model.layout.slices[name].start]
        whole = np.zeros((len(rows), draws, model.layout.size), np.float32)
        whole[..., i] = found
        there = np.asarray(model.scaling.forward(whole))[..., i]
        columns.append(np.abs(rows[:, i] - there.mean(axis=1)) / np.maximum(there.std(axis=1, ddof=1), 1e-6))
    return np.stack(columns, axis=1)


def _labels(model: FlowModel | ImportanceSampledPosterior) -> list[str]:
    return [label for v in model.layout.variables for label in labels_of(v.name, v.shape)]
