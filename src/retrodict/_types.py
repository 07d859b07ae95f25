"""Types of arrays and keys that many signatures share.

`d` is the number of scalar elements of a model (its *tokens*), `n` a number of rows.
"""

from typing import Any, TypeAlias

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray


Tokens: TypeAlias = Float[Array, " d"]
Roles: TypeAlias = Int[Array, " d"]
Scalar: TypeAlias = Float[Array, ""]
Key: TypeAlias = PRNGKeyArray | int


def as_key(key: Key) -> PRNGKeyArray:
    """A key of `jax.random`: `key` itself, or the key of a whole number taken as a seed."""
    return jr.key(key) if isinstance(key, int) else jax.numpy.asarray(key)


def is_number(value: Any, kinds: Any = int | float) -> bool:
    """Whether a value is a number of these types; a boolean, to Python a whole number as well, is none."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def is_count(value: Any, least: int = 1, kinds: Any = int | np.integer) -> bool:
    """Whether a value is a whole number of these types, at least `least`; a boolean is none."""
    return is_number(value, kinds) and bool(value >= least)
