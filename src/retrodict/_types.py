"""Types of arrays and keys that many signatures share.

`d` is the number of scalar elements of a model (its *tokens*), `n` a number of rows.
"""

from typing import TypeAlias

import jax
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray


Tokens: TypeAlias = Float[Array, " d"]
Roles: TypeAlias = Int[Array, " d"]
Scalar: TypeAlias = Float[Array, ""]
Key: TypeAlias = PRNGKeyArray | int


def as_key(key: Key) -> PRNGKeyArray:
    """A key of `jax.random`: `key` itself, or the key of a whole number taken as a seed."""
    return jr.key(key) if isinstance(key, int) else jax.numpy.asarray(key)
