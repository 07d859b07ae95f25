"""Flux1 and Flux1Joint: the blocks of image generators, for simulators (GenSBI, arXiv 2605.27499).

`Flux1Joint` has one stream of tokens with roles. In its blocks attention and MLP work side by side.

`Flux1` has two streams: the given tokens and the latent ones. In its first blocks each stream has its own weights, and
both attend to both (Esser et al. 2024). Then the streams are joined for parallel blocks. The stream of each element is
fixed when the network is built. It therefore answers one fixed query, in which given elements may be missing.
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
    """A transformer with one stream of tokens and `depth` parallel blocks; see `AbstractTransformer`."""

    depth: int = 8

    def build(
        self, layout: Layout, *, law: AbstractRoleLaw, dependencies: Dependencies | None, key: PRNGKeyArray
    ) -> AbstractNet:
        return OneStream(self, layout, dependencies, Parallel, self.depth, key=key)


@dataclass(frozen=True)
class Flux1(AbstractTransformer):
    """A transformer with two streams for `double` blocks, then one stream for `single` blocks, for one fixed query.

    `AbstractTransformer` describes the other settings.

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
    """A stack of blocks of two streams, then of blocks of the joined stream."""

    tokenizer: Tokenizer
    time: TimeEmbedding
    pairs: tuple["TwoStreamBlock", ...]
    blocks: tuple[Parallel, ...]
    latent: Constant = eqx.field(static=True)  # mask of the latent elements of the whole layout
    order: Constant = eqx.field(static=True)  # of tokens, the given stream first
    n_given: int = eqx.field(static=True)  # tokens of the given stream

    def __init__(
        self,
        settings: Flux1,
        layout: Layout,
        dependencies: Dependencies | None,
        latent: np.ndarray,
        *,
        key: PRNGKeyArray,
    ) -> None:
        key_tokens, key_time, *keys = jr.split(key, 2 + settings.double + settings.single)
        self.tokenizer = Tokenizer(settings, layout, dependencies, key=key_tokens)
        self.time = TimeEmbedding(key=key_time)
        sizes = (settings.across, settings.heads, settings.head_size, settings.widening)
        self.pairs = tuple(TwoStreamBlock(*sizes, key=k, half=settings.half) for k in keys[: settings.double])
        self.blocks = tuple(Parallel(*sizes, key=k, half=settings.half) for k in keys[settings.double :])
        self.latent = Constant(latent)
        is_latent = self.tokenizer.latent(latent)
        self.order = Constant(np.argsort(is_latent, kind="stable"))
        self.n_given = int((~is_latent).sum())
        if self.n_given in (0, len(is_latent)):
            raise DataError("Flux1 needs something given and something asked; use Flux1Joint for one stream")

    def refusal(self, roles: np.ndarray) -> str | None:
        conflicts = np.where(self.latent.array, roles == GIVEN, roles == LATENT)
        if not conflicts.any():
            return None
        return (
            "Flux1 was built for one question, and this one asks for what was given there or gives what was asked; "
            "ask the question that it was trained for, or train a Flux1Joint"
        )

    def prepare(self, z: Tokens, roles: Roles) -> Prepared:
        prepared, order = self.tokenizer.prepare(z, roles), self.order.array
        return Prepared(prepared.context, prepared.mask[order][:, order], prepared.places)

    def __call__(self, values: Tokens, roles: Roles, time: Scalar, prepared: Prepared) -> Tokens:
        order, angles, e = self.order.array, self.tokenizer.identity.angles, self.time(time)
        h = self.tokenizer.read(values, roles, prepared)[order]
        angles = None if angles is None else angles[order]
        streams = h[: self.n_given], h[self.n_given :]
        for pair in self.pairs:
            streams = pair(*streams, e, prepared.mask, angles)
        h = jnp.concatenate(streams)
        for block in self.blocks:
            h = block(h, e, prepared.mask, angles)
        return self.tokenizer.predict(normalize(h)[np.argsort(order)])


class TwoStreamBlock(eqx.Module):
    """A block of two streams, each with its own weights, that share one attention."""

    streams: tuple[Sequential, Sequential]

    def __init__(
        self, width: int, heads: int, size: int, widening: int, *, key: PRNGKeyArray, half: bool = False
    ) -> None:
        first, second = (Sequential(width, heads, size, widening, key=k, half=half, normed=True) for k in jr.split(key))
        self.streams = (first, second)

    def __call__(
        self, given_tokens: Array, latent_tokens: Array, time: Array, mask: Array, angles: Any
    ) -> tuple[Array, Array]:
        n, (first, second) = len(given_tokens), self.streams
        first_modulation, second_modulation = first.modulation(time), second.modulation(time)
        rotations = (None, None) if angles is None else (angles[:n], angles[n:])
        projected = (
            first.queries_keys_values(given_tokens, first_modulation, rotations[0]),
            second.queries_keys_values(latent_tokens, second_modulation, rotations[1]),
        )
        q, k, v = (jnp.concatenate(pair) for pair in zip(*projected, strict=True))
        attended = attend(q, k, v, mask)
        return (
            first.update(given_tokens, attended[:n], first_modulation),
            second.update(latent_tokens, attended[n:], second_modulation),
        )
