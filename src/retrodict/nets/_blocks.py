"""The parts that every network is made of, for one example; `vmap` batches them.

    Dense        x W + b, in single precision or with bfloat16 factors and sums in single precision
    normalize    LayerNorm without weights
    modulate     adaptive LayerNorm: (1 + scale) normalize(h) + shift, then h + gate * inner    (Peebles and Xie 2023)
    attend       softmax(q k' / sqrt(size)) v over the tokens that a mask shows; the others count exactly nothing

Two blocks are built of them: `Sequential`, attention and then an MLP, each behind its own normalization (Vaswani et al.
2017, in the order of Xiong et al. 2020), and `Parallel`, both from one projection (Dehghani et al. 2023), with
normalized queries and keys. Their gates start at zero, so that an untrained block is the identity.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from retrodict._types import Scalar
from retrodict.nets._product import product


TIME_WIDTH = 64
FASTEST = 100.0  # radians per unit of time: finer than that the path has no structure
HIDDEN = -1e30  # a score whose exponential is exactly zero
FEW = 36  # pairs of tokens up to which elementwise products beat small matrix products, by half of a step at 16


class Dense(eqx.Module):
    """`x W + b` on the last axis; weights of variance `scale^2 / inputs`, no bias at first.

    Unlike `eqx.nn.Linear` it takes any leading axes, and factors in half precision.
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]
    half: bool = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray, scale: float = 1.0, half: bool = False) -> None:
        # drawn the other way round, as it was first stored, so that seeds keep their numbers
        self.weight = scale * jr.normal(key, (outputs, inputs)).T / math.sqrt(inputs)
        self.bias = jnp.zeros(outputs)
        self.half = half

    def __call__(self, x: Float[Array, "*n inputs"]) -> Float[Array, "*n outputs"]:
        if not self.half:
            return product(x, self.weight) + self.bias
        x, weight = x.astype(jnp.bfloat16), self.weight.astype(jnp.bfloat16)
        return jnp.matmul(x, weight, preferred_element_type=self.bias.dtype) + self.bias


def waves(time: Scalar) -> Float[Array, " e"]:
    """Sines and cosines of the time, `TIME_WIDTH` of them."""
    frequencies = jnp.geomspace(1.0, FASTEST, TIME_WIDTH // 2)
    return jnp.concatenate([jnp.sin(frequencies * time), jnp.cos(frequencies * time)])


def normalize(h: Float[Array, "*n w"]) -> Float[Array, "*n w"]:
    """Zero mean and unit variance along the last axis."""
    h = h - jnp.mean(h, axis=-1, keepdims=True)
    return h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-5)


class Modulation(eqx.Module):
    """`count` times shift, scale and gate `(w,)`, linear in the embedded time and zero at first."""

    dense: Dense
    count: int = eqx.field(static=True)

    def __init__(self, width: int, count: int, *, key: PRNGKeyArray, half: bool = False) -> None:
        self.dense = Dense(TIME_WIDTH, 3 * count * width, key=key, scale=0.0, half=half)
        self.count = count

    def __call__(self, time: Float[Array, " e"]) -> Float[Array, "count 3 w"]:
        return self.dense(time).reshape(self.count, 3, -1)


class TimeEmbedding(eqx.Module):
    """What modulations read: an activated linear map of `waves`."""

    dense: Dense

    def __init__(self, *, key: PRNGKeyArray) -> None:
        self.dense = Dense(TIME_WIDTH, TIME_WIDTH, key=key)

    def __call__(self, time: Scalar) -> Float[Array, " e"]:
        return jax.nn.silu(self.dense(waves(time)))


def enter(h: Float[Array, "t w"], modulation: Float[Array, "3 w"]) -> Float[Array, "t w"]:
    """What a block reads: `(1 + scale) normalize(h) + shift`."""
    return (1.0 + modulation[1]) * normalize(h) + modulation[0]


def attend(
    q: Float[Array, "t h k"], k: Float[Array, "s h k"], v: Float[Array, "s h k"], mask: Bool[Array, "t s"]
) -> Float[Array, "t hk"]:
    """Attention of `t` tokens over those of `s` that `mask` shows each of them, the sums in single precision."""
    if mask.size <= FEW:
        return _attend_elementwise(q, k, v, mask)
    scores = jnp.einsum("thk,shk->hts", q, k) / math.sqrt(q.shape[-1])
    weights = jax.nn.softmax(jnp.where(mask, scores, HIDDEN), axis=-1)
    return jnp.einsum("hts,shk->thk", weights, v).reshape(len(q), -1)


class Heads(eqx.Module):
    """Queries, keys and values split into heads: normalized with a learned gain, if `normed`, then rotated."""

    heads: int = eqx.field(static=True)
    gains: Float[Array, "2 k"] | None

    def __init__(self, heads: int, size: int, *, normed: bool) -> None:
        self.heads = heads
        self.gains = jnp.ones((2, size)) if normed else None

    def __call__(self, qkv: Float[Array, "t _"], rotation: Any) -> tuple[Array, Array, Array]:
        q, k, v = (part.reshape(len(qkv), self.heads, -1) for part in jnp.split(qkv, 3, axis=-1))
        if self.gains is not None:
            q, k = (_unit(part) * gain for part, gain in ((q, self.gains[0]), (k, self.gains[1])))
        return (q, k, v) if rotation is None else (rotate(q, rotation), rotate(k, rotation), v)


def rotate(q: Float[Array, "t h k"], angles: Float[Array, "t half"]) -> Float[Array, "t h k"]:
    """Turns pairs of numbers by the angles of a token's place, so that scores see differences (Su et al. 2021)."""
    pairs = 2 * angles.shape[-1]
    first, second = jnp.split(q[..., :pairs], 2, axis=-1)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    turned = jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return jnp.concatenate([turned, q[..., pairs:]], axis=-1)


class Sequential(eqx.Module):
    """Attention, then an MLP; in two halves, so that two of them can share one attention."""

    modulation: Modulation
    heads: Heads
    qkv: Dense
    mix: Dense
    up: Dense
    down: Dense

    def __init__(
        self,
        width: int,
        heads: int,
        size: int,
        widening: int,
        *,
        key: PRNGKeyArray,
        half: bool = False,
        normed: bool = False,
    ) -> None:
        keys = jr.split(key, 5)
        self.modulation = Modulation(width, 2, key=keys[0], half=half)
        self.heads = Heads(heads, size, normed=normed)
        self.qkv = Dense(width, 3 * heads * size, key=keys[1], half=half)
        self.mix = Dense(heads * size, width, key=keys[2], half=half)
        self.up = Dense(width, widening * width, key=keys[3], half=half)
        self.down = Dense(widening * width, width, key=keys[4], half=half)

    def ask(self, h: Array, modulation: Array, rotation: Any) -> tuple[Array, Array, Array]:
        """Queries, keys and values."""
        return self.heads(self.qkv(enter(h, modulation[0])), rotation)

    def go_on(self, h: Array, seen: Array, modulation: Array) -> Array:
        """The tokens after attention has `seen`."""
        h = h + modulation[0, 2] * self.mix(seen)
        return h + modulation[1, 2] * self.down(jax.nn.gelu(self.up(enter(h, modulation[1]))))

    def __call__(self, h: Array, time: Array, mask: Array, rotation: Any) -> Array:
        modulation = self.modulation(time)
        return self.go_on(h, attend(*self.ask(h, modulation, rotation), mask), modulation)


class Parallel(eqx.Module):
    """Attention and an MLP side by side, from one projection and into one."""

    modulation: Modulation
    heads: Heads
    into: Dense
    out: Dense
    attention: int = eqx.field(static=True)

    def __init__(
        self, width: int, heads: int, size: int, widening: int, *, key: PRNGKeyArray, half: bool = False
    ) -> None:
        key_modulation, key_into, key_out = jr.split(key, 3)
        self.modulation = Modulation(width, 1, key=key_modulation, half=half)
        self.heads = Heads(heads, size, normed=True)
        self.attention = 3 * heads * size
        self.into = Dense(width, self.attention + widening * width, key=key_into, half=half)
        self.out = Dense(heads * size + widening * width, width, key=key_out, half=half)

    def __call__(self, h: Array, time: Array, mask: Array, rotation: Any) -> Array:
        (modulation,) = self.modulation(time)
        both = self.into(enter(h, modulation))
        seen = attend(*self.heads(both[:, : self.attention], rotation), mask)
        thought = jax.nn.gelu(both[:, self.attention :])
        return h + modulation[2] * self.out(jnp.concatenate([seen, thought], axis=-1))


def _attend_elementwise(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """`attend` without a matrix product per head: every pair's score is repeated over the numbers of its head."""
    heads, size = q.shape[1:]
    q, k, v = (part.reshape(len(part), -1) for part in (q, k, v))
    within = jnp.kron(jnp.eye(heads, dtype=q.dtype), jnp.ones((size, size), q.dtype)) / math.sqrt(size)
    scores = jnp.where(mask[..., None], (q[:, None] * k) @ within, HIDDEN)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=1, keepdims=True)))
    return jnp.sum(weights * v, axis=1) / jnp.sum(weights, axis=1)


def _unit(q: Float[Array, "t h k"]) -> Float[Array, "t h k"]:
    return q * jax.lax.rsqrt(jnp.mean(q**2, axis=-1, keepdims=True) + 1e-6)
