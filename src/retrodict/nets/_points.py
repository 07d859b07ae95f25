"""PointMLP: a residual MLP for functions observed at points, with one vector per row and one per point.

    c = W [values; latent?; given?; embedded observations]              all elements outside of functions
    p_j = V [value; latent?; given?] + Fourier features of the point    the same V for all points of a function
    c <- block(c + A [mean of given p; mean of latent p; log numbers of both], t)
    p_j <- block(p_j + B c, t)                                          `depth` times, blocks as in `_mlp`
    prediction = U c at elements, Y p_j at points

Points influence each other only through means (Zaheer et al. 2017). The cost is linear in their number and a fraction
of that of attention. Means suffice if the values are independent given the other variables, such as counts or noisy
measurements. Values that are correlated because their points are close need a `Simformer`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

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
from retrodict.nets._mlp import EMBEDDING_WIDTH, AbstractMLP, ResidualBlock
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import GIVEN, LATENT, AbstractRoleLaw
from retrodict.variables import Layout, places_of


@dataclass(frozen=True)
class PointMLP(AbstractMLP):
    """A residual MLP for a row, and one for its points that all points share; see `AbstractMLP`."""

    width: int = 96
    pointwise: ClassVar[bool] = True

    def build(
        self, layout: Layout, *, law: AbstractRoleLaw, dependencies: Dependencies | None, key: PRNGKeyArray
    ) -> AbstractNet:
        return _PointMLP(self, layout, key=key)


class _Function(eqx.Module):
    """The input and output layers of one function."""

    values: slice = eqx.field(static=True)  # its values, among the modeled elements
    places: slice = eqx.field(static=True)  # its points, among all elements
    enter: Dense
    waves: Coordinates
    leave: Dense


class _RowAndPoints(eqx.Module):
    """A block for the row and a block for its points; each reads the output of the other."""

    pool: Dense
    row: ResidualBlock
    tell: Dense
    point: ResidualBlock

    def __init__(self, width: int, *, key: PRNGKeyArray) -> None:
        keys = jr.split(key, 4)
        self.pool = Dense(2 * width + 2, width, key=keys[0])
        self.row = ResidualBlock(width, key=keys[1])
        self.tell = Dense(width, width, key=keys[2])
        self.point = ResidualBlock(width, key=keys[3])

    def __call__(self, c: Array, p: Array, given: Array, latent: Array, time: Array) -> tuple[Array, Array]:
        inner, counts = normalize(p), jnp.stack([jnp.sum(given), jnp.sum(latent)])
        means = [mask @ inner / jnp.maximum(n, 1.0) for mask, n in zip((given, latent), counts, strict=True)]
        c = self.row(c + self.pool(jnp.concatenate([*means, jnp.log1p(counts)])), time)
        p = p + self.tell(normalize(c))
        return c, jax.vmap(self.point, (0, None))(p, time)


class _PointMLP(AbstractNet):
    elements: tuple[int, ...] = eqx.field(static=True)  # modeled elements outside of functions
    functions: tuple[_Function, ...]
    time: TimeEmbedding
    enter: Dense
    blocks: tuple[_RowAndPoints, ...]
    leave: Dense
    embedded: Embedded

    def __init__(self, settings: PointMLP, layout: Layout, *, key: PRNGKeyArray) -> None:
        check_embedded(settings.embedded, layout)
        if not layout.functions:
            raise DataError("PointMLP reads functions, and this layout has none; use net=rd.nets.ResMLP()")
        width, modeled = settings.width, layout.without((*settings.embedded, *layout.places))
        keys = iter(jr.split(key, 5 + settings.depth + 3 * len(layout.functions)))
        functions = [name for name in layout.functions if name in modeled.names]
        function_elements = {i for name in functions for i in range(*modeled.slices[name].indices(modeled.size))}
        self.elements = tuple(i for i in range(modeled.size) if i not in function_elements)
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
        self.embedded = Embedded(settings.embed, layout, width=EMBEDDING_WIDTH, key=next(keys))
        size, n_embedded = len(self.elements), EMBEDDING_WIDTH * sum(self.embedded.tokens.values())
        self.enter = Dense(3 * size + n_embedded, width, key=next(keys))
        self.leave = Dense(width, size, key=next(keys), scale=0.0)
        self.blocks = tuple(_RowAndPoints(width, key=next(keys)) for _ in range(settings.depth))

    def prepare(self, z: Tokens, roles: Roles) -> tuple[Float[Array, " e"], Float[Array, "k w"]]:
        places = [f.waves(z[f.places].reshape(-1, f.waves.axes)) for f in self.functions]
        return self.embedded(z, roles).ravel(), jnp.concatenate(places)

    def __call__(self, values: Tokens, roles: Roles, time: Scalar, prepared: Any) -> Tokens:
        embedded, places = prepared
        is_latent, is_given = (jnp.asarray(roles == role, values.dtype) for role in (LATENT, GIVEN))
        inputs = jnp.stack([values, is_latent, is_given], axis=-1)
        elements = np.asarray(self.elements, int)
        points = np.concatenate([np.arange(f.values.start, f.values.stop) for f in self.functions])
        c = self.enter(jnp.concatenate([inputs[elements].T.ravel(), embedded]))
        p = places + jnp.concatenate([f.enter(inputs[f.values]) for f in self.functions])
        e = self.time(time)
        for block in self.blocks:
            c, p = block(c, p, is_given[points], is_latent[points], e)
        p, start, predictions = jax.nn.silu(normalize(p)), 0, [self.leave(jax.nn.silu(normalize(c)))]
        for f in self.functions:
            count = f.values.stop - f.values.start
            predictions.append(f.leave(p[start : start + count])[:, 0])
            start += count
        return jnp.concatenate(predictions)[np.argsort(np.concatenate([elements, points]))]
