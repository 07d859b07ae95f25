"""Simformer: every element is a token that attends to the elements it depends on.

    tokens <- [value and role ; identity]
    tokens <- tokens + gate attend(tokens, mask);   tokens <- tokens + gate MLP(tokens)      `depth` times
    prediction = V normalize(tokens)

Unlike in the paper, identities are trained, and the time shifts, scales and gates each half of a block.

Source: Gloeckler et al. 2024, arXiv 2404.09636.
"""

from dataclasses import dataclass

import jax.random as jr
from jaxtyping import PRNGKeyArray

from retrodict._types import Roles, Scalar, Tokens
from retrodict.nets._base import AbstractNet
from retrodict.nets._blocks import Parallel, Sequential, TimeEmbedding, normalize
from retrodict.nets._tokenizer import AbstractTransformer, Prepared, Tokenizer
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import AbstractRoleLaw
from retrodict.variables import Layout


@dataclass(frozen=True)
class Simformer(AbstractTransformer):
    """A transformer with a token per element, `depth` blocks of attention and MLP; see `AbstractTransformer`."""

    depth: int = 6

    def build(
        self, layout: Layout, *, law: AbstractRoleLaw, dependencies: Dependencies | None, key: PRNGKeyArray
    ) -> AbstractNet:
        return OneStream(self, layout, dependencies, Sequential, self.depth, key=key)


class OneStream(AbstractNet):
    """A stack of one kind of block over all tokens."""

    tokenizer: Tokenizer
    time: TimeEmbedding
    blocks: tuple[Sequential | Parallel, ...]

    def __init__(
        self,
        settings: AbstractTransformer,
        layout: Layout,
        dependencies: Dependencies | None,
        block: type[Sequential] | type[Parallel],
        depth: int,
        *,
        key: PRNGKeyArray,
    ) -> None:
        key_tokens, key_time, *keys = jr.split(key, 2 + depth)
        self.tokenizer = Tokenizer(settings, layout, dependencies, key=key_tokens)
        self.time = TimeEmbedding(key=key_time)
        sizes = (settings.across, settings.heads, settings.head_size, settings.widening)
        self.blocks = tuple(block(*sizes, key=k, half=settings.half) for k in keys)

    def prepare(self, z: Tokens, roles: Roles) -> Prepared:
        return self.tokenizer.prepare(z, roles)

    def __call__(self, values: Tokens, roles: Roles, time: Scalar, prepared: Prepared) -> Tokens:
        h, e, angles = self.tokenizer.read(values, roles, prepared), self.time(time), self.tokenizer.identity.angles
        for block in self.blocks:
            h = block(h, e, prepared.mask, angles)
        return self.tokenizer.predict(normalize(h))
