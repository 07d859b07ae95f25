"""A surrogate of one site: its data given all parameters, cheap enough to be drawn from by the million.

A linear regression on the parameters is taken off the data before a network learns what is left,

    y = [1, parameters] . trend + residual,    residual ~ model(residual | parameters)

in the scaled coordinates of the model of one site. What is linear is exact up to least squares; a network would know
it to a few hundredths of a standard deviation, which many sites add up.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict.estimators import _answers
from retrodict.estimators._generative import Generative, likelihood
from retrodict.estimators._rows import solve_rows
from retrodict.nets import AbstractArchitecture
from retrodict.paths import Path
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.variables import Layout


AT_ONCE = 8192  # single sites drawn together, always as many: one compiled shape


class Surrogate(eqx.Module):
    """A model of residuals `(d,)` given parameters, and the regression `(1 + p, d)`, zero but for data."""

    model: Generative
    trend: Float[Array, "p d"]

    def expected(self, z: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """What the regression on the parameters expects of every element."""
        p = len(self.trend) - 1
        return jnp.concatenate([jnp.ones((len(z), 1)), z[:, :p]], axis=1) @ self.trend

    def sample(self, z: Float[np.ndarray, "n d"], key: PRNGKeyArray) -> Float[np.ndarray, "n d"]:
        """Single sites `(n, d)`, scaled: their data drawn, all else as it is in `z`."""
        parts, core = [], dataclasses.replace(self, model=self.model.core())
        for start in range(0, len(z), AT_ONCE):
            block = jnp.asarray(z[start : start + AT_ONCE])
            padded = jnp.pad(block, ((0, AT_ONCE - len(block)), (0, 0)))
            parts.append(np.asarray(_drawn(core, padded, jr.fold_in(key, start)))[: len(block)])
        return np.concatenate(parts)


def surrogate_of(layout: Layout, net: AbstractArchitecture, path: Path | None, *, key: PRNGKeyArray) -> Surrogate:
    """An untrained surrogate of one site that has the variables of `layout`."""
    # residuals of scaled elements are anywhere on the real line
    real = Layout(tuple(dataclasses.replace(v, low=-np.inf, high=np.inf) for v in layout.variables))
    trend = jnp.zeros((1 + int(layout.is_parameter.sum()), layout.size))
    return Surrogate(likelihood(real, net=net, path=path, key=key), trend)


@eqx.filter_jit
def _drawn(surrogate: Surrogate, z: Array, key: PRNGKeyArray) -> Array:
    model, layout = surrogate.model, surrogate.model.layout
    roles = np.full(layout.size, GIVEN)
    roles[layout.tokens_of(layout.data)] = LATENT
    where = jnp.where(jnp.isnan(z), ABSENT, jnp.asarray(roles))
    for name in layout.functions:  # a value is drawn where there is a point
        block, there = layout.slices[name], z[:, layout.slices[f"{name}.at"]]
        empty = jnp.isnan(there.reshape(len(z), block.stop - block.start, -1)).any(axis=2)
        where = where.at[:, block].set(jnp.where(empty, ABSENT, roles[block]))
    known = jnp.where(where == LATENT, 0.0, jnp.nan_to_num(z))
    inner, which = model.scaling.forward(known), jnp.arange(len(z))
    drawn = solve_rows(model, _answers.SAMPLER, inner, where, len(z), which, key)
    kept = layout.tokens_of([name for name in layout.names if name not in layout.places])
    found = z.at[:, kept].set(jnp.where(where[:, kept] == LATENT, drawn, z[:, kept]))
    return jnp.where(where == LATENT, found + surrogate.expected(z), found)
