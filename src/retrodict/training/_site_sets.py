"""Sets of sites to learn from: simulated, or synthetic ones that cost no simulation.

    g from the prior,  eta_1..S from the prior given g,  y_s from the surrogate of one site

(TFMPE, arXiv 2604.20723, section 3.) The prior is that of the problem. If the problem is unknown, shared parameters are
resampled from the simulations, and eta comes from the model of one site.
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
    """Scaled shared elements `(n, k)`, and the own elements of sites `(n, s, d)`, NaN for a missing site."""

    shared: Array
    own: Array


class SyntheticSets:
    """A source of sets of sites, drawn from the prior and the surrogate of a model."""

    def __init__(self, model: HierarchicalModel, sims: Mapping[str, Any], rows: Mapping[str, np.ndarray]) -> None:
        self.model, self.rows, self.layout = model, rows, model.layout
        self.max_sites = model.counts[1]
        problem = getattr(sims, "problem", None)
        self.prior = None if problem is None else problem.prior
        if self.prior is not None:
            self.draw_shared, self.draw_own = (jax.jit(jax.vmap(f)) for f in (self.prior.draw, self.prior.draw_own))

    def draw(self, n: int, key: PRNGKeyArray) -> Sets:
        """Draws `n` sets of the largest number of sites in training."""
        key_parameters, key_data, key_places = jr.split(key, 3)
        values = self._parameters(n, key_parameters)
        total, layout = n * self.max_sites, self.layout
        for name in layout.data:
            values[name] = np.zeros((total, *layout[name].shape), np.float32)
        if layout.places:  # the points of functions are those of simulated sites
            index = np.asarray(jr.randint(key_places, (total,), 0, len(self.rows[layout.places[0]])))
            values |= {name: self.rows[name][index] for name in layout.places}
        return _sets(layout, self.model.surrogate.sample(scaled(self.model.site, values), key_data), n)

    def _parameters(self, n: int, key: PRNGKeyArray) -> dict[str, Any]:
        """Draws shared and own parameters of `n` sets, one row per site."""
        key_shared, key_own = jr.split(key)
        if self.prior is not None:
            draws = self.draw_shared(jr.split(key_shared, n))
            shared = {name: draws[name] for name in self.layout.shared}
        else:
            index = np.asarray(jr.randint(key_shared, (n,), 0, len(self.rows[self.layout.names[0]])))
            shared = {name: self.rows[name][index] for name in self.layout.shared}
        repeated = {name: np.repeat(np.asarray(v), self.max_sites, axis=0) for name, v in shared.items()}
        names = [name for name in self.layout.own if self.layout[name].kind == "parameter"]
        if not names:
            return repeated
        if self.prior is not None:
            parameters = self.draw_own(jr.split(key_own, n * self.max_sites), repeated)
        else:
            draws = self.model.site.without_warnings().sample(1, given=Batch(repeated), of=names, key=key_own)
            parameters = {name: values[:, 0] for name, values in draws.items()}
        return repeated | {name: np.asarray(parameters[name]) for name in names}


def simulated_sets(model: HierarchicalModel, sims: Any) -> Sets:
    """Returns simulated sets of sites, scaled."""
    rows = _flat(model.layout, sims, sims.sites)
    return _sets(model.layout, scaled(model.site, rows), len(rows[model.layout.names[0]]) // sims.sites)


def single_sites(layout: Layout, sims: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns a row for each site, `{name: (n, *shape)}`, from simulations of one site or of many."""
    sites = getattr(sims, "sites", 0)
    if not sites:
        return {name: np.asarray(sims[name]) for name in layout.names}
    flat = _flat(layout, sims, sites)
    first = flat[layout.own[0]]
    present = ~np.isnan(first.reshape(len(first), -1)).all(axis=1)
    return {name: values[present] for name, values in flat.items()}


def scaled(site: FlowModel, rows: Mapping[str, Any]) -> np.ndarray:
    """Returns rows in the coordinates of the model of one site, `(n, d)`."""
    return site.scaling.of_rows(flatten(site.layout, rows, site.layout.names, where="the simulations"))


def _flat(layout: Layout, sims: Mapping[str, Any], sites: int) -> dict[str, np.ndarray]:
    """Returns a row for each slot of a site in a set, NaN in empty slots."""
    arrays = {name: np.asarray(sims[name]) for name in layout.names}
    flat = {name: arrays[name].reshape(-1, *layout[name].shape) for name in layout.own}
    return flat | {name: np.repeat(arrays[name], sites, axis=0) for name in layout.shared}


def _sets(layout: Layout, z: np.ndarray, n: int) -> Sets:
    """Returns scaled rows of sites as `n` sets."""
    z = z.reshape(n, -1, layout.size)
    shared_tokens, own_tokens = (layout.tokens_of(names) for names in (layout.shared, layout.own))
    return Sets(jnp.asarray(z[:, 0, shared_tokens]), jnp.asarray(z[:, :, own_tokens]))
