"""Hierarchies: what all sites share, and what each has for itself, from simulations of one site.

Shared g, own eta_s, data y_s: sites are independent given g. Hence, for any set of sites and whatever is known of each,

    p(g, eta_1, ..., eta_S | y_1, ..., y_S) = p(g | y_1, ..., y_S) prod over s of p(eta_s | g, y_s)

and three models say everything (likelihood factorization: TFMPE, arXiv 2604.20723):

    site        one `FlowModel` of (g, eta, y) of ONE site, any roles: predictions, missing data, single sites; and
                where all of y_s is there a model of eta_s given g and y_s alone, in narrow coordinates (`_narrow`)
    surrogate   y given g and eta of one site; it makes data sets of many sites, which cost no simulation, and
                predicts functions of a site whose eta was drawn (`_surrogate`)
    shared      g given all sites: a `FlowModel` of r = (g - m) / s beside features f, where a `PlateTransformer` reads
                m, s and f off the sites

The number of sites may differ from question to question and from training. A site is *absent* where nothing is known
of it: then it says nothing about g, and its own variables are predictions.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import DataError, QueryError
from retrodict._types import Key, as_key
from retrodict.models import _flow_answers
from retrodict.models._composed_scores import compose
from retrodict.models._factories import joint
from retrodict.models._flow import FlowModel
from retrodict.models._record import CalibrationWarning, Record, fingerprint, of_family
from retrodict.models._site_parameters import SiteParameterModel, site_parameter_model
from retrodict.models._site_surrogate import SiteMixture, Surrogate, surrogate_of
from retrodict.nets import AbstractArchitecture, PlateTransformer, ResMLP, Simformer
from retrodict.nets._plate import Runs, SiteReader, SiteRegression, Summary, runs_of
from retrodict.paths import Path
from retrodict.query.sites import SiteQuestion, observed_at, site_question
from retrodict.query.tokens import Batch
from retrodict.roles import ABSENT, Known, one_site_roles, shared_roles
from retrodict.solvers import AbstractSolver, Auto
from retrodict.variables import At, Layout, Variable


Method = Literal["likelihood", "direct", "posterior", "composition"]
METHODS = ("likelihood", "direct", "posterior", "composition")
PAIRS = 65_536  # pairs of a draw and a site that are solved together: memory does not grow with the sites
LEAST = 8  # sites that are read at once, at least; then powers of two, so that compiled code is used again


class HierarchicalModel(eqx.Module):
    """A trained or untrained model of a plate; see `hierarchical`."""

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

    @property
    def trained(self) -> bool:
        """Whether `fit` has seen this model."""
        return self.record.steps > 0

    @property
    def calibration(self) -> Record:
        """The record, with those checks alone that belong to the numbers that the model has now."""
        return self.record.of(fingerprint(self)) if self.record.calibrations else self.record

    @property
    def summary(self) -> str:
        """The name under which the shared part knows what all sites say."""
        return summary_of(self.layout)

    # all sites together -----------------------------------------------------------------------------------------------

    def given(self, question: SiteQuestion) -> tuple[FlowModel, dict[str, Any]]:
        """The model of what is shared, in the coordinates that these sites suggest, and what it is given about them."""
        layout, count = question.layout.only_own, max(LEAST, 1 << (question.count - 1).bit_length())
        pad = ((0, count - question.count), (0, 0))
        z = self.site.scaling.resized(question.layout).only(layout).forward(question.values)
        roles = jnp.pad(jnp.asarray(question.roles), pad, constant_values=ABSENT)
        found = _read(self._reader(question.layout), jnp.pad(z, pad), roles, runs_of(layout), self.line)
        k, own = len(found.center), self.shared.scaling.robust
        mean, std = own.mean.at[:k].add(found.center * own.std[:k]), own.std.at[:k].multiply(found.width)
        tails = dataclasses.replace(own, mean=mean, std=std)
        scaling = dataclasses.replace(self.shared.scaling, robust=tails)
        return dataclasses.replace(self.shared, scaling=scaling), {self.summary: np.asarray(found.features)}

    def _reader(self, layout: Layout) -> SiteReader:
        """The same network for other numbers of points of functions."""
        if layout == self.layout:
            return self.reader
        shape = eqx.filter_eval_shape(_built, self.settings, layout, self.reader.shared)
        return jax.tree.unflatten(jax.tree.structure(shape), jax.tree.leaves(self.reader))

    # questions in names -----------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int,
        *,
        given: Mapping[str, Any] | None = None,
        of: Iterable[str] | Mapping[str, Any] | None = None,
        sites: int | None = None,
        solver: AbstractSolver | None = None,
        key: Key,
    ) -> dict[str, np.ndarray]:
        """Draws of the variables `of`: `(n, *shape)` of what is shared, `(n, sites, *shape)` of what sites have.

        `given` maps what is shared to values `(*shape,)`, what sites have to `(sites, *shape)`, NaN where not observed.
        `of` defaults to the variables that `given` does not name, functions excepted; `of={name: mask}`, booleans
        `(sites,)`, asks about some sites only, the others come back as NaN, and `{name: rd.At(points)}` for a function
        at points `(k,)`, the same at every site. A variable both in `given` and in `of` comes back whole, NaN drawn.
        With `sites` above the number of those that are given the last ones are new, and their draws predictions. With
        `given=rd.Batch({...})` of B questions the draws are `(B, n, ...)`.

        Raises:
            QueryError: a name that this model does not have, nothing left to ask, `n` below 1, or `Auto` as a solver.
            DataError: a value of the wrong shape or type, outside its support, or numbers of sites that differ.

        Warns:
            CalibrationWarning: the model was checked by `rd.check`, but not for questions like this one, or it failed.
        """
        _refuse_auto(solver)
        count = _flow_answers.count(n)
        if isinstance(given, Batch):
            return self._batch(count, given, of=of, sites=sites, solver=solver, key=key)
        question = site_question(self.layout, given, of, sites)
        for sentence in of_family(self.calibration, question.shares):
            warnings.warn(sentence, CalibrationWarning, stacklevel=3)  # equinox wraps methods
        key_shared, key_own = jr.split(as_key(key))
        draws = self._shared(count, question, solver, key_shared)
        if set(question.of) & set(self.layout.own):
            draws |= self._own(count, question, draws, solver, key_own)
        return {name: draws[name] for name in self.layout.names if name in question.of}

    def log_prob(
        self,
        values: Mapping[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        solver: AbstractSolver | None = None,
    ) -> np.ndarray:
        """Log density `(n,)` of values `(n, *shape)` of all that is shared and not given, and, where named, of own
        variables `(n, sites, *shape)`; arguments otherwise as in `sample`.

        Raises:
            QueryError: own variables without the shared ones, which they depend on, a name that is both, or sites that
                are composed, which has draws alone.
            DataError: a value of the wrong shape or type.
        """
        _refuse_auto(solver)
        names = [name for name in values if name in self.layout.own]
        question = site_question(self.layout, given, list(values) or None, None)
        missing = [name for name in self.layout.shared if name not in values and name not in question.shared]
        if names and missing:
            raise QueryError(f"'{names[0]}' depends on '{missing[0]}'; `values` or `given` must have it")
        known = {name: np.asarray(values[name], np.float32) for name in values if name not in names}
        if known and question.seen and self.method == "composition":
            raise QueryError("composition draws what is shared and has no density of it; fit with another `method`")
        model, seen = self.given(question) if question.seen and known else (self.site, {})
        rows = len(np.asarray(next(iter(values.values()))))
        total = np.zeros(rows)
        if known:
            total = model.log_prob(known, given={**question.shared, **seen}, solver=solver)
        if names:
            shared = {**{k: np.broadcast_to(v, (rows, *np.shape(v))) for k, v in question.shared.items()}, **known}
            own = {name: np.asarray(values[name], np.float32).reshape(-1, *self.layout[name].shape) for name in names}
            total = total + self._own_density(own, question, shared, solver).reshape(rows, -1).sum(axis=1)
        return total

    def _own_density(
        self,
        own: Mapping[str, np.ndarray],
        question: SiteQuestion,
        shared: Mapping[str, np.ndarray],
        solver: AbstractSolver | None,
    ) -> np.ndarray:
        """Log densities of own variables, one for every draw of what is shared and every site."""
        narrow = self.own if set(own) == set(self._own_parameters) else None
        complete = question.complete & (narrow is not None)
        rows = len(next(iter(own.values()))) // question.count
        found = np.empty((rows, question.count))
        ways: list[tuple[np.ndarray, Callable[..., np.ndarray]]] = [(~complete, self.site.log_prob)]
        if narrow is not None:
            ways.append((complete, partial(narrow.density, self.site.scaling)))
        for which, ask in ways:
            if not which.any():
                continue
            some = np.flatnonzero(which)
            split = {k: v.reshape(rows, question.count, *v.shape[1:])[:, some] for k, v in own.items()}
            values = {k: v.reshape(-1, *v.shape[2:]) for k, v in split.items()}
            each = ask(values, given=question.rows(shared, some), solver=solver)
            found[:, some] = each.reshape(rows, len(some))
        return found

    @property
    def _own_parameters(self) -> list[str]:
        return [name for name in self.layout.own if self.layout[name].kind == "parameter"]

    def _batch(self, n: int, given: Batch, *, key: Key, **rest: Any) -> dict[str, np.ndarray]:
        """One question after the other: each has its own sites, and their number."""
        lengths = {len(v.points if isinstance(v, At) else v) for v in given.values()}
        if len(lengths) != 1:
            raise DataError(f"every variable in a Batch needs the same number of observations, got {sorted(lengths)}")
        root, count = as_key(key), lengths.pop()
        parts = [self.sample(n, given=observed_at(given, i), key=jr.fold_in(root, i), **rest) for i in range(count)]
        return {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    def _shared(
        self, n: int, question: SiteQuestion, solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> dict[str, np.ndarray]:
        """Draws of everything shared, what is given repeated."""
        names = self.layout.shared
        known = {k: np.asarray(v, np.float32) for k, v in question.shared.items()}
        known = {k: v for k, v in known.items() if not np.isnan(v).any()}
        if len(known) == len(names):
            return {name: np.broadcast_to(known[name], (n, *self.layout[name].shape)) for name in names}
        asked = [name for name in names if name not in known]
        if not question.seen:  # nothing is known of any site
            found = self.site.sample(n, given=question.shared, of=asked, solver=solver, key=key)
        elif self.method == "composition":
            found = compose(self.site, question, n, key=key)
        else:
            model, seen = self.given(question)
            found = model.sample(n, given={**question.shared, **seen}, of=asked, solver=solver, key=key)
        rest = {name: np.broadcast_to(value, (n, *self.layout[name].shape)) for name, value in known.items()}
        return {**found, **rest}

    def _own(
        self,
        n: int,
        question: SiteQuestion,
        shared: Mapping[str, np.ndarray],
        solver: AbstractSolver | None,
        key: PRNGKeyArray,
    ) -> dict[str, np.ndarray]:
        """Draws of what sites have, given the draws of what they share; site by site in blocks."""
        of, which = question.points(), question.open_sites()
        own = self.own if set(of) <= set(self._own_parameters) else None
        complete = question.complete[which] & (own is not None)
        ways = [(which[~complete], self._from_site)]
        if own is not None:
            ways.append((which[complete], partial(own.draw, self.site.scaling)))
        at_once = max(1, PAIRS // n)
        found: dict[str, np.ndarray] = {}
        for sites, ask in ways:
            for start in range(0, len(sites), at_once):
                some = sites[start : start + at_once]
                draws = ask(question.rows(shared, some), of, solver, jr.fold_in(key, int(some[0])))
                for name, values in draws.items():
                    block = values.reshape(n, len(some), *values.shape[1:])
                    full = found.setdefault(name, np.full((n, question.count, *block.shape[2:]), np.nan, np.float32))
                    full[:, some] = block
        return {name: question.told(name, values) for name, values in found.items()}

    def _from_site(
        self, given: Batch, of: Mapping[str, Any], solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> dict[str, np.ndarray]:
        """A draw of own variables for every row; of functions after own parameters, where the surrogate predicts."""
        functions = {name: how for name, how in of.items() if name in self.layout.functions}
        if not (functions and isinstance(self.surrogate, Surrogate) and self.surrogate.predicts):
            return _first(self.site.sample(1, given=given, of=of, solver=solver, key=key))
        key_own, key_data = jr.split(key)
        known = self._drawn_parameters(given, solver, key_own)
        found = self.surrogate.draw(self.site.scaling, Batch(known), functions, solver, key_data)
        return {name: found[name] if name in functions else known[name] for name in of}

    def _drawn_parameters(
        self, given: Batch, solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> dict[str, np.ndarray]:
        """All parameters of every row, drawn where they are not given."""
        rows, own = len(next(iter(given.values()))), self._own_parameters
        blank = {name: np.full((rows, *self.layout[name].shape), np.nan, np.float32) for name in own}
        known = {name: np.array(given.get(name, blank.get(name))) for name in (*self.layout.shared, *own)}
        left = np.isnan(np.concatenate([known[name].reshape(rows, -1) for name in known], axis=1)).any(axis=1)
        if left.any():
            drawn = self.site.sample(1, given=Batch(observed_at(given, left)), of=own, solver=solver, key=key)
            for name, values in _first(drawn).items():
                known[name][left] = values
        return known


def _refuse_auto(solver: AbstractSolver | None) -> None:
    if isinstance(solver, Auto):
        raise QueryError(
            "Auto measures one model, and a hierarchy is several that read each other's draws; name a solver, or ask "
            "`model.site` about a single site"
        )


def _first(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The only draw of every row."""
    return {name: values[:, 0] for name, values in draws.items()}


def hierarchical(
    layout: Layout,
    *,
    net: PlateTransformer | None = None,
    site: AbstractArchitecture | None = None,
    flow: AbstractArchitecture | None = None,
    path: Path | None = None,
    method: Method = "likelihood",
    counts: tuple[int, int] = (1, 200),
    key: Key = 0,
) -> HierarchicalModel:
    """A model of a plate, untrained: everything that is shared and everything that any number of sites has.

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
        counts: fewest and most sites in training; their number is log-uniform. Other numbers may be asked.
        key: seed of the first weights.

    Raises:
        DataError: the layout has no plate, nothing is shared, or settings that do not fit.
    """
    _refuse(layout, method, counts)
    keys = jr.split(as_key(key), 5)
    of_site = site or (Simformer(depth=3) if layout.functions else ResMLP(128, 3))
    settings = net or PlateTransformer()
    together, k = _shared_layout(layout, settings.features), sum(layout[name].size for name in layout.shared)
    return HierarchicalModel(
        layout=layout,
        method=method,
        counts=(int(counts[0]), int(counts[1])),
        settings=settings,
        record=Record(),
        site=joint(layout, net=of_site, path=path, roles=one_site_roles(composed=method == "composition"), key=keys[0]),
        own=site_parameter_model(layout, path, key=keys[4]),
        surrogate=surrogate_of(layout, site, path, key=keys[1]),
        reader=_built(settings, layout, k, key=keys[2]),
        line=SiteRegression.nothing(layout.only_own, k),
        shared=joint(
            together,
            net=flow or ResMLP(96, 2),
            path=path,
            roles=Known(shared_roles(k), (summary_of(layout),)),
            key=keys[3],
        ),
    )


def _refuse(layout: Layout, method: Method, counts: tuple[int, int]) -> None:
    if not isinstance(layout, Layout) or not layout.plate:
        raise DataError("rd.hierarchical needs the layout of a problem whose prior has a plate: rd.Plate(name, {...})")
    if not layout.shared:
        raise DataError(f"nothing is shared by the sites of '{layout.plate}'; ask one site at a time: rd.joint(layout)")
    if any(layout[name].axes or layout[name].kind == "place" for name in layout.shared):
        raise DataError("what sites share must be numbers; functions that all sites share are not offered yet")
    if method not in METHODS:
        raise DataError(f"`method` is one of {', '.join(METHODS)}, got {method!r}")
    if not 1 <= counts[0] <= counts[1]:
        raise DataError(f"`counts` are the fewest and most sites in training, at least 1, got {counts}")


def summary_of(layout: Layout) -> str:
    """The name of what all sites of a plate say."""
    return f"{layout.plate}.summary"


def _shared_layout(layout: Layout, features: int) -> Layout:
    """What is shared, and what all sites say about it: a layout without a plate."""
    shared = (dataclasses.replace(layout[name], plate="") for name in layout.shared)
    return Layout((*shared, Variable(summary_of(layout), (features,), kind="data")))


@eqx.filter_jit
def _built(settings: PlateTransformer, layout: Layout, shared: int, key: PRNGKeyArray | None = None) -> SiteReader:
    return settings.reader(layout.only_own, shared, key=jr.key(0) if key is None else key)


@eqx.filter_jit
def _read(reader: SiteReader, z: Array, roles: Array, runs: Runs, line: SiteRegression) -> Summary:
    return reader(z, roles, runs, line)
