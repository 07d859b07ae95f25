"""Sets of sites to learn from: simulated, or made of parts that cost no simulation.

    g from the prior,  eta_1..S from the prior given g,  y_s from the surrogate of one site

(TFMPE, arXiv 2604.20723, section 3.) A problem that is known gives its prior; otherwise what is shared comes from the
simulations and eta from the model of one site.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict.models import FlowModel, HierarchicalModel
from retrodict.query.tokens import Batch, flatten
from retrodict.variables import Layout


class Sets(NamedTuple):
    """Scaled shared elements `(n, k)`, and the own elements of sites `(n, s, d)`, NaN where there is none."""

    shared: Array
    own: Array


class Synthetic:
    """Sets of sites drawn from the prior, or what stands in for it, and the surrogate."""

    def __init__(self, model: HierarchicalModel, sims: Mapping[str, Any], rows: Mapping[str, np.ndarray]) -> None:
        self.model, self.rows, self.layout = model, rows, model.layout
        self.most = model.counts[1]
        problem = getattr(sims, "problem", None)
        self.prior = None if problem is None else problem.prior
        if self.prior is not None:
            self.draw_shared, self.draw_own = (jax.jit(jax.vmap(f)) for f in (self.prior.draw, self.prior.draw_own))

    def draw(self, n: int, key: PRNGKeyArray) -> Sets:
        """`n` sets of as many sites as training has at most."""
        key_parameters, key_data, key_places = jr.split(key, 3)
        values = self._parameters(n, key_parameters)
        total, layout = n * self.most, self.layout
        for name in layout.data:
            values[name] = np.zeros((total, *layout[name].shape), np.float32)
        if layout.places:  # sites are looked at where single ones were
            which = np.asarray(jr.randint(key_places, (total,), 0, len(self.rows[layout.places[0]])))
            values |= {name: self.rows[name][which] for name in layout.places}
        return _sets(layout, self.model.surrogate.sample(scaled(self.model.site, values), key_data), n)

    def _parameters(self, n: int, key: PRNGKeyArray) -> dict[str, Any]:
        """Shared and own parameters of `n` sets, one row per site."""
        key_shared, key_own = jr.split(key)
        if self.prior is not None:
            drawn = self.draw_shared(jr.split(key_shared, n))
            shared = {name: drawn[name] for name in self.layout.shared}
        else:
            which = np.asarray(jr.randint(key_shared, (n,), 0, len(self.rows[self.layout.names[0]])))
            shared = {name: self.rows[name][which] for name in self.layout.shared}
        repeated = {name: np.repeat(np.asarray(v, np.float32), self.most, axis=0) for name, v in shared.items()}
        own = [name for name in self.layout.own if self.layout[name].kind == "parameter"]
        if not own:
            return repeated
        if self.prior is not None:
            found = self.draw_own(jr.split(key_own, n * self.most), repeated)
        else:
            draws = self.model.site.sample(1, given=Batch(repeated), of=own, key=key_own)
            found = {name: values[:, 0] for name, values in draws.items()}
        return repeated | {name: np.asarray(found[name], np.float32) for name in own}


def simulated(model: HierarchicalModel, sims: Any) -> Sets:
    """Simulated sets of sites, scaled."""
    rows = _flat(model.layout, sims, sims.sites)
    return _sets(model.layout, scaled(model.site, rows), len(rows[model.layout.names[0]]) // sims.sites)


def single_sites(layout: Layout, sims: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every site a row, `{name: (n, *shape)}`, from simulations of one site or of many."""
    sites = getattr(sims, "sites", 0)
    if not sites:
        return {name: np.asarray(sims[name]) for name in layout.names}
    flat = _flat(layout, sims, sites)
    first = flat[layout.own[0]]
    there = ~np.isnan(first.reshape(len(first), -1)).all(axis=1)
    return {name: values[there] for name, values in flat.items()}


def scaled(site: FlowModel, rows: Mapping[str, Any]) -> np.ndarray:
    """Rows in the coordinates of the model of one site, `(n, d)`."""
    return site.scaling.of_rows(flatten(site.layout, rows, site.layout.names, where="the simulations"))


def _flat(layout: Layout, sims: Mapping[str, Any], sites: int) -> dict[str, np.ndarray]:
    """A row for every place of a site in a set, NaN in those that are empty."""
    arrays = {name: np.asarray(sims[name]) for name in layout.names}
    flat = {name: arrays[name].reshape(-1, *layout[name].shape) for name in layout.own}
    return flat | {name: np.repeat(arrays[name], sites, axis=0) for name in layout.shared}


def _sets(layout: Layout, z: np.ndarray, n: int) -> Sets:
    """Rows of sites, scaled, as `n` sets."""
    z = z.reshape(n, -1, layout.size)
    shared, own = (layout.tokens_of(names) for names in (layout.shared, layout.own))
    return Sets(jnp.asarray(z[:, 0, shared]), jnp.asarray(z[:, :, own]))
