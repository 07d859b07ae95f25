"""Questions about rows of simulations, each a row of tokens."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from retrodict._errors import DataError
from retrodict.diagnostics._pairs import generator
from retrodict.evaluation._settings import CheckSettings, Comparison, Given, Rows, by_element, refuse_few
from retrodict.models import AbstractModel, ReferenceData, without_affine
from retrodict.query import Batch, Query, element_masks, flatten, unflatten
from retrodict.query.tokens import check_simulations
from retrodict.roles import LATENT
from retrodict.variables import Layout, places_of


MAX_REFERENCE_ROWS, MAX_REFERENCE_ELEMENTS = 500, 256  # that a model carries: half a megabyte at most
MAX_DENSITY_ELEMENTS = 64  # latent ones: the exact density of more takes minutes


def compare_rows(model: AbstractModel, sims: Mapping[str, Any], settings: CheckSettings, keys: Array) -> Comparison:
    """Asks about some simulations, all at once.

    Raises:
        DataError, QueryError: as `check`.
    """
    tokens = held_out_tokens(model, sims)
    order = generator(keys[0]).permutation(len(tokens))
    rows = unflatten(model.layout, tokens[order[: settings.observations]], model.layout.names)
    unseen = tokens[order[-MAX_REFERENCE_ROWS:]]
    reference = model.reference or ReferenceData.of(model.coordinates, unseen[:0], unseen, generator(keys[0]))
    observed = given_in_rows(model.layout, settings.given, rows)
    unmentioned = [name for name in model.modeled.names if name not in observed]
    names = list(settings.of) if settings.of is not None else unmentioned or None
    query = model.parse(observed, names)
    names = names or list(query.of)
    _refuse_missing_points(model.layout, names, rows)
    draws = model.without_warnings().sample(
        settings.draws, given=observed, of=names, solver=settings.solver, key=keys[1]
    )
    latent = query.roles[0] == LATENT
    masks = unflatten(model.layout, latent, names)
    n_densities = min(settings.densities, settings.draws) if int(latent.sum()) <= MAX_DENSITY_ELEMENTS else 0
    log_probs = _log_probs(model, query, rows, draws, observed, n_densities) if n_densities else None
    truth, columns = by_element(rows, masks, axes=1), by_element(draws, masks, axes=2)
    return Comparison(truth, columns, log_probs, query.shares, reference, repeated_share(model, tokens))


def repeated_share(model: AbstractModel, tokens: Float[np.ndarray, "n d"]) -> float:
    """Returns the share of simulations, rows of tokens, that a model was trained on, by what it kept of these."""
    if model.reference is None:
        return 0.0
    return model.reference.repeated(without_affine(model.coordinates).of_rows(tokens))


def held_out_tokens(model: AbstractModel, sims: Mapping[str, Any]) -> Float[np.ndarray, "n d"]:
    """Returns held-out simulations as rows of tokens.

    Raises:
        DataError: simulations of the wrong names or shapes, not finite, or too few.
    """
    sims = check_simulations(sims)
    tokens = flatten(model.layout, sims, model.layout.names, where="the simulations")
    numbers = model.layout.tokens_of([v.name for v in model.layout.variables if not v.axes and v.kind != "place"])
    refuse_few(len(tokens), int((~np.isfinite(tokens[:, numbers])).any(axis=1).sum()))
    return tokens


def reference_data(model: AbstractModel, tokens: Float[np.ndarray, "n d"]) -> ReferenceData | None:
    """Returns simulated data for a model to keep, unless it has none."""
    data = np.flatnonzero(~np.asarray(model.layout.is_parameter))
    if not data.size or model.layout.functions:  # at other points they are not alike
        return None
    spread = np.linspace(0, len(data) - 1, min(len(data), MAX_REFERENCE_ELEMENTS)).round().astype(int)
    elements = data[np.unique(spread)]
    z = np.asarray(model.coordinates.forward(tokens), np.float32)[:, elements]
    return ReferenceData(np.ascontiguousarray(z).tobytes(), tuple(int(i) for i in elements))


def given_in_rows(layout: Layout, given: Given, rows: Rows) -> Batch:
    """Returns the simulations' values of given elements, NaN elsewhere, and the places of their functions."""
    masks = element_masks(given, {v.name: v.shape for v in layout.variables})
    values = {name: np.where(mask & _exists(layout, name, rows), rows[name], np.nan) for name, mask in masks.items()}
    return Batch(values | {place: np.nan_to_num(rows[place]) for place in layout.places})


def _exists(layout: Layout, name: str, rows: Rows) -> np.ndarray:
    """Returns which elements of a variable exist; a function has as many as points."""
    if name not in layout.functions:
        return np.ones(rows[name].shape, bool)
    places = rows[places_of(name)]
    return np.asarray(np.isfinite(places.reshape(*rows[name].shape, -1)).all(axis=2))


def _refuse_missing_points(layout: Layout, names: Iterable[str], rows: Rows) -> None:
    """Refuses functions with fewer points in some simulations: there would be no truth to compare with."""
    for name in names:
        if name in layout.functions and not (_exists(layout, name, rows) & np.isfinite(rows[name])).all():
            raise DataError(
                f"'{name}' has fewer points in some simulations, and cannot be checked there: leave it out of `of`, or "
                "hand in the simulations that have all of its points"
            )


def _log_probs(
    model: AbstractModel, query: Query, rows: Rows, draws: Rows, given: Batch, few: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n few"]] | None:
    """Returns log densities of the truth and of a few draws of each simulation; None where a model has none."""
    n, masks = len(next(iter(rows.values()))), unflatten(model.layout, query.roles[0] == LATENT, query.of)
    if not model.has_density:
        return None

    def asked(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.where(mask, values[name], np.nan) for name, mask in masks.items()}

    model = model.without_warnings()
    at_truth = model.log_prob(asked(rows), given=given)
    some_draws = {name: draws[name][:, :few].reshape(n * few, *draws[name].shape[2:]) for name in masks}
    repeated = Batch({name: np.repeat(value, few, axis=0) for name, value in given.items()})
    at_draws = model.log_prob(asked(some_draws), given=repeated).reshape(n, few)
    # where the flow back went astray there is next to no density
    return np.nan_to_num(at_truth, nan=-np.inf), np.nan_to_num(at_draws, nan=-np.inf)
