"""Training a hierarchical model: one site first, then sets of sites that cost no simulation.

    1  site        every row of (g, eta, y), all questions about one site; eta given (g, y) once more        (`_narrow`)
    2  surrogate   y given (g, eta)                                           (`_surrogate`)
    3  sets        g, eta_1..S and y_1..S drawn from prior and surrogate      (`_sets`)
    4  shared      g given sets of S sites,  log S uniform: log density of the Gaussian (m, s^2), and a flow of what
                   is left,   loss = mean (g - m)^2 / (2 s^2) + log s  +  flow loss of r = (g - m) / s

(TFMPE, arXiv 2604.20723, section 3.) Every chunk of steps has sets of its own, and every step sees windows of them.
Steps 2 and 3 are left out where simulations of many sites are given.
"""

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import DataError, listed
from retrodict._types import Key, Scalar, as_key
from retrodict.models import FlowModel, HierarchicalModel, Record
from retrodict.nets._plate import SiteRegression, plain, runs_of
from retrodict.roles import ABSENT, GIVEN
from retrodict.training._checkpoint import Checkpoint
from retrodict.training._fit_flow import fit_rows
from retrodict.training._fit_site_parameters import fit_site_parameters, location_scale_loss
from retrodict.training._fit_site_surrogate import fit_surrogate
from retrodict.training._loop import History, Trainer, TrainingBudget, rows_loss
from retrodict.training._site_regression import SetStatistics, fit_site_regression, random_features_of
from retrodict.training._site_sets import Sets, SyntheticSets, simulated_sets, single_sites
from retrodict.training._source import GeneratedRows
from retrodict.training._table import LEAST
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout


SETS = 2048  # drawn anew for every chunk of steps
POOLS = 4  # as many sets that a regression is made of
JUDGES = 128  # sets that only validate
PATCHY = 0.3  # share of sets of which parts are not observed


def fit_plate(
    model: HierarchicalModel,
    sims: Mapping[str, Any],
    pace: TrainingBudget,
    *,
    key: Key,
    validation_fraction: float,
    validation: Mapping[str, Any] | None,
    patience: int | None,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[HierarchicalModel, History]:
    """`fit` of a hierarchical model; arguments and errors are those of `fit`."""
    keys = jr.split(as_key(key), 7)
    rng = np.random.default_rng(np.asarray(jr.key_data(keys[0])))
    _refuse(model, sims)
    train, judge = _split(model, sims, rng, validation_fraction) if validation is None else (sims, validation)
    rows, judged = (single_sites(model.layout, part) for part in (train, judge))
    how: dict[str, Any] = {"patience": None, "progress": progress, "checkpoint": checkpoint}
    model, before = _of_one_site(model, rows, judged, _of_rows(pace), (keys[1], keys[6], keys[2]), how)
    first = before["site"]
    count = len(rows[model.layout.names[0]])
    if model.method == "composition":
        return _recorded(model, count, first, before), first
    source = SyntheticSets(model, sims, rows) if model.method == "likelihood" else None
    if source is None:
        sets, judges = simulated_sets(model, train), simulated_sets(model, judge)
    else:
        sets, judges = source.draw(SETS, keys[3]), source.draw(JUDGES, jr.fold_in(keys[3], 1))
    pace = _of_batches(pace)
    model, trainer = _of_sets(model, source, sets, judges, pace, keys[4])
    key_train, key_validation = jr.split(keys[5])
    parts = (model, sets, judges, pace, patience, key_train, key_validation)
    watch: dict[str, Any] = {"patience": patience, "shown": progress, "what": "all sites", "fresh": source is not None}
    watch["checkpoint"] = None if checkpoint is None else Checkpoint(checkpoint, "all sites", *parts)
    weights, history = trainer.run(key_train, key_validation, **watch)
    history = dataclasses.replace(history, before=before)
    return _recorded(_with(model, weights), count, history, before), history


def _of_one_site(
    model: HierarchicalModel,
    rows: Mapping[str, np.ndarray],
    judged: Mapping[str, np.ndarray],
    pace: TrainingBudget,
    keys: tuple[PRNGKeyArray, ...],
    how: Mapping[str, Any],
) -> tuple[HierarchicalModel, dict[str, History]]:
    """The model with its parts of one site trained, and their histories."""
    site, first = fit_rows(model.site, rows, pace, key=keys[0], validation=judged, what="one site", **how)
    model, before = dataclasses.replace(model, site=site, shared=_scaled(model, site)), {"site": first}
    if model.own is not None:
        own, before["own"] = fit_site_parameters(model.own, site, rows, judged, pace, key=keys[1], **how)
        model = dataclasses.replace(model, own=own)
    if model.method == "likelihood":
        found, before["surrogate"] = fit_surrogate(model.surrogate, site, rows, judged, pace, key=keys[2], **how)
        model = dataclasses.replace(model, surrogate=found)
    return model, before


def _of_sets(
    model: HierarchicalModel,
    source: SyntheticSets | None,
    sets: Sets,
    judges: Sets,
    pace: TrainingBudget,
    key: PRNGKeyArray,
) -> tuple[HierarchicalModel, Trainer]:
    """The model with its line, and what trains the rest of it."""
    key_pools, key_line, key_sets = jr.split(key, 3)
    buckets = _buckets(*model.counts, sets.own.shape[1])
    pools = [sets] if source is None else [source.draw(SETS, jr.fold_in(key_pools, i)) for i in range(POOLS)]
    lined = dataclasses.replace(model, line=_line(model, pools, model.counts[1], key_line))
    train: Any = sets
    if source is not None:
        train = GeneratedRows(lambda done: source.draw(SETS, jr.fold_in(key_sets, done)) if done else sets, SETS)
    weights = eqx.filter((lined.reader, lined.shared.net), eqx.is_inexact_array)
    return lined, Trainer(weights, SetsLoss.of(lined, buckets), train, judges, pace)


def _with(model: HierarchicalModel, weights: Any) -> HierarchicalModel:
    """The model with other numbers in what reads sites and in the flow of what they share."""
    reader, net = eqx.combine(weights, (model.reader, model.shared.net))
    return dataclasses.replace(model, reader=reader, shared=dataclasses.replace(model.shared, net=net))


# the loss of sets -----------------------------------------------------------------------------------------------------


class Bucket(NamedTuple):
    """Sets of more than `low` and at most `high` sites, read with `high` slots, and their share of a batch."""

    low: int
    high: int
    share: float


def _buckets(fewest: int, most: int, available: int) -> tuple[Bucket, ...]:
    """Numbers of sites in steps of four: a log-uniform law whose small sets do not pay for large ones."""
    most = min(most, available)
    fewest = min(fewest, most)
    ends = [most]
    while ends[-1] // 4 > max(fewest, 4):
        ends.append(ends[-1] // 4)
    found, whole = [], np.log((most + 1) / fewest)
    for high, low in zip(ends, [*ends[1:], fewest - 1], strict=True):
        found.append(Bucket(low, high, float(np.log((high + 1) / (low + 1)) / whole)))
    return tuple(found)


class SetsLoss(eqx.Module):
    """The loss of a batch of sets, a part of it for every bucket of numbers of sites."""

    layout: Layout = eqx.field(static=True)
    buckets: tuple[Bucket, ...] = eqx.field(static=True)
    line: SiteRegression
    nets: tuple[Any, Any]  # the form of the reader and of the network of the flow, without their weights
    shared: FlowModel

    @classmethod
    def of(cls, model: HierarchicalModel, buckets: tuple[Bucket, ...]) -> "SetsLoss":
        """The loss of a model, whatever its weights are."""
        nets = eqx.filter((model.reader, model.shared.net), eqx.is_inexact_array, inverse=True)
        shared = dataclasses.replace(model.shared, net=nets[1], record=Record())
        return cls(model.layout, buckets, model.line, nets, shared)

    def __call__(self, weights: Any, sets: Sets, key: PRNGKeyArray) -> Scalar:
        reader, net = eqx.combine(weights, self.nets)
        flow = dataclasses.replace(self.shared, net=net)
        n, start, total = len(sets.shared), 0, jnp.zeros(())
        own = self.layout.only_own
        runs, data = runs_of(own), ~own.is_parameter
        for i, (low, high, share) in enumerate(self.buckets):
            size = n - start if i == len(self.buckets) - 1 else max(1, round(share * n))
            some = Sets(*(part[start : start + size] for part in sets))

            def one(row: Sets, key: PRNGKeyArray, u: Scalar, low: int = low, high: int = high) -> Scalar:
                key_sites, key_flow = jr.split(key)
                z, roles = _window(row.own, jnp.asarray(data), key_sites, low, high)
                found = reader(z, roles, runs, self.line)
                return location_scale_loss(flow, row.shared, found.center, found.width, found.features, key_flow, u)

            total = total + size / n * rows_loss(one, some, jr.fold_in(key, i))
            start += size
        return total


def _line(model: HierarchicalModel, pools: list[Sets], most: int, key: PRNGKeyArray) -> SiteRegression:
    """Center and width of what is shared, from sets of 0 to `most` sites."""
    found, shared, which = [], [], []
    for i, sets in enumerate(pools):
        for j, bucket in enumerate((Bucket(0, 0, 0.0), *_buckets(1, most, sets.own.shape[1]))):
            found.append(_seen(model.layout, sets.own, jr.fold_in(jr.fold_in(key, i), j), bucket.low, bucket.high))
            shared.append(sets.shared)
            which.append(np.arange(len(sets.own)))
    moments, basis, of_number, n = (
        np.concatenate([np.asarray(p, np.float64) for p in part]) for part in zip(*found, strict=True)
    )
    truth = np.concatenate([np.asarray(part, np.float64) for part in shared])
    seen = SetStatistics(moments, basis, of_number, n, np.concatenate(which))
    return fit_site_regression(seen, truth, random_features_of(moments, n, model.line.bumps))


@partial(jax.jit, static_argnums=(0, 3, 4))
def _seen(layout: Layout, sites: Array, key: PRNGKeyArray, low: int, high: int) -> tuple[Array, Array, Array, Array]:
    """What the regressions read of sets of sites."""
    own = layout.only_own
    runs, data = runs_of(own), jnp.asarray(~own.is_parameter)

    def one(own: Array, key: PRNGKeyArray) -> tuple[Array, Array, Array, Array]:
        seen = plain(*_window(own, data, key, low, high, 0.0), runs)
        return seen.moments, seen.basis, seen.of_number, seen.n

    return jax.vmap(one)(sites, jr.split(key, len(sites)))


def _window(
    own: Array, data: Array, key: PRNGKeyArray, low: int, high: int, patchy: float = PATCHY
) -> tuple[Array, Array]:
    """Neighboring sites of a set, more than `low` and up to `high` of them, their data given, with the probability
    `patchy` in part."""
    key_start, key_count, key_patchy, key_share, key_which, key_own = jr.split(key, 6)
    which = (jr.randint(key_start, (), 0, len(own)) + jnp.arange(high)) % len(own)
    z = own[which]
    count = jnp.floor(jnp.exp(jr.uniform(key_count, minval=jnp.log(low + 1.0), maxval=jnp.log(high + 1.0))))
    part = jr.bernoulli(key_patchy, patchy)
    shares = jr.uniform(key_share, (2,))
    seen = ~part | (jr.uniform(key_which, z.shape) < shares[0])
    # own parameters are rarely known, and then of some sites
    known = part & (shares[1] < 0.2) & (jr.uniform(key_own, (len(z), 1)) < 5.0 * shares[1])
    given = jnp.where(data, seen, known) & (jnp.arange(high) < count)[:, None] & ~jnp.isnan(z)
    return jnp.nan_to_num(z), jnp.where(given, GIVEN, ABSENT)


def _scaled(model: HierarchicalModel, site: FlowModel) -> FlowModel:
    """The model of what is shared, in the scale of the simulations."""
    own = site.scaling.only(Layout(tuple(site.layout[name] for name in site.layout.shared)))
    k, scaling = own.layout.size, Scaling.identity(model.shared.layout)
    tails = jax.tree.map(lambda plain, ours: plain.at[:k].set(ours), scaling.robust, own.robust)
    return dataclasses.replace(model.shared, scaling=dataclasses.replace(scaling, robust=tails))


def _of_rows(pace: TrainingBudget) -> TrainingBudget:
    """One site is learned as other models are: more rows a step, as many steps."""
    return pace._replace(batch_size=4 * pace.batch_size)


def _of_batches(pace: TrainingBudget) -> TrainingBudget:
    """A quarter of the rows a step, half of the rate: with the whole of it the flow of a shared scale came out dead, a
    posterior 2.4 times too wide (H-Gaussian-Linear-Uniform, 600 steps; 1.05 times with half)."""
    return pace._replace(learning_rate=0.5 * pace.learning_rate)


def _split(
    model: HierarchicalModel, sims: Mapping[str, Any], rng: np.random.Generator, fraction: float
) -> tuple[Any, Any]:
    names = list(sims)
    n = len(np.asarray(sims[names[0]]))
    counts = np.ones(n, int)
    if sites := getattr(sims, "sites", 0):  # a row of many sites is many rows of one
        own = np.asarray(sims[model.layout.own[0]]).reshape(n, sites, -1)
        counts = (~np.isnan(own).all(axis=2)).sum(axis=1)
    order = rng.permutation(n)
    least = max(2, 1 + int(np.searchsorted(np.cumsum(counts[order]), LEAST)))
    held_out = max(least, round(fraction * n))
    if counts[order[held_out:]].sum() < LEAST:
        raise DataError(f"training needs at least {2 * LEAST} simulations of a site, got {counts.sum()}")

    def part(which: np.ndarray) -> Any:
        arrays = {name: np.asarray(sims[name])[which] for name in names}
        if dataclasses.is_dataclass(sims) and not isinstance(sims, type):
            return dataclasses.replace(sims, arrays=arrays)
        return arrays

    return part(order[held_out:]), part(order[:held_out])


def _refuse(model: HierarchicalModel, sims: Mapping[str, Any]) -> None:
    if not isinstance(sims, Mapping):
        raise DataError(f"simulations are a mapping from name to array, got {type(sims).__name__}")
    for name in model.layout.names:
        if name not in sims:
            raise DataError(f"'{name}' is missing in the simulations, which have {listed(sims)}")
    if model.method in ("direct", "posterior") and not getattr(sims, "sites", 0):
        raise DataError(
            f"method='{model.method}' learns from simulations of many sites: rd.simulate(problem, n, sites=50, key=0)"
        )
    own = [name for name in model.layout.functions if model.layout[name].kind == "parameter"]
    if own:
        raise DataError(f"'{own[0]}' is a function that every site has; own parameters must be numbers so far")


def _recorded(
    model: HierarchicalModel, rows: int, history: History, before: Mapping[str, History]
) -> HierarchicalModel:
    record = Record(
        simulations=model.record.simulations + rows,
        steps=model.record.steps + int(history.step[-1]),
        seconds=model.record.seconds + history.seconds + sum(h.seconds for h in before.values() if h is not history),
        validation_loss=history.best,
    )
    return dataclasses.replace(model, record=record)
