"""Training a surrogate of one site: a regression, a network on what it leaves, and the regression of what that gets
wrong.

What the surrogate gets wrong in the mean moves every site the same way, and the posterior of S sites is sqrt(S) times
narrower than that of one: N simulations of one site cannot place what many sites say to better than a share of its
width, about sqrt(S / N), whatever the network.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from retrodict._types import Key, as_key
from retrodict.models import FlowModel, IntegerElements, MixtureDensity, SiteMixture, Surrogate, told
from retrodict.query.tokens import flatten, unflatten
from retrodict.training._fit_flow import fit_rows
from retrodict.training._fit_mixture import fit_mixture
from retrodict.training._loop import History, TrainingBudget
from retrodict.training._site_sets import scaled
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout


Rows: TypeAlias = Mapping[str, Any]
REGRESSED = 200_000  # draws of the surrogate, at least, whose regression is compared with that of simulations


def fit_surrogate(
    surrogate: Surrogate | SiteMixture,
    site: FlowModel,
    rows: Rows,
    judged: Rows,
    pace: TrainingBudget,
    *,
    key: Key,
    **how: Any,
) -> tuple[Surrogate | SiteMixture, History]:
    """A trained surrogate in the coordinates of the model of one site, from rows of sites; `how` is that of `fit`."""
    z = scaled(site, rows)
    found: Surrogate | SiteMixture
    if isinstance(surrogate, SiteMixture):
        found, history = _fit_mixture(surrogate, site, rows, judged, pace, key=key, **how)
    else:
        found, history = _fit_flow(surrogate, site, rows, judged, pace, key=key, **how)
    if isinstance(found, SiteMixture) and found.mixture.is_alone:  # the regression itself
        return found, history
    # A bias of a twentieth of a standard deviation of y is lost in the noise of any validation loss (.001), and moves
    # the posterior of 200 sites by half of its width: the draws get the regression that the simulations have.
    drawn = found.sample(np.tile(z, (-(-REGRESSED // len(z)), 1)), jr.fold_in(as_key(key), 1))
    true, learned = (regression(site.layout, found.known(some), some) for some in (z, drawn))
    return found.shifted(true - learned), history


def _fit_flow(
    surrogate: Surrogate, site: FlowModel, rows: Rows, judged: Rows, pace: TrainingBudget, *, key: Key, **how: Any
) -> tuple[Surrogate, History]:
    layout = site.layout
    z, other = (scaled(site, part) for part in (rows, judged))
    trend = jnp.asarray(regression(layout, surrogate.known(z), z), jnp.float32)
    surrogate = dataclasses.replace(surrogate, trend=trend)
    left, judge = (
        unflatten(layout, part - np.asarray(surrogate.expected(jnp.asarray(part))), layout.names) for part in (z, other)
    )
    model, history = fit_rows(surrogate.model, left, pace, key=key, validation=judge, what="surrogate", **how)
    return dataclasses.replace(surrogate, model=model), history


def _fit_mixture(
    surrogate: SiteMixture, site: FlowModel, rows: Rows, judged: Rows, pace: TrainingBudget, *, key: Key, **how: Any
) -> tuple[SiteMixture, History]:
    layout = site.layout
    train, judge = (flatten(layout, part, layout.names, where="the simulations") for part in (rows, judged))
    whole = IntegerElements.of(train, [np.array([i]) for i in np.flatnonzero(~layout.is_parameter)])
    seen = Scaling.fit(told(layout), train[:, layout.is_parameter])
    surrogate = dataclasses.replace(
        surrogate, scaling=site.scaling, seen=seen, whole=IntegerElements(*map(jnp.asarray, whole))
    )
    pairs, sizes = surrogate.pairs(train), surrogate.mixture.sizes._replace(whole=bool(whole.which.any()))
    start = MixtureDensity.blank(sizes, key=as_key(key)).beside(pairs)
    mixture, history = fit_mixture(start, pairs, surrogate.pairs(judge), pace, key=key, **how)
    return dataclasses.replace(surrogate, mixture=mixture), history


def regression(layout: Layout, known: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Least squares of every scaled datum on 1 and what is known, `(1 + p, d)`; one line for all points of a
    function."""
    design = np.concatenate([np.ones((len(z), 1)), np.asarray(known, np.float64)], axis=1)
    found = np.zeros((design.shape[1], layout.size))
    for name in layout.data:
        block = np.asarray(z[:, layout.slices[name]], np.float64)
        if layout[name].axes:
            inputs, values = np.repeat(design, block.shape[1], axis=0), block.ravel()
            there = np.isfinite(values)
            line = np.linalg.lstsq(inputs[there], values[there], rcond=None)[0]
            found[:, layout.slices[name]] = line[:, None]
        else:
            found[:, layout.slices[name]] = np.linalg.lstsq(design, block, rcond=None)[0]
    return found
