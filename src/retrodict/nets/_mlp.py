"""The residual MLP with adaptive layer normalization, OneFlowSBI's network (arXiv 2601.22951, section 2.2).

    h = W [values; latent?; given?; embedded observations]        all tokens in one vector
    h <- h + gain(t) * MLP((1 + scale(t)) * LayerNorm(h) + shift(t))        `depth` times
    prediction = V silu(LayerNorm(h))

scale, shift and gain are linear in an embedding of the time. The embedding is narrow, because with a wide one the
modulation would cost as much as the blocks. V starts at zero, so that an untrained network predicts zero.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict._errors import DataError
from retrodict._types import Roles, Scalar, Tokens
from retrodict.nets._base import AbstractArchitecture, AbstractNet
from retrodict.nets._blocks import TIME_WIDTH, Dense, TimeEmbedding, normalize
from retrodict.nets._embeddings import Embedded, as_embeddings, check_embedded
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import GIVEN, LATENT, AbstractRoleLaw
from retrodict.variables import Layout


EMBEDDING_WIDTH = 32  # numbers per embedded token


@dataclass(frozen=True)
class AbstractMLP(AbstractArchitecture):
    """Settings of residual MLPs.

    Args:
        width: numbers per hidden layer.
        depth: residual blocks.
        embed: name of a variable to its embedding, or to an equinox module.
    """

    width: int = 256
    depth: int = 3
    embed: Any = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "embed", as_embeddings(self.embed))
        if self.width < 1 or self.depth < 1:
            sizes = f"width={self.width}, depth={self.depth}"
            raise DataError(f"{type(self).__name__} needs a positive width and depth, got {sizes}")


@dataclass(frozen=True)
class ResMLP(AbstractMLP):
    """A residual MLP that reads all elements as one vector; see `AbstractMLP`."""

    def build(
        self, layout: Layout, *, law: AbstractRoleLaw, dependencies: Dependencies | None, key: PRNGKeyArray
    ) -> AbstractNet:
        return _ResMLP(self, layout, key=key)


class ResidualBlock(eqx.Module):
    """A residual block, modulated by the time."""

    modulate: tuple[Dense, ...]  # scale, shift, gain; one matrix for all three has a slower gradient
    enter: Dense
    leave: Dense

    def __init__(self, width: int, *, key: PRNGKeyArray) -> None:
        key_modulate, key_enter, key_leave = jr.split(key, 3)
        self.modulate = tuple(Dense(TIME_WIDTH, width, key=k, scale=0.0) for k in jr.split(key_modulate, 3))
        self.enter = Dense(width, width, key=key_enter)
        self.leave = Dense(width, width, key=key_leave)

    def __call__(self, h: Float[Array, " w"], time: Float[Array, " e"]) -> Float[Array, " w"]:
        scale, shift, gain = (dense(time) for dense in self.modulate)
        inner = self.leave(jax.nn.silu(self.enter((1.0 + scale) * normalize(h) + shift)))
        return h + (1.0 + gain) * inner


class _ResMLP(AbstractNet):
    enter: Dense
    time: TimeEmbedding
    blocks: tuple[ResidualBlock, ...]
    leave: Dense
    embedded: Embedded

    def __init__(self, settings: ResMLP, layout: Layout, *, key: PRNGKeyArray) -> None:
        width, depth = settings.width, settings.depth
        check_embedded(settings.embedded, layout)
        if layout.functions:
            raise DataError(
                f"'{layout.functions[0]}' is a function, seen at points that differ from row to row, which needs a "
                "token per element or point; use net=rd.nets.Simformer() or rd.nets.PointMLP()"
            )
        size = layout.size - sum(layout[name].size for name in settings.embedded)
        key_enter, key_time, key_leave, *keys = jr.split(key, 3 + depth)
        self.embedded = Embedded(settings.embed, layout, width=EMBEDDING_WIDTH, key=jr.fold_in(key, 0))
        n_embedded = EMBEDDING_WIDTH * sum(self.embedded.tokens.values())
        self.enter = Dense(3 * size + n_embedded, width, key=key_enter)
        self.time = TimeEmbedding(key=key_time)
        self.blocks = tuple(ResidualBlock(width, key=k) for k in keys)
        self.leave = Dense(width, size, key=key_leave, scale=0.0)

    def prepare(self, z: Tokens, roles: Roles) -> Float[Array, " e"]:
        return self.embedded(z, roles).ravel()

    def __call__(self, values: Tokens, roles: Roles, time: Scalar, prepared: Float[Array, " e"]) -> Tokens:
        h = self.enter(jnp.concatenate([values, roles == LATENT, roles == GIVEN, prepared]))
        e = self.time(time)
        for block in self.blocks:
            h = block(h, e)
        return self.leave(jax.nn.silu(normalize(h)))
