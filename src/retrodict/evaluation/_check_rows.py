"""Questions about rows of simulations, each a row of tokens."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from retrodict._errors import DataError, QueryError
from retrodict.diagnostics._pairs import generator
from retrodict.evaluation._settings import (
    NOTHING,
    Asked,
    CheckSettings,
    Given,
    Rows,
    elements_of,
    enough,
    masks_of,
    silent,
)
from retrodict.models import FlowModel, ReferenceData
from retrodict.models._importance import ImportanceSampledPosterior
from retrodict.query.family import shares_of
from retrodict.query.tokens import Batch, ask, flatten, unflatten
from retrodict.roles import LATENT
from retrodict.variables import places_of


KEPT, WIDEST = 500, 256  # rows and elements of simulated data that a model carries: half a megabyte at most
MOST_DENSITIES = 64  # latent elements: the exact density of more takes minutes


def of_rows(
    model: FlowModel | ImportanceSampledPosterior, sims: Mapping[str, Any], inquiry: CheckSettings, keys: Array
) -> Asked:
    """Asks about some simulations, all at once.

    Raises:
        DataError, QueryError: as `check`.
    """
    rows, familiar = _chosen(model, sims, inquiry.observations, keys[0])
    known = known_of(model, inquiry.given, rows)
    if not known:
        raise QueryError(NOTHING)
    free = (name for name in model.modeled.names if name not in known)
    asked = tuple(free if inquiry.of is None else inquiry.of)
    _whole(model, asked, rows)
    roles = ask(model.layout, known, asked).roles
    found = silent(model).sample(inquiry.draws, given=known, of=asked, solver=inquiry.solver, key=keys[1])
    latent = unflatten(model.layout, roles[0] == LATENT, asked)
    few = min(inquiry.densities, inquiry.draws) if int((roles[0] == LATENT).sum()) <= MOST_DENSITIES else 0
    logs = _log_densities(model, rows, found, known, latent, few) if few else None
    truth, drawn = elements_of(rows, latent, axes=1), elements_of(found, latent, axes=2)
    return Asked(truth, drawn, logs, shares_of(model.layout, roles), familiar)


def _chosen(
    model: FlowModel | ImportanceSampledPosterior, sims: Mapping[str, Any], n: int, key: Any
) -> tuple[Rows, ReferenceData | None]:
    """`n` simulations to ask about, and what data look like."""
    tokens = tokens_of(model, sims)
    order = generator(key).permutation(len(tokens))
    chosen = tokens[order[:n]]
    return unflatten(model.layout, chosen, model.layout.names), reference_data(model, tokens[order[-KEPT:]])


def tokens_of(model: FlowModel | ImportanceSampledPosterior, sims: Mapping[str, Any]) -> Float[np.ndarray, "n d"]:
    """Held-out simulations as rows of tokens."""
    if not isinstance(sims, Mapping):
        raise DataError(f"simulations are a mapping from name to array, got {type(sims).__name__}")
    tokens = flatten(model.layout, sims, model.layout.names, where="the simulations")
    exact = model.layout.tokens_of([v.name for v in model.layout.variables if not v.axes and v.kind != "place"])
    enough(len(tokens), int((~np.isfinite(tokens[:, exact])).any(axis=1).sum()))
    return tokens


def reference_data(
    model: FlowModel | ImportanceSampledPosterior, tokens: Float[np.ndarray, "n d"]
) -> ReferenceData | None:
    """What a model keeps of simulated data, unless it has none."""
    data = np.flatnonzero(~np.asarray(model.layout.is_parameter))
    if not data.size or model.layout.functions:  # seen at other points they are not alike
        return None
    kept = data[np.unique(np.linspace(0, len(data) - 1, min(len(data), WIDEST)).round().astype(int))]
    z = np.asarray(model.scaling.forward(tokens), np.float32)[:, kept]
    return ReferenceData(np.ascontiguousarray(z).tobytes(), tuple(int(i) for i in kept))


def known_of(model: FlowModel | ImportanceSampledPosterior, given: Given, rows: Rows) -> Batch:
    """The simulations' values of what is given, NaN where it is not, and where their functions lie."""
    masks = masks_of(given, {v.name: v.shape for v in model.layout.variables})
    known = {
        name: np.where(mask & _there(model, name, rows), rows[name], np.nan).astype(np.float32)
        for name, mask in masks.items()
    }
    if known:
        known |= {place: np.nan_to_num(rows[place]) for place in model.layout.places}
    return Batch(known)


def _there(model: FlowModel | ImportanceSampledPosterior, name: str, rows: Rows) -> np.ndarray:
    """Which elements of a variable there are; a function has as many as points."""
    if name not in model.layout.functions:
        return np.ones(rows[name].shape, bool)
    places = rows[places_of(name)]
    return np.asarray(np.isfinite(places.reshape(*rows[name].shape, -1)).all(axis=2))


def _whole(model: FlowModel | ImportanceSampledPosterior, asked: Iterable[str], rows: Rows) -> None:
    """Refuses functions of which some simulations have fewer points: there would be no truth to compare with."""
    for name in asked:
        if name in model.layout.functions and not (_there(model, name, rows) & np.isfinite(rows[name])).all():
            raise DataError(
                f"'{name}' has fewer points in some simulations, and cannot be checked there: leave it out of `of`, or "
                "hand in the simulations that have all of its points"
            )


def _log_densities(
    model: FlowModel | ImportanceSampledPosterior, rows: Rows, found: Rows, known: Batch, latent: Rows, few: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n few"]]:
    """Log densities of the truth and of a few draws of each simulation."""
    n = len(next(iter(rows.values())))

    def values(of: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.where(mask, of[name], np.nan) for name, mask in latent.items()}

    at_truth = model.log_prob(values(rows), given=known)
    some = {name: found[name][:, :few].reshape(n * few, *found[name].shape[2:]) for name in latent}
    repeated = Batch({name: np.repeat(value, few, axis=0) for name, value in known.items()})
    at_draws = model.log_prob(values(some), given=repeated).reshape(n, few)
    # where the flow back went astray there is next to no density
    return np.nan_to_num(at_truth, nan=-np.inf), np.nan_to_num(at_draws, nan=-np.inf)
