"""The likelihood of all data, learned factor by factor.

    p(x | theta) = prod over factors i of p(x_i | theta_i),      theta_i: the parameters that factor i depends on

Equal factors (the four points of slcp) are of one type and share a network; different factors (the days of an epidemic)
are told apart by their type. If nothing is declared to be independent, all data are one factor. Each factor is a
`MixtureDensity` on the real line. The likelihood is a mixture of the densities that several learning rates gave
(`training/synthetic_data`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from retrodict._errors import DataError, listed
from retrodict._runtime.blocks import block_size, in_blocks
from retrodict.models._integer_elements import IntegerElements
from retrodict.models._mixture_density import ConditionalRows, MixtureDensity, Sizes
from retrodict.problem.dependencies import Dependencies
from retrodict.transforms.scaling import Scaling, network_input_layout
from retrodict.variables import Layout


ROWS_PER_BLOCK = 16_384  # whose density is computed together
MIN_SHARE = 1e-30


class Factors(NamedTuple):
    """The factors of p(data given parameters).

    The elements of each factor, its type (equal factors share a network), the parameters used by any, a mask of those
    used by each, and whether its elements are independent.
    """

    tokens: Int[np.ndarray, "factors k"]
    kind: Int[np.ndarray, " factors"]
    parameters: Int[np.ndarray, " p"]
    parents: Bool[np.ndarray, "factors p"]
    free: bool = False


class FactorizedLikelihood(eqx.Module):
    """The likelihood of the module's first lines: mixture densities of one factor, and the share of each.

    `scaling` is that of the parameters as inputs.
    """

    factors: Factors
    scaling: Scaling
    mixtures: tuple[MixtureDensity, ...]
    shares: Float[Array, " k"]
    integers: IntegerElements

    @classmethod
    def blank(cls, layout: Layout, dependencies: Dependencies | None, sizes: Sequence[Sizes]) -> "FactorizedLikelihood":
        """An untrained likelihood, with a mixture density of each of the sizes."""
        factors = one_factor(layout) if dependencies is None else factors_of(layout, dependencies)
        mixtures = tuple(MixtureDensity.blank(shape, key=jr.key(0)) for shape in sizes)
        scaling, shares = Scaling.identity(network_input_layout(layout)), jnp.zeros(len(mixtures))
        return cls(factors, scaling, mixtures, shares, IntegerElements.none(layout.size))

    def log_prob(self, layout: Layout, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Returns the log density of the data of each row given its parameters, on the real line.

        An integer counts with the probability of its cell.
        """
        log_shares = np.log(np.maximum(np.asarray(self.shares, np.float64), MIN_SHARE))

        def block(index: np.ndarray, k: int) -> np.ndarray:
            inputs = factor_rows(layout, self.factors, self.scaling, self.integers, rows[index])
            factors = (mixture.log_probs(inputs).reshape(-1, len(index)) for mixture in self.mixtures)
            log_probs = np.stack([log_prob.sum(axis=0) for log_prob in factors])
            return np.logaddexp.reduce(log_probs + log_shares[:, None], axis=0)

        return in_blocks(block, len(rows), block_size(len(rows), ROWS_PER_BLOCK))


def one_factor(layout: Layout) -> Factors:
    """Returns all data as one factor, which depends on all parameters."""
    _refuse_functions(layout)
    data, parameters = np.flatnonzero(~layout.is_parameter), np.flatnonzero(layout.is_parameter)
    return Factors(data[None], np.zeros(1, int), parameters, np.ones((1, len(parameters)), bool))


def factors_of(layout: Layout, dependencies: Dependencies) -> Factors:
    """Returns the factors that are independent given the parameters, by the edges between data.

    Raises:
        DataError: there is one factor only, factors have different sizes, or data are functions.
    """
    from scipy.sparse.csgraph import connected_components

    _refuse_functions(layout)
    edges, is_parameter = dependencies.adjacency(layout), layout.is_parameter
    if edges[np.ix_(is_parameter, ~is_parameter)].any():
        raise DataError("parts are independent given the parameters, and a parameter is declared to depend on data")
    data = np.flatnonzero(~is_parameter)
    count, component = connected_components(edges[np.ix_(data, data)], directed=False)
    # in the order of their first elements
    groups = sorted((data[component == i] for i in range(count)), key=lambda group: int(group[0]))
    if count < 2:
        raise DataError(
            f"parts can be learned one by one where data are independent given the parameters; by the declared "
            f"structure {listed(layout.data)} hang together"
        )
    if len({len(group) for group in groups}) > 1:
        sizes = sorted({len(group) for group in groups})
        raise DataError(f"parts can be learned one by one where they are of equal size; these have {sizes} elements")
    tokens = np.stack(groups)
    identity = np.full(layout.size, -1)
    identity[data] = dependencies.identity(layout)[data]
    kind = np.unique(identity[tokens], axis=0, return_inverse=True)[1].reshape(-1)
    parents = np.stack([edges[group].any(axis=0) for group in groups])
    parameters = np.flatnonzero(is_parameter & parents.any(axis=0))
    parents = parents[:, parameters]
    if tokens.shape[1] == 1 and len(set(kind)) == len(kind) and (parents == parents[0]).all():
        # single numbers of different types with the same parents: one network reads the parents for all of them
        return Factors(tokens.reshape(1, -1), np.zeros(1, int), parameters, parents[:1], free=True)
    return Factors(tokens, kind, parameters, parents)


def _refuse_functions(layout: Layout) -> None:
    if layout.functions:
        raise DataError(f"parts of functions are not learned one by one, and {listed(layout.functions)} is one")


def factor_inputs(layout: Layout, factors: Factors, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the network inputs and the type of every factor of every row, factor by factor.

    Inputs are the scaled `parameters` of a row, zero where the factor does not depend on them.
    """
    columns = np.cumsum(layout.is_parameter)[factors.parameters] - 1
    inputs = np.concatenate([np.where(parents, parameters[:, columns], 0.0) for parents in factors.parents])
    return inputs.astype(np.float32), np.repeat(factors.kind.astype(np.int32), len(parameters))


def factor_rows(
    layout: Layout, factors: Factors, scaling: Scaling, integers: IntegerElements, rows: np.ndarray
) -> ConditionalRows:
    """Returns every factor of every row on the real line, with its inputs."""
    inputs, kind = factor_inputs(layout, factors, scaling.of_rows(rows[:, layout.is_parameter]))
    y, low, high = (
        jnp.asarray(np.concatenate([values[:, tokens] for tokens in factors.tokens]), jnp.float32)
        for values in integers.unconstrain(rows, layout.ends)
    )
    return ConditionalRows(jnp.asarray(inputs), jnp.asarray(kind), y, low, high)
