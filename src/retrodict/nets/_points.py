"""PointMLP: a residual MLP for functions that are seen at points, one vector for a row and one for each of its points.

    c = W [values; latent?; given?; embedded observations]          all elements that are no function's
    p_j = V [value; latent?; given?] + waves of where point j lies  the same V for all points of a function
    c <- block(c + A [mean of given p; mean of latent p; log numbers of both], t)
    p_j <- block(p_j + B c, t)                                      `depth` times, blocks as in `_mlp`
    prediction = U c at elements, Y p_j at points

Points see each other through means alone (Zaheer et al. 2017), at a cost that is linear in their number and a fraction
of that of attention. That is enough where points are independent given the rest, counts or noisy measurements; values
that go together because they lie near each other need a `Simformer`.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict._errors import DataError
from retrodict._types import Roles, Scalar, Tokens
from retrodict.nets._base import AbstractNet
from retrodict.nets._blocks import Dense, TimeEmbedding, normalize
from retrodict.nets._embeddings import Embedded, check_embedded
from retrodict.nets._identity import Coordinates
from retrodict.nets._mlp import EMBEDDED, AbstractMLP, Block
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import GIVEN, LATENT, AbstractRoleLaw
from retrodict.variables import Layout, places_of


@dataclass(frozen=True)
class PointMLP(AbstractMLP):
    """A residual MLP of a row, and one of its points, which is the same for all points; see `AbstractMLP`."""

    width: int = 96

    def build(
        self, layout: Layout, *, law: AbstractRoleLaw, dependencies: Dependencies | None, key: PRNGKeyArray
    ) -> AbstractNet:
        return _PointMLP(self, layout, key=key)


class _Function(eqx.Module):
    """What reads and says the values of one function; `values` are its elements among those that are modeled, `places`
    where they lie among all."""

    values: slice = eqx.field(static=True)
    places: slice = eqx.field(static=True)
    enter: Dense
    waves: Coordinates
    leave: Dense


class _Both(eqx.Module):
    """A block of the row and one of its points, each of which looks at the other."""

    pool: Dense
    row: Block
    tell: Dense
    point: Block

    def __init__(self, width: int, *, key: PRNGKeyArray) -> None:
        keys = jr.split(key, 4)
        self.pool = Dense(2 * width + 2, width, key=keys[0])
        self.row = Block(width, key=keys[1])
        self.tell = Dense(width, width, key=keys[2])
        self.point = Block(width, key=keys[3])

    def __call__(self, c: Array, p: Array, given: Array, latent: Array, time: Array) -> tuple[Array, Array]:
        inner, counts = normalize(p), jnp.stack([jnp.sum(given), jnp.sum(latent)])
        means = [which @ inner / jnp.maximum(n, 1.0) for which, n in zip((given, latent), counts, strict=True)]
        c = self.row(c + self.pool(jnp.concatenate([*means, jnp.log1p(counts)])), time)
        p = p + self.tell(normalize(c))
        return c, jax.vmap(self.point, (0, None))(p, time)


class _PointMLP(AbstractNet):
    elements: tuple[int, ...] = eqx.field(static=True)  # of those that are modeled, the ones of no function
    functions: tuple[_Function, ...]
    time: TimeEmbedding
    enter: Dense
    blocks: tuple[_Both, ...]
    leave: Dense
    embedded: Embedded

    def __init__(self, settings: PointMLP, layout: Layout, *, key: PRNGKeyArray) -> None:
        check_embedded(settings.embedded, layout)
        if not layout.functions:
            raise DataError("PointMLP reads functions, and this layout has none; use net=rd.nets.ResMLP()")
        width, modeled = settings.width, layout.without((*settings.embedded, *layout.places))
        keys = iter(jr.split(key, 5 + settings.depth + 3 * len(layout.functions)))
        functions = [name for name in layout.functions if name in modeled.names]
        of_functions = {i for name in functions for i in range(*modeled.slices[name].indices(modeled.size))}
        self.elements = tuple(i for i in range(modeled.size) if i not in of_functions)
        self.functions = tuple(
            _Function(
                modeled.slices[name],
                layout.slices[places_of(name)],
                Dense(3, width, key=next(keys)),
                Coordinates(layout[name].axes, width, key=next(keys)),
                Dense(width, 1, key=next(keys), scale=0.0),
            )
            for name in functions
        )
        self.time = TimeEmbedding(key=next(keys))
        self.embedded = Embedded(settings.embed, layout, width=EMBEDDED, key=next(keys))
        size, more = len(self.elements), EMBEDDED * sum(self.embedded.tokens.values())
        self.enter = Dense(3 * size + more, width, key=next(keys))
        self.leave = Dense(width, size, key=next(keys), scale=0.0)
        self.blocks = tuple(_Both(width, key=next(keys)) for _ in range(settings.depth))

    def prepare(self, z: Tokens, roles: Roles) -> tuple[Float[Array, " e"], Float[Array, "k w"]]:
        places = [f.waves(z[f.places].reshape(-1, f.waves.axes)) for f in self.functions]
        return self.embedded(z, roles).ravel(), jnp.concatenate(places)

    def __call__(self, values: Tokens, roles: Roles, time: Scalar, prepared: Any) -> Tokens:
        embedded, places = prepared
        latent, given = (jnp.asarray(roles == role, values.dtype) for role in (LATENT, GIVEN))
        read = jnp.stack([values, latent, given], axis=-1)
        own = np.asarray(self.elements, int)
        c = self.enter(jnp.concatenate([read[own].T.ravel(), embedded]))
        p = places + jnp.concatenate([f.enter(read[f.values]) for f in self.functions])
        at = np.concatenate([np.arange(f.values.start, f.values.stop) for f in self.functions])
        e = self.time(time)
        for block in self.blocks:
            c, p = block(c, p, given[at], latent[at], e)
        points, start, parts = jax.nn.silu(normalize(p)), 0, [self.leave(jax.nn.silu(normalize(c)))]
        for f in self.functions:
            count = f.values.stop - f.values.start
            parts.append(f.leave(points[start : start + count])[:, 0])
            start += count
        return jnp.concatenate(parts)[self._order]

    @property
    def _order(self) -> np.ndarray:
        """Where among what is said, elements first and then functions, those that are modeled lie."""
        points = [np.arange(f.values.start, f.values.stop) for f in self.functions]
        return np.argsort(np.concatenate([np.asarray(self.elements, int), *points]))
