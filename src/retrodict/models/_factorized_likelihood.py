"""The likelihood of all data, learned factor by factor.

    p(x | theta) = prod over factors i of p(x_i | theta_i),      theta_i: the parameters that factor i depends on

Factors that are alike (slcp's four points) are of one type and share a network; others (the days of an epidemic) are
told apart by i. Where nothing is declared to be independent, all data are one factor. Each factor is a `MixtureDensity`
on the real line, off the supports; the likelihood mixes what several learning rates learned (`synthetic_data`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from retrodict._errors import DataError, listed
from retrodict.models._mixture_density import IntegerElements, MixtureDensity, Pairs, Sizes, told
from retrodict.problem.dependencies import Dependencies
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout


AT_ONCE = 16_384  # rows whose density is looked at together
SMALLEST = 1e-30  # share


class Factors(NamedTuple):
    """What data fall into: tokens of every part, its kind, the parameters that any part depends on, and which of them
    each does; `free` if the numbers of a part are independent, too."""

    tokens: Int[np.ndarray, "parts k"]
    kind: Int[np.ndarray, " parts"]
    parameters: Int[np.ndarray, " p"]
    parents: Bool[np.ndarray, "parts p"]
    free: bool = False


class FactorizedLikelihood(eqx.Module):
    """Surrogates of one part, given parameters, the share of each, and the scaling of parameters."""

    parts: Factors
    scaling: Scaling
    mixtures: tuple[MixtureDensity, ...]
    shares: Float[Array, " k"]
    whole: IntegerElements

    @classmethod
    def blank(cls, layout: Layout, dependencies: Dependencies | None, sizes: Sequence[Sizes]) -> "FactorizedLikelihood":
        """One of the right shapes that knows nothing, with a mixture of each of the sizes."""
        parts = one_factor(layout) if dependencies is None else factors_of(layout, dependencies)
        mixtures = tuple(MixtureDensity.blank(one, key=jr.key(0)) for one in sizes)
        nothing = jnp.zeros(layout.size)
        whole = IntegerElements(jnp.zeros(layout.size, bool), nothing, nothing)
        return cls(parts, Scaling.identity(told(layout)), mixtures, jnp.zeros(len(mixtures)), whole)

    def log_prob(self, layout: Layout, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Log density of the data of every row given its parameters, of data as `IntegerElements.line` sees them."""
        found = [self._log_prob(layout, rows[i : i + AT_ONCE]) for i in range(0, len(rows), AT_ONCE)]
        return np.concatenate(found)

    def _log_prob(self, layout: Layout, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        n = len(rows)
        size = min(AT_ONCE, 1 << (n - 1).bit_length())  # few shapes are compiled
        pairs = factor_pairs(layout, self.parts, self.scaling, self.whole, rows[np.arange(size) % n])
        each = np.stack([mixture.log_probs(pairs).reshape(-1, size).sum(axis=0) for mixture in self.mixtures])
        shares = np.log(np.maximum(np.asarray(self.shares, np.float64), SMALLEST))
        return np.logaddexp.reduce(each + shares[:, None], axis=0)[:n]


def one_factor(layout: Layout) -> Factors:
    """All data as one part, which depends on all parameters."""
    _refuse_functions(layout)
    own = layout.is_parameter
    parameters = np.flatnonzero(own)
    return Factors(np.flatnonzero(~own)[None], np.zeros(1, int), parameters, np.ones((1, len(parameters)), bool))


def factors_of(layout: Layout, dependencies: Dependencies) -> Factors:
    """The parts that are independent given the parameters, by the edges between data.

    Raises:
        DataError: there is one part only, they are of different sizes, or data are functions.
    """
    from scipy.sparse.csgraph import connected_components

    _refuse_functions(layout)
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
    parents = parents[:, parameters]
    if tokens.shape[1] == 1 and len(set(kind)) == len(kind) and (parents == parents[0]).all():
        # numbers that are all unlike and depend on the same: what one network reads of these serves them all
        return Factors(tokens.reshape(1, -1), np.zeros(1, int), parameters, parents[:1], free=True)
    return Factors(tokens, kind, parameters, parents)


def _refuse_functions(layout: Layout) -> None:
    if layout.functions:
        raise DataError(f"parts of functions are not learned one by one, and {listed(layout.functions)} is one")


def factor_inputs(layout: Layout, parts: Factors, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is known of every part, part by part: the scaled parameters that it depends on, others at zero; its kind."""
    place = np.cumsum(layout.is_parameter)[parts.parameters] - 1
    seen = np.concatenate([np.where(parents, known[:, place], 0.0) for parents in parts.parents])
    return seen.astype(np.float32), np.repeat(parts.kind.astype(np.int32), len(known))


def factor_pairs(layout: Layout, parts: Factors, scaling: Scaling, whole: IntegerElements, rows: np.ndarray) -> Pairs:
    """Every part of every row, on the real line, beside what is known of it."""
    known, kind = factor_inputs(layout, parts, scaling.of_rows(rows[:, layout.is_parameter]))
    y, below, above = (
        jnp.asarray(np.concatenate([values[:, tokens] for tokens in parts.tokens]), jnp.float32)
        for values in whole.line(rows, layout.ends)
    )
    return Pairs(jnp.asarray(known), jnp.asarray(kind), y, below, above)
