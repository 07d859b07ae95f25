"""Questions about simulations of many sites, one set of sites after the other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from retrodict._errors import DataError, QueryError, listed
from retrodict.diagnostics._pairs import generator
from retrodict.evaluation._settings import CheckSettings, Comparison, Rows, by_element, refuse_few
from retrodict.models import AbstractModel
from retrodict.query import Batch, as_numbers, element_masks
from retrodict.query.functions import joined
from retrodict.query.tokens import check_simulations
from retrodict.variables import Layout


def compare_sites(model: AbstractModel, sims: Mapping[str, Any], settings: CheckSettings, keys: Array) -> Comparison:
    """Asks about some sets of sites; sites that some of them lack have no truth, and are left out.

    Raises:
        DataError, QueryError: as `check`.
    """
    layout, rows = model.layout, _sets_of_sites(model.layout, sims)
    order = generator(keys[0]).permutation(len(rows[layout.shared[0]]))
    rows = {name: values[order[: settings.observations]] for name, values in rows.items()}
    masks = element_masks(settings.given, {name: values.shape[1:] for name, values in rows.items()})
    observed = {name: np.where(mask, rows[name], np.nan) for name, mask in masks.items()}
    numbers = [name for name in layout.names if name not in (*layout.functions, *layout.places)]
    names = tuple(settings.of if settings.of is not None else (name for name in numbers if name not in observed))
    if functions := [name for name in names if name in layout.names and name not in numbers]:
        raise QueryError(f"a check of sites asks for numbers, and '{functions[0]}' is a function: leave it out of `of`")
    batch = Batch(joined(observed | {place: rows[place] for place in layout.places}))
    draws = model.without_warnings().sample(settings.draws, given=batch, of=names, solver=settings.solver, key=keys[1])
    nothing = np.zeros((), bool)
    latent = {name: np.isfinite(rows[name]).all(axis=0) & ~masks.get(name, nothing) for name in names}
    truth, columns = by_element(rows, latent, axes=1), by_element(draws, latent, axes=2)
    if not truth:
        raise QueryError("nothing is asked that all simulations have: name something else in `of`")
    shares = []
    for name in (*numbers, *layout.functions):
        share = float(masks.get(name, nothing).mean())
        shares.append((name, share, (1.0 - share) * (name in names)))
    return Comparison(truth, columns, None, tuple(shares), None)


def _sets_of_sites(layout: Layout, sims: Mapping[str, Any]) -> Rows:
    """Returns simulations of many sites: `(n, *shape)` of shared variables, `(n, sites, *shape)` of others."""
    sims = check_simulations(sims)
    rows: dict[str, np.ndarray] = {}
    for name in layout.names:
        if name not in sims:
            raise DataError(f"'{name}' is missing in the simulations, which have {listed(sims)}")
        rows[name] = as_numbers(sims[name], f"'{name}' in the simulations")
    shape, site_shape = rows[layout.own[0]].shape, layout[layout.own[0]].shape
    n = shape[0] if shape else 0
    sites: Any = shape[1] if len(shape) == 2 + len(site_shape) else "sites"  # a word that is in no shape
    for name, values in rows.items():
        expected = (n, *((sites,) if name in layout.own else ()), *layout[name].shape)
        if values.shape != expected:
            raise DataError(
                f"a check of sites needs simulations of many, rd.simulate(problem, 300, sites=20, key=...); '{name}' "
                f"has the shape {values.shape} instead of ({', '.join(map(str, expected))})"
            )
    shared = np.concatenate([rows[name].reshape(n, -1) for name in layout.shared], axis=1)
    refuse_few(n, int((~np.isfinite(shared)).any(axis=1).sum()))
    return rows
