"""Draws that were resampled by weights: some are copies of others, and come with their effective sample size.

Proposals with weights w are worth (sum w)^2 / sum w^2 independent draws, and n draws resampled from them are worth that
many, at most n.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float


ENOUGH = 0.5  # independent draws per draw, below which `sample` warns


class ResampledTokens(NamedTuple):
    """Tokens of resampled draws `(m, n, k)`, and the effective sample size for each of m observations."""

    tokens: Float[np.ndarray, "m n k"]
    effective_sizes: Float[np.ndarray, " m"]


class ResampledDraws(dict[str, Any]):
    """Draws by name, as a `dict`, of which some are copies of others.

    Attributes:
        effective_size: the number of independent draws that these are worth; `(m,)` for a Batch of m observations.
    """

    def __init__(self, draws: dict[str, Any], effective_size: Any) -> None:
        super().__init__(draws)
        self.effective_size = effective_size


def _leaves(draws: ResampledDraws) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    names = tuple(sorted(draws))
    return tuple(draws[name] for name in names), names


def _plain(names: tuple[str, ...], leaves: Any) -> Any:
    return dict(zip(names, leaves, strict=True))


# for JAX these are a dict; what comes out of a transformation is a plain one
jax.tree_util.register_pytree_node(ResampledDraws, _leaves, _plain)
