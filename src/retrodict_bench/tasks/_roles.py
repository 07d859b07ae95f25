"""The arguments and results of every `conditional`: roles and values are checked here, once.

Latent and absent tokens are drawn alike, from p(latent, absent | given). Dropping the absent ones integrates them out.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from retrodict import DataError
from retrodict._types import Key, as_key
from retrodict.roles import ABSENT, GIVEN, LATENT


def given_tokens(
    roles: Any, values: Any, n: int, tokens: int
) -> tuple[Bool[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Returns a mask of the given tokens, and the values of all tokens, NaN if not given.

    Raises:
        DataError: roles or values of the wrong shape, an unknown role, a given value that is not finite, or n < 1.
    """
    roles, values = np.asarray(roles), np.asarray(values, np.float64)
    if roles.shape != (tokens,) or values.shape != (tokens,):
        raise DataError(
            f"this task has {tokens} tokens, got roles {roles.shape} and values {values.shape}: give one of each"
        )
    if not np.isin(roles, (ABSENT, LATENT, GIVEN)).all():
        raise DataError("roles are 0 (absent), 1 (latent) or 2 (given), as in `retrodict.roles`")
    mask = roles == GIVEN
    if not np.isfinite(values[mask]).all():
        raise DataError("a given token has a value that is not finite: give it the role ABSENT, 0, if nobody knows it")
    if n < 1:
        raise DataError(f"the number of draws must be positive, got {n}")
    return mask, np.where(mask, values, np.nan)


def answer(draws: Float[np.ndarray, "n d"], roles: Any, values: Any) -> Float[np.ndarray, "n d"]:
    """Returns the draws in float32, with given tokens at their given values and absent ones NaN."""
    roles = np.asarray(roles)
    # given values come from `values`: a sampler may have changed their last digits
    tokens = np.where(roles == GIVEN, np.asarray(values, np.float64), draws)
    return np.where(roles == ABSENT, np.nan, tokens).astype(np.float32)


def generator(key: Key) -> np.random.Generator:
    """Returns a generator of NumPy, seeded by a key."""
    import jax

    return np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))
