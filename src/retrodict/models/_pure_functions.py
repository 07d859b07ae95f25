"""Densities by name as pure functions, for `jit`, `grad` and `vmap`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from retrodict._errors import QueryError
from retrodict._runtime.precision import in_single_precision
from retrodict.query import Query
from retrodict.roles import LATENT
from retrodict.transforms import supports


def refuse_many(query: Query) -> None:
    """Refuses a query that is about several observations, or has constraints.

    Raises:
        QueryError: it is.
    """
    if query.batched or query.guided:
        raise QueryError("a function for JAX is about one observation without constraints; ask a Batch one by one")


def density_by_name(query: Query, density: Callable[[Array], Array]) -> Callable[[Mapping[str, Any]], Float[Array, ""]]:
    """Returns the log density of values `{name: shape}`, minus infinity outside the supports.

    `density` is that of one row of tokens `(d,)`.
    """
    layout, latent = query.layout, query.roles[0] == LATENT
    low, high = layout.ends

    @in_single_precision
    def log_density(values: Mapping[str, Any]) -> Float[Array, ""]:
        tokens = jnp.asarray(query.values[0])
        for name in query.of:
            block = layout.slices[name]
            value = jnp.reshape(jnp.asarray(values[name], tokens.dtype), -1)
            tokens = tokens.at[block].set(jnp.where(latent[block], value, tokens[block]))
        inside = jnp.all(supports.contains(tokens, low, high) | ~latent)
        # outside, the gradient is taken at a point inside, where there is one
        point = jnp.where(inside, tokens, jax.lax.stop_gradient(jnp.asarray(_middle(low, high), tokens.dtype)))
        return jnp.where(inside, density(point), -jnp.inf)

    return log_density


def _middle(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns a point inside the supports."""
    bounded, from_below = np.isfinite(low) & np.isfinite(high), np.isfinite(low)
    with np.errstate(invalid="ignore"):
        middle = np.where(bounded, (low + high) / 2, np.where(from_below, low + 1, high - 1))
    return np.where(np.isfinite(middle), middle, 0.0)
