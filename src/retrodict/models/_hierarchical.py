"""Hierarchies: variables that all sites share, and variables of each site, from simulations of one site.

Shared g, own eta_s, data y_s: sites are independent given g. Hence, for any set of sites and whatever is known of each,

    p(g, eta_1, ..., eta_S | y_1, ..., y_S) = p(g | y_1, ..., y_S) prod over s of p(eta_s | g, y_s)

and three models answer everything (likelihood factorization: TFMPE, arXiv 2604.20723):

    site        one `FlowModel` of (g, eta, y) of ONE site, any roles; where all of y_s is given, a model of eta_s
                given g and y_s alone (`_site_parameters`)
    surrogate   y given g and eta of one site; it makes data sets of many sites, and predicts functions of a site
                whose eta was drawn (`_site_surrogate`)
    shared      g given all sites: a `FlowModel` of r = (g - m) / s given features; a `PlateTransformer` computes m, s
                and the features from the sites

The number of sites may differ from question to question. A site of which nothing is known says nothing about g.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import FileError, QueryError
from retrodict._runtime.blocks import blocks
from retrodict._runtime.precision import in_single_precision
from retrodict._types import Key, as_key
from retrodict.constraints import AbstractConstraint
from retrodict.models._composed_scores import compose
from retrodict.models._factories import joint
from retrodict.models._flow import FlowModel
from retrodict.models._model import AbstractModel, manifest_of, skeleton_of
from retrodict.models._record import Record
from retrodict.models._reference import ReferenceData
from retrodict.models._site_layout import Method, refuse_auto, refuse_settings, shared_layout, summary_of
from retrodict.models._site_parameters import SiteParameterModel, site_parameter_model
from retrodict.models._site_surrogate import SiteMixture, Surrogate, surrogate_from_json, surrogate_of
from retrodict.nets import AbstractArchitecture, PlateTransformer, ResMLP, Simformer, architecture_from_json
from retrodict.nets._plate import Runs, SiteReader, SiteRegression, Summary, runs_of
from retrodict.paths import Path
from retrodict.query import Batch, Query, SiteQuery, as_numbers, flatten, observation_of, parse_sites, unflatten
from retrodict.roles import ABSENT, Known, one_site_roles, shared_roles
from retrodict.solvers import AbstractSolver
from retrodict.transforms import Scaling
from retrodict.variables import Layout


PAIRS_PER_BLOCK = 65_536  # of a draw and a site, solved together: memory does not grow with the number of sites
MIN_SITES_READ = 8  # at once; then powers of two, so that compiled code is used again


class HierarchicalModel(AbstractModel):
    """A model of a plate, of any number of sites; see `hierarchical`."""

    layout: Layout = eqx.field(static=True)
    method: Method = eqx.field(static=True)
    counts: tuple[int, int] = eqx.field(static=True)
    settings: PlateTransformer = eqx.field(static=True)
    record: Record = eqx.field(static=True)
    site: FlowModel
    own: SiteParameterModel | None
    surrogate: Surrogate | SiteMixture
    reader: SiteReader
    line: SiteRegression
    shared: FlowModel
    kind: ClassVar[str] = "hierarchical"
    of_sites: ClassVar[bool] = True

    @property
    def summary(self) -> str:
        """The name of the features that all sites give to the shared model."""
        return summary_of(self.layout)

    @property
    def description(self) -> dict[str, str]:
        return {
            "kind": type(self).__name__,
            "method": self.method,
            "sites in training": f"{self.counts[0]} to {self.counts[1]}",
            "networks": f"{self.settings}; of one site {self.site.architecture}",
        }

    @property
    def coordinates(self) -> Scaling:
        return self.site.scaling

    @property
    def reference(self) -> ReferenceData | None:
        return self.site.reference

    @property
    def _cure(self) -> str:
        flow = "`flow, features = model.given(model.parse(given).sites[0])`"
        return f"{flow} is the flow of the shared variables, and `model.site` that of a single site"

    # all sites together -----------------------------------------------------------------------------------------------

    def given(self, query: SiteQuery) -> tuple[FlowModel, dict[str, Any]]:
        """Returns the shared model, in the coordinates that these sites suggest, and the features it is given."""
        layout, count = query.layout.only_own, max(MIN_SITES_READ, 1 << (query.count - 1).bit_length())
        pad = ((0, count - query.count), (0, 0))
        z = self.site.scaling.resized(query.layout).only(layout).forward(query.values)
        roles = jnp.pad(jnp.asarray(query.roles), pad, constant_values=ABSENT)
        summary = _read(self._reader(query.layout), jnp.pad(z, pad), roles, runs_of(layout), self.line)
        k, shared = len(summary.center), self.shared.scaling.robust
        mean, std = np.array(shared.mean), np.array(shared.std)
        mean[:k] += np.asarray(summary.center) * std[:k]
        std[:k] *= np.asarray(summary.width)
        scaling = dataclasses.replace(self.shared.scaling, robust=dataclasses.replace(shared, mean=mean, std=std))
        shared_model = dataclasses.replace(self.shared.without_warnings(), scaling=scaling)
        return shared_model, {self.summary: np.asarray(summary.features)}

    def _reader(self, layout: Layout) -> SiteReader:
        """Returns the same network for other numbers of points of functions."""
        if layout == self.layout:
            return self.reader
        shape = eqx.filter_eval_shape(_built, self.settings, layout, self.reader.shared)
        return jax.tree.unflatten(jax.tree.structure(shape), jax.tree.leaves(self.reader))

    # queries ----------------------------------------------------------------------------------------------------------

    def parse(
        self,
        given: Mapping[str, Any] | None = None,
        of: Iterable[str] | Mapping[str, Any] | None = None,
        *,
        guide: Sequence[AbstractConstraint] = (),
        strength: float = 1.0,
        correct: bool = True,
        sites: int | None = None,
    ) -> Query:
        """Turns a question about many sites into a `Query`; values of sites are `(sites, *shape)`.

        `of={name: mask}`, booleans `(sites,)`, asks about some sites, `{name: rd.At(points)}` for a function at points.
        """
        del correct
        return self._accepted(parse_sites(self.layout, given, of, sites=sites, guide=guide, strength=strength))

    def refusal(self, query: Query) -> str | None:
        if query.guided:
            return (
                "a hierarchy takes no intervals, constraints or strength; ask `model.site.sample(...)` about a single "
                "site, or keep the draws that lie inside"
            )
        return None

    def _sample(self, query: Query, n: int, *, solver: AbstractSolver | None, key: PRNGKeyArray) -> np.ndarray:
        refuse_auto(solver)
        keys = [jr.fold_in(key, i) for i in range(len(query.sites))] if query.batched else [key]
        answers = [self._draws(n, site_query, solver, seed) for site_query, seed in zip(query.sites, keys, strict=True)]
        tokens = [
            np.concatenate([draws[v.name].reshape(n, v.size) for v in query.answers.variables], axis=1)
            for draws in answers
        ]
        return np.stack(tokens)

    def _draws(
        self, n: int, query: SiteQuery, solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> dict[str, np.ndarray]:
        key_shared, key_own = jr.split(key)
        draws = self._shared_draws(n, query, solver, key_shared)
        if set(query.of) & set(self.layout.own):
            draws |= self._site_draws(n, query, draws, solver, key_own)
        return draws

    def _parse_values(
        self, values: Mapping[str, Any], given: Mapping[str, Any] | None
    ) -> tuple[Query, np.ndarray, bool]:
        """Parses values `(n, *shape)` of shared variables and `(n, sites, *shape)` of variables of sites."""
        query = parse_sites(self.layout, given, list(values) or None)
        arrays = {name: as_numbers(values[name], f"'{name}' in `values`") for name in query.answers.names}
        single = all(array.shape == query.answers[name].shape for name, array in arrays.items())
        arrays = {name: array[None] for name, array in arrays.items()} if single else arrays
        return query, flatten(query.answers, arrays, query.answers.names, where="`values`"), single

    def _log_prob(
        self, query: Query, rows: np.ndarray, *, solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> np.ndarray:
        refuse_auto(solver)
        if query.batched:
            raise QueryError("a hierarchy has densities of one observation at a time; ask a Batch one by one")
        site_query, values = query.sites[0], unflatten(query.answers, rows, query.of)
        names = [name for name in query.of if name in self.layout.own]
        if missing := [n for n in self.layout.shared if names and n not in values and n not in site_query.shared]:
            raise QueryError(f"'{names[0]}' depends on '{missing[0]}'; `values` or `given` must have it")
        shared = {name: value for name, value in values.items() if name not in names}
        if shared and site_query.observed and self.method == "composition":
            raise QueryError("composition draws what is shared and has no density of it; fit with another `method`")
        total, n = np.zeros(len(rows)), len(rows)
        if shared:
            model, features = self.given(site_query) if site_query.observed else (self.site, {})
            total = model.log_prob(shared, given={**site_query.shared, **features}, solver=solver)
        if names:
            repeated = {k: np.broadcast_to(v, (n, *np.shape(v))) for k, v in site_query.shared.items()}
            site_values = {name: values[name].reshape(-1, *self.layout[name].shape) for name in names}
            site_log_probs = self._site_log_probs(site_values, site_query, {**repeated, **shared}, solver)
            total = total + site_log_probs.reshape(n, -1).sum(axis=1)
        return total

    def _site_log_probs(
        self,
        own: Mapping[str, np.ndarray],
        query: SiteQuery,
        shared: Mapping[str, np.ndarray],
        solver: AbstractSolver | None,
    ) -> np.ndarray:
        """Returns log densities of variables of sites, for every draw of the shared ones and every site."""
        narrow = self.own if set(own) == set(self._site_parameters) else None
        complete = query.complete & (narrow is not None)
        rows = len(next(iter(own.values()))) // query.count
        log_probs = np.empty((rows, query.count))
        models: list[tuple[np.ndarray, Callable[..., np.ndarray]]] = [(~complete, self.site.log_prob)]
        if narrow is not None:
            models.append((complete, partial(narrow.density, self.site.scaling)))
        for mask, log_prob in models:
            if not mask.any():
                continue
            sites = np.flatnonzero(mask)
            by_site = {k: v.reshape(rows, query.count, *v.shape[1:])[:, sites] for k, v in own.items()}
            values = {k: v.reshape(-1, *v.shape[2:]) for k, v in by_site.items()}
            log_probs[:, sites] = log_prob(values, given=query.rows(shared, sites), solver=solver).reshape(rows, -1)
        return log_probs

    @property
    def _site_parameters(self) -> list[str]:
        return [name for name in self.layout.own if name in self.layout.parameters]

    def _shared_draws(
        self, n: int, query: SiteQuery, solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> dict[str, np.ndarray]:
        """Returns draws of all shared variables; given ones are repeated."""
        fixed = {k: as_numbers(v, f"'{k}' in `given`") for k, v in query.shared.items()}
        fixed = {k: v for k, v in fixed.items() if not np.isnan(v).any()}
        repeated = {name: np.broadcast_to(value, (n, *self.layout[name].shape)) for name, value in fixed.items()}
        latent = [name for name in self.layout.shared if name not in fixed]
        if not latent:
            return repeated
        if not query.observed:
            draws = self.site.sample(n, given=query.shared, of=latent, solver=solver, key=key)
        elif self.method == "composition":
            draws = compose(self.site, query, n, key=key)
        else:
            model, features = self.given(query)
            draws = model.sample(n, given={**query.shared, **features}, of=latent, solver=solver, key=key)
        return {**draws, **repeated}

    def _site_draws(
        self,
        n: int,
        query: SiteQuery,
        shared: Mapping[str, np.ndarray],
        solver: AbstractSolver | None,
        key: PRNGKeyArray,
    ) -> dict[str, np.ndarray]:
        """Returns draws of variables of sites, given draws of the shared ones, in blocks of sites."""
        requests, open_sites = query.points(), query.open_sites()
        narrow = self.own if set(requests) <= set(self._site_parameters) else None
        complete = query.complete[open_sites] & (narrow is not None)
        samplers = [(open_sites[~complete], self._from_site)]
        if narrow is not None:
            samplers.append((open_sites[complete], partial(narrow.draw, self.site.scaling)))
        size = max(1, PAIRS_PER_BLOCK // n)
        draws: dict[str, np.ndarray] = {}
        for sites, sampler in samplers:
            for numbers in blocks(len(sites), size):
                block = sites[numbers]
                answers = sampler(query.rows(shared, block), requests, solver, jr.fold_in(key, int(block[0])))
                for name, values in answers.items():
                    by_site = values.reshape(n, len(block), *values.shape[1:])
                    empty = np.full((n, query.count, *by_site.shape[2:]), np.nan, by_site.dtype)
                    draws.setdefault(name, empty)[:, block] = by_site
        return {name: query.with_given(name, values) for name, values in draws.items()}

    def _from_site(
        self, given: Batch, of: Mapping[str, Any], solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> dict[str, np.ndarray]:
        """Returns a draw of variables of a site for every row, functions after parameters."""
        functions = {name: request for name, request in of.items() if name in self.layout.functions}
        if not (functions and isinstance(self.surrogate, Surrogate) and self.surrogate.predicts):
            draws = self.site.sample(1, given=given, of=of, solver=solver, key=key)
            return {name: values[:, 0] for name, values in draws.items()}
        key_own, key_data = jr.split(key)
        parameters = self._all_parameters(given, solver, key_own)
        data = self.surrogate.draw(self.site.scaling, Batch(parameters), functions, solver, key_data)
        return {name: data[name] if name in functions else parameters[name] for name in of}

    def _all_parameters(self, given: Batch, solver: AbstractSolver | None, key: PRNGKeyArray) -> dict[str, np.ndarray]:
        """Returns all parameters of every row, drawn where they are not given."""
        rows, names = len(next(iter(given.values()))), self._site_parameters
        blank = {name: np.full((rows, *self.layout[name].shape), np.nan) for name in names}
        values = {name: np.array(given.get(name, blank.get(name))) for name in (*self.layout.shared, *names)}
        missing = np.isnan(np.concatenate([value.reshape(rows, -1) for value in values.values()], axis=1)).any(axis=1)
        if missing.any():
            draws = self.site.sample(1, given=Batch(observation_of(given, missing)), of=names, solver=solver, key=key)
            for name, value in draws.items():
                values[name][missing] = value[:, 0]
        return values

    def to_manifest(self) -> dict[str, Any]:
        return {
            "layout": self.layout.to_json(),
            "net": self.settings.to_json(),
            "method": self.method,
            "counts": list(self.counts),
            "record": self.calibration.to_json(),
            "site": manifest_of(self.site),
            "own": None if self.own is None else manifest_of(self.own.flow),
            "surrogate": self.surrogate.to_manifest(),
            "shared": manifest_of(self.shared),
        }

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "HierarchicalModel":
        layout, settings = Layout.from_json(manifest["layout"]), architecture_from_json(manifest["net"])
        if not isinstance(settings, PlateTransformer):
            raise FileError(f"the file names the network '{type(settings).__name__}' for sites, which reads none")
        model = hierarchical(layout, net=settings, method=manifest["method"], n_sites=tuple(manifest["counts"]))
        parts: dict[str, Any] = {name: skeleton_of(manifest[name]) for name in ("site", "shared")}
        if model.own is not None:
            parts["own"] = dataclasses.replace(model.own, flow=skeleton_of(manifest["own"]))
        parts["surrogate"] = surrogate_from_json(layout, manifest["surrogate"])
        return dataclasses.replace(model, record=Record.from_json(manifest["record"]), **parts)


@in_single_precision
def hierarchical(
    layout: Layout,
    *,
    net: PlateTransformer | None = None,
    site: AbstractArchitecture | None = None,
    flow: AbstractArchitecture | None = None,
    path: Path | None = None,
    method: Method = "likelihood",
    n_sites: tuple[int, int] = (1, 200),
    counts: tuple[int, int] | None = None,
    key: Key = 0,
) -> HierarchicalModel:
    """Returns a model of a plate, untrained: of shared variables and of the variables of any number of sites.

    Args:
        layout: that of one site, as `sims.layout` tells it; the prior of the problem has a `Plate`.
        net: reads the sites, `rd.nets.PlateTransformer()` by default.
        site: the network of one site and of its surrogate. By default a residual MLP, and for the surrogate a mixture
            density; where there are functions a Simformer, and a `PointMLP`, which takes the points of a function for
            independent given all parameters. Where they are not: `site=rd.nets.Simformer()`.
        flow: the network of what is shared, beside the features of all sites; by default a small residual MLP.
        path: the path between noise and data; by default flow matching.
        method: how many sites are learned from. "likelihood": from single sites, through a surrogate that makes sets
            of them (TFMPE). "direct": from simulations of many sites. "posterior": the same, from simulations with
            numbers of sites of their own (`rd.simulate(sites=counts)`). "composition": from single sites alone, whose
            scores add up (Geffner et al. 2023, arXiv 2209.14249).
        n_sites: fewest and most sites in training; their number is log-uniform. Other numbers may be asked.
        counts: the name of `n_sites` in earlier versions.
        key: seed of the first weights.

    Raises:
        DataError: the layout has no plate, nothing is shared, or settings that do not fit.
    """
    counts = n_sites if counts is None else counts
    refuse_settings(layout, method, counts)
    keys = jr.split(as_key(key), 5)
    of_site, settings = site or (Simformer(depth=3) if layout.functions else ResMLP(128, 3)), net or PlateTransformer()
    together, k = shared_layout(layout, settings.features), sum(layout[name].size for name in layout.shared)
    flow_model = partial(joint, path=path, conditional_affine=False)  # its coordinates are set by the sites
    return HierarchicalModel(
        layout=layout,
        method=method,
        counts=(int(counts[0]), int(counts[1])),
        settings=settings,
        record=Record(),
        site=flow_model(layout, net=of_site, roles=one_site_roles(composed=method == "composition"), key=keys[0]),
        own=site_parameter_model(layout, path, key=keys[4]),
        surrogate=surrogate_of(layout, site, path, key=keys[1]),
        reader=_built(settings, layout, k, key=keys[2]),
        line=SiteRegression.blank(layout.only_own, k),
        shared=flow_model(
            together, net=flow or ResMLP(96, 2), roles=Known(shared_roles(k), (summary_of(layout),)), key=keys[3]
        ),
    )


@eqx.filter_jit
def _built(settings: PlateTransformer, layout: Layout, shared: int, key: PRNGKeyArray | None = None) -> SiteReader:
    return settings.reader(layout.only_own, shared, key=jr.key(0) if key is None else key)


@eqx.filter_jit
def _read(reader: SiteReader, z: Array, roles: Array, runs: Runs, line: SiteRegression) -> Summary:
    return reader(z, roles, runs, line)
