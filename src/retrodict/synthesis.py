"""More simulations from structure: parts that are independent given the parameters are learned one by one.

    p(x | theta) = prod over parts i of p(x_i | theta_i),      theta_i: the parameters that part i depends on

N simulations of P parts are N P pairs of (theta_i, part). A surrogate q(part | theta_i, i) learned from them makes data
sets without end, theta ~ prior and x_i ~ q, on which a posterior can be trained for as long as it gains. Parts that are
alike (slcp's four points) are one kind and teach each other; others (the days of an epidemic) are told apart by i.
(Likelihood factorization: arXiv 2604.20723, section 3; "synthetic likelihood sets".) In scaled coordinates

    part = [1, theta_i] . trend + residual,    residual ~ model(residual | theta_i, i)

where a regression knows what is linear better than any network. What the surrogate gets wrong, the posterior inherits;
held-out real simulations should judge it, see `validation` of `fit`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float, Int

from retrodict._errors import DataError, listed
from retrodict._types import Key, as_key
from retrodict.dependencies import Dependencies
from retrodict.estimators import Generative, likelihood
from retrodict.nets import AbstractArchitecture, ResMLP
from retrodict.problem import Problem
from retrodict.rows import Simulations
from retrodict.scaling import Scaling
from retrodict.tokens import Batch, flatten, unflatten
from retrodict.training import History, fit
from retrodict.variables import Layout, Variable


SURROGATE = ResMLP(128, 3)
SEEN, KIND, PART = "seen", "kind", "part"
BLOCK = 200_000  # parts drawn at once


class Parts(NamedTuple):
    """What data fall into: tokens of every part, its kind, the parameters that any part depends on, and which of them
    each does."""

    tokens: Int[np.ndarray, "parts k"]
    kind: Int[np.ndarray, " parts"]
    parameters: Int[np.ndarray, " p"]
    parents: Bool[np.ndarray, "parts p"]


@dataclasses.dataclass(frozen=True)
class Learned:
    """A surrogate of one part: a model of what a regression `(kinds, 1 + p, k)` leaves of it, in scaled coordinates.

    `whole` are the data elements `(d,)` that were whole numbers in all simulations, and their range.
    """

    parts: Parts
    scaling: Scaling
    trend: Float[np.ndarray, "kinds q k"]
    whole: tuple[np.ndarray, np.ndarray, np.ndarray]
    model: Generative


def surrogate(
    sims: Simulations,
    dependencies: Dependencies,
    *,
    key: Key,
    net: AbstractArchitecture = SURROGATE,
    validation: Mapping[str, Any] | None = None,
    steps: int = 10_000,
    progress: bool = True,
) -> tuple[Learned, History]:
    """Learns one part of the data given the parameters, from every part of every simulation.

    `validation` are other simulations that only validate: parts of one simulation should not stand on both sides.

    Raises:
        DataError: the declared structure does not make the data independent parts of equal size given the parameters.
    """
    layout = sims.layout
    parts = parts_of(layout, dependencies)
    rows = flatten(layout, sims, layout.names, where="the simulations")
    scaling = Scaling.fit(layout, rows)
    z = scaling.of_rows(rows)
    trend = _regression(parts, z)
    pairs = _pairs(parts, trend, z)
    judged = None
    if validation is not None:
        others = scaling.of_rows(flatten(layout, validation, layout.names, where="`validation`"))
        judged = _pairs(parts, trend, others)
    start = likelihood(pairs.layout, net=net, key=key)
    model, history = fit(start, pairs, key=key, validation=judged, steps=steps, progress=progress)
    whole = ~layout.is_parameter & (rows == np.round(rows)).all(axis=0)
    return Learned(parts, scaling, trend, (whole, rows.min(axis=0), rows.max(axis=0)), model), history


def synthesize(problem: Problem, learned: Learned, n: int, *, key: Key) -> Simulations:
    """`n` simulations whose parameters come from the prior and whose parts come from what `surrogate` learned.

    Data that were whole numbers stay so, within what was seen.
    """
    layout, parts = problem.layout, learned.parts
    key_prior, key_parts = jr.split(as_key(key))
    values = {k: np.asarray(v) for k, v in jax.jit(jax.vmap(problem.prior.draw))(jr.split(key_prior, n)).items()}
    empty = {name: np.zeros((n, *layout[name].shape), np.float32) for name in layout.data}
    z = np.array(learned.scaling.of_rows(flatten(layout, {**values, **empty}, layout.names, where="the prior")))
    many = max(1, BLOCK // len(parts.kind))
    for start in range(0, n, many):
        block = z[start : start + many]
        given = _given(parts, block)
        left = learned.model.sample(1, given=Batch(given), key=jr.fold_in(key_parts, start))[PART][:, 0]
        left = left.reshape(len(parts.kind), len(block), -1)
        for i, tokens in enumerate(parts.tokens):
            block[:, tokens] = _expected(parts, learned.trend, block, i) + left[i]
    rows = np.array(learned.scaling.inverse(z))
    whole, low, high = learned.whole
    rows = np.where(whole, np.clip(np.round(rows), low, high), rows)
    return Simulations({**unflatten(layout, rows, layout.data), **values}, layout)


def parts_of(layout: Layout, dependencies: Dependencies) -> Parts:
    """The parts that are independent given the parameters, by the edges between data.

    Raises:
        DataError: there is one part only, they are of different sizes, or data are functions.
    """
    from scipy.sparse.csgraph import connected_components

    if layout.functions:
        raise DataError(f"parts of functions are not learned one by one, and {listed(layout.functions)} is one")
    edges, own = dependencies.adjacency(layout), layout.is_parameter
    if edges[np.ix_(own, ~own)].any():
        raise DataError("parts are independent given the parameters, and a parameter is declared to depend on data")
    data = np.flatnonzero(~own)
    alike = dependencies.identity(layout)[data]
    count, owner = connected_components(edges[np.ix_(data, data)], directed=False)
    # in the order of their first elements
    groups = sorted((data[owner == i] for i in range(count)), key=lambda group: int(group[0]))
    if count < 2:
        raise DataError(
            f"parts can be learned one by one where data are independent given the parameters; by the declared "
            f"structure {listed(layout.data)} hang together"
        )
    if len({len(group) for group in groups}) > 1:
        sizes = sorted({len(group) for group in groups})
        raise DataError(f"parts can be learned one by one where they are of equal size; these have {sizes} elements")
    tokens = np.stack(groups)
    place = np.full(layout.size, -1)
    place[data] = alike
    kind = np.unique(place[tokens], axis=0, return_inverse=True)[1].reshape(-1)
    parents = np.stack([edges[group].any(axis=0) for group in groups])
    parameters = np.flatnonzero(own & parents.any(axis=0))
    return Parts(tokens, kind, parameters, parents[:, parameters])


def _given(parts: Parts, z: np.ndarray) -> dict[str, np.ndarray]:
    """What is known of every part, part by part: the parameters that it depends on, others at zero, and its kind."""
    seen = np.concatenate([np.where(parents, z[:, parts.parameters], 0.0) for parents in parts.parents])
    kinds = parts.kind.max() + 1
    if kinds == 1:
        return {SEEN: seen.astype(np.float32)}
    return {SEEN: seen.astype(np.float32), KIND: np.repeat(np.eye(kinds, dtype=np.float32)[parts.kind], len(z), axis=0)}


def _pairs(parts: Parts, trend: np.ndarray, z: np.ndarray) -> Simulations:
    """Every part of every row, less its regression, beside what is known of it."""
    given = _given(parts, z)
    left = [z[:, tokens] - _expected(parts, trend, z, i) for i, tokens in enumerate(parts.tokens)]
    known = [Variable(name, values.shape[1:]) for name, values in given.items()]
    inner = Layout((*known, Variable(PART, parts.tokens.shape[1:], kind="data")))
    return Simulations({**given, PART: np.concatenate(left).astype(np.float32)}, inner)


def _design(parts: Parts, z: np.ndarray, i: int) -> np.ndarray:
    seen = np.where(parts.parents[i], z[:, parts.parameters], 0.0)
    return np.concatenate([np.ones((len(z), 1)), seen], axis=1)


def _expected(parts: Parts, trend: np.ndarray, z: np.ndarray, i: int) -> np.ndarray:
    return _design(parts, z, i) @ trend[parts.kind[i]]


def _regression(parts: Parts, z: np.ndarray) -> np.ndarray:
    """Least squares of the parts of each kind on 1 and what they depend on."""
    found = []
    for kind in range(parts.kind.max() + 1):
        which = np.flatnonzero(parts.kind == kind)
        design = np.concatenate([_design(parts, z, i) for i in which.tolist()])
        values = np.concatenate([z[:, parts.tokens[i]] for i in which])
        found.append(np.linalg.lstsq(design, values.astype(np.float64), rcond=None)[0])
    return np.stack(found)
