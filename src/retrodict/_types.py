"""Types of arrays and keys that many signatures share.

`d` is the number of scalar elements of a model (its *tokens*), `n` a number of rows.
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from retrodict._errors import DataError


Tokens: TypeAlias = Float[Array, " d"]
Roles: TypeAlias = Int[Array, " d"]
Scalar: TypeAlias = Float[Array, ""]
Key: TypeAlias = PRNGKeyArray | int

BITS = 32  # of a word of a seed


def as_key(key: Key) -> PRNGKeyArray:
    """Returns a key of `jax.random`: `key` itself, or that of a whole number, all of whose bits and sign count.

    Raises:
        DataError: it is neither.
    """
    if isinstance(key, jax.Array | np.ndarray):
        is_key = jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) or (key.ndim > 0 and key.dtype == np.uint32)
        if is_key:
            return jnp.asarray(key)
        if not isinstance(key, jax.core.Tracer) and key.ndim == 0:
            key = key.item()
    if not is_number(key, int | np.integer):
        raise DataError(f"a key is a whole number, such as key=0, or a key of `jax.random`, got {key!r}")
    number = int(key)
    result, rest = jr.key(abs(number) % 2**BITS), abs(number) >> BITS
    # jax.random takes the lowest word alone
    while rest:
        result, rest = jr.fold_in(result, rest % 2**BITS), rest >> BITS
    return jr.fold_in(result, 2**BITS - 1) if number < 0 else result


def is_number(value: Any, kinds: Any = int | float) -> bool:
    """Whether a value is a number of these types; a boolean, to Python a whole number as well, is none."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def is_count(value: Any, least: int = 1, kinds: Any = int | np.integer) -> bool:
    """Whether a value is a whole number of these types, at least `least`; a boolean is none."""
    return is_number(value, kinds) and bool(value >= least)
