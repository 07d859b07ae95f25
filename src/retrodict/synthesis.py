"""More simulations from structure: parts that are alike and independent given the parameters teach each other.

    p(x_1, ..., x_P | theta) = prod over i of p(x_i | theta),      the same p for every part

N simulations of P parts are N P pairs of (theta, one part). A surrogate q(part | theta) learned from them makes data
sets without end, theta ~ prior and x_i ~ q(. | theta), on which a posterior can be trained for as long as it gains.
(Likelihood factorization: arXiv 2604.20723, section 3; "synthetic likelihood sets".) What the surrogate gets wrong, the
posterior inherits; held-out real simulations should judge it, see `validation` of `fit`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.random as jr
import numpy as np

from retrodict._errors import DataError, listed
from retrodict._types import Key, as_key
from retrodict.dependencies import Dependencies
from retrodict.estimators import Generative, likelihood
from retrodict.nets import AbstractArchitecture, ResMLP
from retrodict.problem import Problem
from retrodict.rows import Simulations
from retrodict.tokens import Batch
from retrodict.training import History, fit
from retrodict.variables import Layout, Variable


SURROGATE = ResMLP(128, 3)
PART = "part"
BLOCK = 200_000  # parts drawn at once


def surrogate(
    sims: Simulations,
    dependencies: Dependencies,
    *,
    key: Key,
    net: AbstractArchitecture = SURROGATE,
    validation: Mapping[str, Any] | None = None,
    steps: int = 10_000,
    progress: bool = True,
) -> tuple[Generative, History]:
    """Learns one part of the exchangeable variable given the parameters, from every part of every simulation.

    `validation` are other simulations that only validate: parts of one simulation should not stand on both sides.

    Raises:
        DataError: the declared structure does not make the data independent parts given the parameters.
    """
    name, parts = _only(sims.layout, dependencies)
    layout = _one(sims.layout, name, parts)
    pairs = _pairs(sims, layout, name, parts)
    judged = None if validation is None else _pairs(validation, layout, name, parts)
    return fit(likelihood(layout, net=net, key=key), pairs, key=key, validation=judged, steps=steps, progress=progress)


def synthesize(problem: Problem, learned: Generative, dependencies: Dependencies, n: int, *, key: Key) -> Simulations:
    """`n` simulations whose parameters come from the prior and whose parts come from what `surrogate` learned.

    Raises:
        DataError: the declared structure does not make the data independent parts given the parameters.
    """
    name, parts = _only(problem.layout, dependencies)
    key_prior, key_parts = jr.split(as_key(key))
    values = {k: np.asarray(v) for k, v in jax.jit(jax.vmap(problem.prior.draw))(jr.split(key_prior, n)).items()}
    given = {k: np.repeat(v, parts, axis=0) for k, v in values.items()}
    blocks = []
    for start in range(0, n * parts, BLOCK):
        some = Batch({k: v[start : start + BLOCK] for k, v in given.items()})
        blocks.append(learned.sample(1, given=some, key=jr.fold_in(key_parts, start))[PART][:, 0])
    values[name] = np.concatenate(blocks).reshape(n, *problem.layout[name].shape)
    return Simulations(values, problem.layout)


def _only(layout: Layout, dependencies: Dependencies) -> tuple[str, int]:
    """The one exchangeable data variable and its number of parts."""
    if layout.functions:
        raise DataError(f"parts of functions are not learned one by one, and {listed(layout.functions)} is one")
    found = dict(dependencies.exchangeable)
    if list(found) != layout.data:
        raise DataError(
            f"parts can be learned one by one where all data are one exchangeable variable; the data are "
            f"{listed(layout.data)}, declared exchangeable are {listed(found) or 'none'}"
        )
    dependencies.adjacency(layout)  # parts that are alike and in no circle cannot depend on each other
    (name,) = found
    return name, found[name]


def _one(layout: Layout, name: str, parts: int) -> Layout:
    """The layout of the parameters and one part."""
    whole = layout[name]
    low, high = (end[: whole.size // parts] for end in whole.ends)
    part = Variable(PART, (whole.size // parts,), tuple(low.tolist()), tuple(high.tolist()), kind="data")
    return Layout((*(layout[p] for p in layout.parameters), part))


def _pairs(sims: Mapping[str, Any], layout: Layout, name: str, parts: int) -> Simulations:
    values = {p: np.repeat(np.asarray(sims[p]), parts, axis=0) for p in layout.parameters}
    whole = np.asarray(sims[name])
    return Simulations({**values, PART: whole.reshape(len(whole) * parts, -1)}, layout)
