"""Flux1 and Flux1Joint: the blocks of image generators, for simulators (GenSBI, arXiv 2605.27499).

`Flux1Joint` has one stream of tokens with roles, and blocks whose attention and MLP work side by side.

`Flux1` has two streams, what is given and what is asked. In its first blocks each stream has weights of its own and
both attend to both (Esser et al. 2024); then they are joined, for parallel blocks. Which element belongs to which
stream is fixed when it is built, so that it serves one fixed question, of which given elements may be missing.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import DataError, QueryError
from retrodict._types import Roles, Scalar, Tokens
from retrodict.nets._base import AbstractNet, Constant
from retrodict.nets._blocks import Parallel, Sequential, TimeEmbedding, attend, normalize
from retrodict.nets._simformer import OneStream
from retrodict.nets._tokenizer import AbstractTransformer, Prepared, Tokenizer
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import GIVEN, LATENT, VARIES, AbstractRoleLaw
from retrodict.variables import Layout


@dataclass(frozen=True)
class Flux1Joint(AbstractTransformer):
    """One stream of tokens with roles, `depth` parallel blocks; see `AbstractTransformer`."""

    depth: int = 8

    def build(
        self, layout: Layout, *, law: AbstractRoleLaw, dependencies: Dependencies | None, key: PRNGKeyArray
    ) -> AbstractNet:
        return OneStream(self, layout, dependencies, Parallel, self.depth, key=key)


@dataclass(frozen=True)
class Flux1(AbstractTransformer):
    """Two streams, `double` blocks, then one stream, `single` blocks; for a fixed question, see `AbstractTransformer`.

    Raises:
        QueryError: when built for random roles.
    """

    double: int = 4
    single: int = 8

    def build(
        self, layout: Layout, *, law: AbstractRoleLaw, dependencies: Dependencies | None, key: PRNGKeyArray
    ) -> AbstractNet:
        roles = law.fixed(layout)
        if (roles[layout.tokens_of(layout.without(self.embedded).names)] == VARIES).any():
            raise QueryError(
                "Flux1 keeps what is given and what is asked in two streams, so it serves one fixed question, but this "
                f"law of roles ({type(law).__name__}) draws another for every row; use rd.posterior or rd.likelihood, "
                "or Flux1Joint"
            )
        return TwoStreams(self, layout, dependencies, roles == LATENT, key=key)


class TwoStreams(AbstractNet):
    """Two streams that are joined after a while."""

    tokenizer: Tokenizer
    time: TimeEmbedding
    pairs: tuple["Pair", ...]
    blocks: tuple[Parallel, ...]
    asked: Constant = eqx.field(static=True)  # elements of the whole layout
    order: Constant = eqx.field(static=True)  # tokens, those of the given stream first
    given: int = eqx.field(static=True)

    def __init__(
        self,
        settings: Flux1,
        layout: Layout,
        dependencies: Dependencies | None,
        asked: np.ndarray,
        *,
        key: PRNGKeyArray,
    ) -> None:
        key_tokens, key_time, *keys = jr.split(key, 2 + settings.double + settings.single)
        self.tokenizer = Tokenizer(settings, layout, dependencies, key=key_tokens)
        self.time = TimeEmbedding(key=key_time)
        sizes = (settings.across, settings.heads, settings.head_size, settings.widening)
        self.pairs = tuple(Pair(*sizes, key=k, half=settings.half) for k in keys[: settings.double])
        self.blocks = tuple(Parallel(*sizes, key=k, half=settings.half) for k in keys[settings.double :])
        self.asked = Constant(asked)
        latent = self.tokenizer.latent(asked)
        self.order = Constant(np.argsort(latent, kind="stable"))
        self.given = int((~latent).sum())
        if self.given in (0, len(latent)):
            raise DataError("Flux1 needs something given and something asked; use Flux1Joint for one stream")

    def refusal(self, roles: np.ndarray) -> str | None:
        wrong = np.where(self.asked.array, roles == GIVEN, roles == LATENT)
        if not wrong.any():
            return None
        return (
            "Flux1 was built for one question, and this one asks for what was given there or gives what was asked; "
            "ask the question that it was trained for, or train a Flux1Joint"
        )

    def prepare(self, z: Tokens, roles: Roles) -> Prepared:
        found, order = self.tokenizer.prepare(z, roles), self.order.array
        return Prepared(found.context, found.mask[order][:, order], found.places)

    def __call__(self, values: Tokens, roles: Roles, time: Scalar, prepared: Prepared) -> Tokens:
        order, angles, e = self.order.array, self.tokenizer.identity.angles, self.time(time)
        h = self.tokenizer.read(values, roles, prepared)[order]
        angles = None if angles is None else angles[order]
        known, sought = h[: self.given], h[self.given :]
        for pair in self.pairs:
            known, sought = pair(known, sought, e, prepared.mask, angles)
        h = jnp.concatenate([known, sought])
        for block in self.blocks:
            h = block(h, e, prepared.mask, angles)
        return self.tokenizer.say(normalize(h)[np.argsort(order)])


class Pair(eqx.Module):
    """A block of two streams: weights of their own, one attention."""

    streams: tuple[Sequential, Sequential]

    def __init__(
        self, width: int, heads: int, size: int, widening: int, *, key: PRNGKeyArray, half: bool = False
    ) -> None:
        first, second = (Sequential(width, heads, size, widening, key=k, half=half, normed=True) for k in jr.split(key))
        self.streams = (first, second)

    def __call__(self, known: Array, sought: Array, time: Array, mask: Array, angles: Any) -> tuple[Array, Array]:
        n, (first, second) = len(known), self.streams
        here, there = first.modulation(time), second.modulation(time)
        turns = (None, None) if angles is None else (angles[:n], angles[n:])
        own = (first.ask(known, here, turns[0]), second.ask(sought, there, turns[1]))
        q, k, v = (jnp.concatenate(parts) for parts in zip(*own, strict=True))
        seen = attend(q, k, v, mask)
        return first.go_on(known, seen[:n], here), second.go_on(sought, seen[n:], there)
