"""The door of every `conditional`: a question is roles and values, and it is checked once.

Latent and absent tokens are drawn alike, from p(latent, absent | given); dropping the absent ones integrates them out.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from retrodict._errors import DataError
from retrodict._types import Key, as_key
from retrodict.roles import ABSENT, GIVEN, LATENT


def given_tokens(
    roles: Any, values: Any, n: int, tokens: int
) -> tuple[Bool[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Which tokens are given, and the values of all, NaN where nothing is given.

    Raises:
        DataError: the roles, the values or the number of draws are not of that form.
    """
    roles, values = np.asarray(roles), np.asarray(values, np.float64)
    if roles.shape != (tokens,) or values.shape != (tokens,):
        raise DataError(
            f"this task has {tokens} tokens, got roles {roles.shape} and values {values.shape}: give one of each"
        )
    if not np.isin(roles, (ABSENT, LATENT, GIVEN)).all():
        raise DataError("roles are 0 (absent), 1 (latent) or 2 (given), as in `retrodict.roles`")
    given = roles == GIVEN
    if not np.isfinite(values[given]).all():
        raise DataError("a given token has a value that is not finite: give it the role ABSENT, 0, if nobody knows it")
    if n < 1:
        raise DataError(f"the number of draws must be positive, got {n}")
    return given, np.where(given, values, np.nan)


def answer(draws: Float[np.ndarray, "n d"], roles: Any, values: Any) -> Float[np.ndarray, "n d"]:
    """The draws in float32, with what is given as it was given, and NaN for what is absent."""
    roles = np.asarray(roles)
    # not simply `values`: a given value has to survive whatever the sampler did with it
    found = np.where(roles == GIVEN, np.asarray(values, np.float64), draws)
    return np.where(roles == ABSENT, np.nan, found).astype(np.float32)


def generator(key: Key) -> np.random.Generator:
    """NumPy's generator, seeded by a key."""
    import jax

    return np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))
