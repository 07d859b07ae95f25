"""Questions about simulations of many sites, one set after the other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from retrodict._errors import DataError, QueryError, listed
from retrodict.diagnostics._pairs import generator
from retrodict.evaluation._settings import NOTHING, Asked, CheckSettings, Rows, elements_of, enough, masks_of, silent
from retrodict.models import HierarchicalModel
from retrodict.query.functions import joined
from retrodict.query.tokens import Batch, as_numbers
from retrodict.variables import Layout


def of_sites(model: HierarchicalModel, sims: Mapping[str, Any], inquiry: CheckSettings, keys: Array) -> Asked:
    """Asks about some sets of sites; sites that some of them lack have no truth, and are left out.

    Raises:
        DataError, QueryError: as `check`.
    """
    layout, rows = model.layout, _sets(model.layout, sims)
    order = generator(keys[0]).permutation(len(rows[layout.shared[0]]))
    rows = {name: values[order[: inquiry.observations]] for name, values in rows.items()}
    masks = masks_of(inquiry.given, {name: values.shape[1:] for name, values in rows.items()})
    if not masks:
        raise QueryError(NOTHING)
    known = {name: np.where(mask, rows[name], np.nan).astype(np.float32) for name, mask in masks.items()}
    numbers = [name for name in layout.names if name not in (*layout.functions, *layout.places)]
    asked = tuple(inquiry.of if inquiry.of is not None else (name for name in numbers if name not in known))
    if strange := [name for name in asked if name in layout.names and name not in numbers]:
        raise QueryError(f"a check of sites asks for numbers, and '{strange[0]}' is a function: leave it out of `of`")
    given = Batch(joined(known | {place: rows[place] for place in layout.places}))
    found = silent(model).sample(inquiry.draws, given=given, of=asked, solver=inquiry.solver, key=keys[1])
    nothing = np.zeros((), bool)
    latent = {name: np.isfinite(rows[name]).all(axis=0) & ~masks.get(name, nothing) for name in asked}
    truth, drawn = elements_of(rows, latent, axes=1), elements_of(found, latent, axes=2)
    if not truth:
        raise QueryError("nothing is asked that all simulations have: name something else in `of`")
    shares = []
    for name in (*numbers, *layout.functions):
        share = float(masks.get(name, nothing).mean())
        shares.append((name, share, (1.0 - share) * (name in asked)))
    return Asked(truth, drawn, None, tuple(shares), None)


def _sets(layout: Layout, sims: Mapping[str, Any]) -> Rows:
    """Simulations of many sites: `(n, *shape)` of what is shared, `(n, sites, *shape)` of what sites have."""
    if not isinstance(sims, Mapping):
        raise DataError(f"simulations are a mapping from name to array, got {type(sims).__name__}")
    rows: dict[str, np.ndarray] = {}
    for name in layout.names:
        if name not in sims:
            raise DataError(f"'{name}' is missing in the simulations, which have {listed(sims)}")
        rows[name] = as_numbers(sims[name], f"'{name}' in the simulations")
    shape, own = rows[layout.own[0]].shape, layout[layout.own[0]].shape
    n = shape[0] if shape else 0
    sites: Any = shape[1] if len(shape) == 2 + len(own) else "sites"  # which is in nobody's shape
    for name, values in rows.items():
        expected = (n, *((sites,) if name in layout.own else ()), *layout[name].shape)
        if values.shape != expected:
            raise DataError(
                f"a check of sites needs simulations of many, rd.simulate(problem, 300, sites=20, key=...); '{name}' "
                f"has the shape {values.shape} instead of ({', '.join(map(str, expected))})"
            )
    shared = np.concatenate([rows[name].reshape(n, -1) for name in layout.shared], axis=1)
    enough(n, int((~np.isfinite(shared)).any(axis=1).sum()))
    return rows
