"""Training of a hierarchical model: one site first, then sets of sites, which cost no simulation.

    1  site        every row of (g, eta, y), all queries about one site          (`_fit_flow`)
                   eta given (g, y) once more, more precisely                    (`_fit_site_parameters`)
    2  surrogate   y given (g, eta)                                              (`_fit_site_surrogate`)
    3  sets        g, eta_1..S and y_1..S drawn from prior and surrogate         (`_site_sets`)
    4  shared      g given sets of S sites, log S uniform: a Gaussian density (m, s^2), and a flow of the residual,
                   loss = mean (g - m)^2 / (2 s^2) + log s  +  flow loss of r = (g - m) / s

(TFMPE, arXiv 2604.20723, section 3.) Every chunk of steps has sets of its own, and every step reads windows of them.
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
from retrodict.nets._plate import SiteRegression, runs_of, site_moments
from retrodict.query.tokens import check_simulations
from retrodict.roles import ABSENT, GIVEN
from retrodict.training._fit_flow import fit_rows
from retrodict.training._fit_site_parameters import fit_site_parameters, location_scale_loss
from retrodict.training._fit_site_surrogate import fit_surrogate
from retrodict.training._loop import History, TrainingBudget, rows_loss
from retrodict.training._run import AbstractLoss, extended, train
from retrodict.training._site_regression import SetStatistics, fit_site_regression, random_features_of
from retrodict.training._site_sets import Sets, SyntheticSets, simulated_sets, single_sites
from retrodict.training._source import GeneratedRows
from retrodict.training._table import MIN_ROWS
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout


SETS_PER_CHUNK = 2048  # drawn anew for every chunk of steps
REGRESSION_POOLS = 4  # of as many sets each, for the regression of center and width
VALIDATION_SETS = 128
PARTIAL_SHARE = 0.3  # of the sets, in which some data are not observed


def fit_plate(
    model: HierarchicalModel,
    sims: Mapping[str, Any],
    budget: TrainingBudget,
    *,
    key: Key,
    validation_fraction: float,
    validation: Mapping[str, Any] | None,
    patience: int | None,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[HierarchicalModel, History]:
    """Trains a hierarchical model; arguments and errors are those of `fit`."""
    keys = jr.split(as_key(key), 7)
    rng = np.random.default_rng(np.asarray(jr.key_data(keys[0])))
    sims = _checked(model, sims)
    parts = _split(model, sims, rng, validation_fraction) if validation is None else (sims, validation)
    rows, validation_rows = (single_sites(model.layout, group) for group in parts)
    settings: dict[str, Any] = {"progress": progress, "checkpoint": checkpoint}
    site_keys = (keys[1], keys[6], keys[2])
    model, before = _fit_one_site(model, rows, validation_rows, _site_budget(budget), site_keys, settings)
    count = len(rows[model.layout.names[0]])
    if model.method == "composition":
        history = before["site"]
        return _recorded(model, count, history, before), history
    source = SyntheticSets(model, sims, rows) if model.method == "likelihood" else None
    if source is None:
        sets, validation_sets = (simulated_sets(model, group) for group in parts)
    else:
        sets = source.draw(SETS_PER_CHUNK, keys[3])
        validation_sets = source.draw(VALIDATION_SETS, jr.fold_in(keys[3], 1))
    key_pools, key_regression, key_sets = jr.split(keys[4], 3)
    model = _with_regression(model, source, sets, key_pools, key_regression)
    key_train, key_validation = jr.split(keys[5])
    model, history = train(
        model,
        SetsLoss.of(model, _buckets(*model.counts, sets.own.shape[1])),
        sets if source is None else _generated(source, sets, key_sets),
        validation_sets,
        _sets_budget(budget),
        keys=(key_train, key_validation),
        patience=patience,
        label="all sites",
        identity=sets,
        fresh=source is not None,
        **settings,
    )
    history = dataclasses.replace(history, before=before)
    return _recorded(model, count, history, before), history


def _fit_one_site(
    model: HierarchicalModel,
    rows: Mapping[str, np.ndarray],
    validation: Mapping[str, np.ndarray],
    budget: TrainingBudget,
    keys: tuple[PRNGKeyArray, PRNGKeyArray, PRNGKeyArray],
    settings: Mapping[str, Any],
) -> tuple[HierarchicalModel, dict[str, History]]:
    """Returns the model with its models of one site trained, and their histories."""
    key_site, key_own, key_surrogate = keys
    settings = {"patience": None, **settings}
    site, history = fit_rows(model.site, rows, budget, key=key_site, validation=validation, what="one site", **settings)
    model, before = dataclasses.replace(model, site=site, shared=_scaled_shared(model, site)), {"site": history}
    if model.own is not None:
        parameters, before["own"] = fit_site_parameters(
            model.own, site, rows, validation, budget, key=key_own, **settings
        )
        model = dataclasses.replace(model, own=parameters)
    if model.method == "likelihood":
        surrogate, before["surrogate"] = fit_surrogate(
            model.surrogate, site, rows, validation, budget, key=key_surrogate, **settings
        )
        model = dataclasses.replace(model, surrogate=surrogate)
    return model, before


def _generated(source: SyntheticSets, sets: Sets, key: PRNGKeyArray) -> GeneratedRows:
    """Returns a source of new sets for every chunk of steps, the first of which is `sets`."""

    def draw(done: int) -> Sets:
        return source.draw(SETS_PER_CHUNK, jr.fold_in(key, done)) if done else sets

    return GeneratedRows(draw, SETS_PER_CHUNK)


def _site_budget(budget: TrainingBudget) -> TrainingBudget:
    """Returns the budget of one site, the usual one of a flow: the batch size of `fit` counts sets of sites."""
    return budget._replace(batch_size=4 * budget.batch_size)


def _sets_budget(budget: TrainingBudget) -> TrainingBudget:
    """Returns the budget of sets: at the whole learning rate the flow of a shared scale may fail to train."""
    return budget._replace(learning_rate=0.5 * budget.learning_rate)


def _scaled_shared(model: HierarchicalModel, site: FlowModel) -> FlowModel:
    """Returns the model of the shared variables with the scaling of the model of one site."""
    site_scaling = site.scaling.only(Layout(tuple(site.layout[name] for name in site.layout.shared)))
    features = model.shared.layout.size - site_scaling.layout.size
    powers = None if site_scaling.powers is None else np.pad(site_scaling.powers, ((0, features), (0, 0)))
    scaling = Scaling(model.shared.layout, site_scaling.robust.extended(features), powers=powers)
    return dataclasses.replace(model.shared, scaling=scaling)


def _recorded(
    model: HierarchicalModel, count: int, history: History, before: Mapping[str, History]
) -> HierarchicalModel:
    return dataclasses.replace(model, record=extended(model.record, count, history, before.values()))


# simulations ----------------------------------------------------------------------------------------------------------


def _split(
    model: HierarchicalModel, sims: Mapping[str, Any], rng: np.random.Generator, fraction: float
) -> tuple[Any, Any]:
    """Returns training and validation simulations."""
    names = list(sims)
    n = len(np.asarray(sims[names[0]]))
    counts = np.ones(n, int)
    if sites := getattr(sims, "sites", 0):  # a row of many sites is many rows of one
        values = np.asarray(sims[model.layout.own[0]]).reshape(n, sites, -1)
        counts = (~np.isnan(values).all(axis=2)).sum(axis=1)
    order = rng.permutation(n)
    min_rows = max(2, 1 + int(np.searchsorted(np.cumsum(counts[order]), MIN_ROWS)))
    held_out = max(min_rows, round(fraction * n))
    if counts[order[held_out:]].sum() < MIN_ROWS:
        raise DataError(f"training needs at least {2 * MIN_ROWS} simulations of a site, got {counts.sum()}")

    def part(rows: np.ndarray) -> Any:
        arrays = {name: np.asarray(sims[name])[rows] for name in names}
        if dataclasses.is_dataclass(sims) and not isinstance(sims, type):
            return dataclasses.replace(sims, arrays=arrays)
        return arrays

    return part(order[held_out:]), part(order[:held_out])


def _checked(model: HierarchicalModel, sims: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns simulations as a mapping, and refuses those that the model cannot learn from."""
    sims = check_simulations(sims)
    for name in model.layout.names:
        if name not in sims:
            raise DataError(f"'{name}' is missing in the simulations, which have {listed(sims)}")
    if model.method in ("direct", "posterior") and not getattr(sims, "sites", 0):
        raise DataError(
            f"method='{model.method}' learns from simulations of many sites: rd.simulate(problem, n, sites=50, key=0)"
        )
    functions = [name for name in model.layout.functions if model.layout[name].kind == "parameter"]
    if functions:
        raise DataError(f"'{functions[0]}' is a function that every site has; own parameters must be numbers so far")
    return sims


# the loss of sets -----------------------------------------------------------------------------------------------------


class Bucket(NamedTuple):
    """The sets of more than `low` and at most `high` sites, read with `high` slots, and their share of a batch."""

    low: int
    high: int
    share: float


def _buckets(min_sites: int, max_sites: int, available: int) -> tuple[Bucket, ...]:
    """Returns buckets whose limits grow by factors of four, with a log-uniform law of the number of sites: small sets
    are not read with the slots of large ones."""
    max_sites = min(max_sites, available)
    min_sites = min(min_sites, max_sites)
    highs = [max_sites]
    while highs[-1] // 4 > max(min_sites, 4):
        highs.append(highs[-1] // 4)
    buckets, log_range = [], np.log((max_sites + 1) / min_sites)
    for high, low in zip(highs, [*highs[1:], min_sites - 1], strict=True):
        buckets.append(Bucket(low, high, float(np.log((high + 1) / (low + 1)) / log_range)))
    return tuple(buckets)


class SetsLoss(AbstractLoss[HierarchicalModel]):
    """The loss of a batch of sets, of which every bucket of numbers of sites gets a part."""

    layout: Layout = eqx.field(static=True)
    buckets: tuple[Bucket, ...] = eqx.field(static=True)
    line: SiteRegression
    nets: tuple[Any, Any]  # the reader of sites and the network of the flow, without their weights
    shared: FlowModel

    @classmethod
    def of(cls, model: HierarchicalModel, buckets: tuple[Bucket, ...]) -> "SetsLoss":
        form = cls.form_of(model)
        shared = dataclasses.replace(form.shared, record=Record())
        return cls(model.layout, buckets, model.line, cls.parts(form), shared)

    @staticmethod
    def parts(model: HierarchicalModel) -> tuple[Any, Any]:
        return model.reader, model.shared.net

    @staticmethod
    def with_parts(model: HierarchicalModel, parts: tuple[Any, Any]) -> HierarchicalModel:
        reader, net = parts
        return dataclasses.replace(model, reader=reader, shared=dataclasses.replace(model.shared, net=net))

    def __call__(self, weights: Any, sets: Sets, key: PRNGKeyArray) -> Scalar:
        reader, net = eqx.combine(weights, self.nets)
        flow = dataclasses.replace(self.shared, net=net)
        n, start, total = len(sets.shared), 0, jnp.zeros(())
        layout = self.layout.only_own
        runs, is_data = runs_of(layout), jnp.asarray(~layout.is_parameter)
        for i, (low, high, share) in enumerate(self.buckets):
            size = n - start if i == len(self.buckets) - 1 else max(1, round(share * n))
            bucket = Sets(*(array[start : start + size] for array in sets))

            def set_loss(row: Sets, key: PRNGKeyArray, u: Scalar, low: int = low, high: int = high) -> Scalar:
                key_sites, key_flow = jr.split(key)
                z, roles = _window(row.own, is_data, key_sites, low, high)
                summary = reader(z, roles, runs, self.line)
                return location_scale_loss(
                    flow, row.shared, summary.center, summary.width, summary.features, key_flow, u
                )

            total = total + size / n * rows_loss(set_loss, bucket, jr.fold_in(key, i))
            start += size
        return total


# the regression of center and width -----------------------------------------------------------------------------------


def _with_regression(
    model: HierarchicalModel,
    source: SyntheticSets | None,
    sets: Sets,
    key_pools: PRNGKeyArray,
    key_regression: PRNGKeyArray,
) -> HierarchicalModel:
    """Returns the model with its regression of center and width, from `sets` or from pools of a source."""
    pools = [sets]
    if source is not None:
        pools = [source.draw(SETS_PER_CHUNK, jr.fold_in(key_pools, i)) for i in range(REGRESSION_POOLS)]
    return dataclasses.replace(model, line=_regression(model, pools, model.counts[1], key_regression))


def _regression(model: HierarchicalModel, pools: list[Sets], max_sites: int, key: PRNGKeyArray) -> SiteRegression:
    """Returns the regression of center and width of the shared elements, from sets of 0 to `max_sites` sites."""
    inputs, targets, set_numbers = [], [], []
    for i, sets in enumerate(pools):
        for j, bucket in enumerate((Bucket(0, 0, 0.0), *_buckets(1, max_sites, sets.own.shape[1]))):
            key_bucket = jr.fold_in(jr.fold_in(key, i), j)
            inputs.append(_regression_inputs(model.layout, sets.own, key_bucket, bucket.low, bucket.high))
            targets.append(np.asarray(sets.shared, np.float64))
            set_numbers.append(np.arange(len(sets.own)))
    moments, basis, of_number, n = (
        np.concatenate([np.asarray(array, np.float64) for array in column]) for column in zip(*inputs, strict=True)
    )
    rows = SetStatistics(moments, basis, of_number, n, np.concatenate(set_numbers))
    return fit_site_regression(rows, np.concatenate(targets), random_features_of(moments, n, model.line.bumps))


@partial(jax.jit, static_argnums=(0, 3, 4))
def _regression_inputs(
    layout: Layout, sites: Array, key: PRNGKeyArray, low: int, high: int
) -> tuple[Array, Array, Array, Array]:
    """Returns moments, basis, functions of the number of sites, and this number, of windows without missing data."""
    own_layout = layout.only_own
    runs, is_data = runs_of(own_layout), jnp.asarray(~own_layout.is_parameter)

    def of_set(sites: Array, key: PRNGKeyArray) -> tuple[Array, Array, Array, Array]:
        moments = site_moments(*_window(sites, is_data, key, low, high, 0.0), runs)
        return moments.moments, moments.basis, moments.number_features, moments.n

    return jax.vmap(of_set)(sites, jr.split(key, len(sites)))


def _window(
    sites: Array, is_data: Array, key: PRNGKeyArray, low: int, high: int, partial_share: float = PARTIAL_SHARE
) -> tuple[Array, Array]:
    """Returns values and roles of neighboring sites of a set, more than `low` and up to `high` of them.

    Their data are given. In a share `partial_share` of the sets some data are missing and some parameters are given.
    """
    key_start, key_count, key_partial, key_share, key_data, key_parameters = jr.split(key, 6)
    z = sites[(jr.randint(key_start, (), 0, len(sites)) + jnp.arange(high)) % len(sites)]
    count = jnp.floor(jnp.exp(jr.uniform(key_count, minval=jnp.log(low + 1.0), maxval=jnp.log(high + 1.0))))
    is_partial = jr.bernoulli(key_partial, partial_share)
    shares = jr.uniform(key_share, (2,))
    observed = ~is_partial | (jr.uniform(key_data, z.shape) < shares[0])
    # own parameters are rarely given, and then those of some sites
    parameter_given = is_partial & (shares[1] < 0.2) & (jr.uniform(key_parameters, (len(z), 1)) < 5.0 * shares[1])
    mask = jnp.where(is_data, observed, parameter_given) & (jnp.arange(high) < count)[:, None] & ~jnp.isnan(z)
    return jnp.nan_to_num(z), jnp.where(mask, GIVEN, ABSENT)
