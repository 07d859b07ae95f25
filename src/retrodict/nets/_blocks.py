"""Building blocks of every network, for one example; `vmap` batches them.

    Dense        x W + b, in single precision or with bfloat16 factors and sums in single precision
    normalize    LayerNorm without weights
    modulate     adaptive LayerNorm: (1 + scale) normalize(h) + shift, then h + gate * inner    (Peebles and Xie 2023)
    attend       softmax(q k' / sqrt(size)) v over the tokens in a mask; the weight of other tokens is exactly zero

Two kinds of block are made of them. In `Sequential` the MLP follows attention, each after its own normalization
(Vaswani et al. 2017, in the order of Xiong et al. 2020). In `Parallel` both start from one projection (Dehghani et al.
2023), with normalized queries and keys. All gates start at zero, so that an untrained block is the identity.
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
MAX_FREQUENCY = 100.0  # radians per unit of time; the path has no finer structure
MASKED_SCORE = -1e30  # its exponential is exactly zero
MAX_ELEMENTWISE_PAIRS = 36  # of tokens; up to here elementwise products are faster than small matrix products


class Dense(eqx.Module):
    """`x W + b` on the last axis; the weights start with variance `scale^2 / inputs`, the bias at zero.

    Unlike `eqx.nn.Linear` it takes any leading axes, and it can multiply in half precision.
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]
    half: bool = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray, scale: float = 1.0, half: bool = False) -> None:
        # drawn as (outputs, inputs), as earlier versions stored it: equal keys give equal weights
        self.weight = scale * jr.normal(key, (outputs, inputs)).T / math.sqrt(inputs)
        self.bias = jnp.zeros(outputs)
        self.half = half

    def __call__(self, x: Float[Array, "*n inputs"]) -> Float[Array, "*n outputs"]:
        if not self.half:
            return product(x, self.weight) + self.bias
        x, weight = x.astype(jnp.bfloat16), self.weight.astype(jnp.bfloat16)
        return jnp.matmul(x, weight, preferred_element_type=self.bias.dtype) + self.bias


def sinusoids(time: Scalar) -> Float[Array, " e"]:
    """Returns `TIME_WIDTH` sines and cosines of the time."""
    frequencies = jnp.geomspace(1.0, MAX_FREQUENCY, TIME_WIDTH // 2)
    return jnp.concatenate([jnp.sin(frequencies * time), jnp.cos(frequencies * time)])


def normalize(h: Float[Array, "*n w"]) -> Float[Array, "*n w"]:
    """Shifts and scales to zero mean and unit variance along the last axis."""
    h = h - jnp.mean(h, axis=-1, keepdims=True)
    return h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-5)


class Modulation(eqx.Module):
    """`count` triples of shift, scale and gate `(w,)`, linear in the embedded time; all start at zero."""

    dense: Dense
    count: int = eqx.field(static=True)

    def __init__(self, width: int, count: int, *, key: PRNGKeyArray, half: bool = False) -> None:
        self.dense = Dense(TIME_WIDTH, 3 * count * width, key=key, scale=0.0, half=half)
        self.count = count

    def __call__(self, time: Float[Array, " e"]) -> Float[Array, "count 3 w"]:
        return self.dense(time).reshape(self.count, 3, -1)


class TimeEmbedding(eqx.Module):
    """An embedding of the time, the input of modulations: an activated linear map of `sinusoids`."""

    dense: Dense

    def __init__(self, *, key: PRNGKeyArray) -> None:
        self.dense = Dense(TIME_WIDTH, TIME_WIDTH, key=key)

    def __call__(self, time: Scalar) -> Float[Array, " e"]:
        return jax.nn.silu(self.dense(sinusoids(time)))


def modulate(h: Float[Array, "t w"], modulation: Float[Array, "3 w"]) -> Float[Array, "t w"]:
    """Returns `(1 + scale) normalize(h) + shift`, the input of a block."""
    return (1.0 + modulation[1]) * normalize(h) + modulation[0]


def attend(
    q: Float[Array, "t h k"], k: Float[Array, "s h k"], v: Float[Array, "s h k"], mask: Bool[Array, "t s"]
) -> Float[Array, "t hk"]:
    """Averages the values of `s` tokens for each of `t` tokens, over those that `mask` shows it.

    Sums are in single precision.
    """
    if mask.size <= MAX_ELEMENTWISE_PAIRS:
        return _attend_elementwise(q, k, v, mask)
    scores = jnp.einsum("thk,shk->hts", q, k) / math.sqrt(q.shape[-1])
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED_SCORE), axis=-1)
    return jnp.einsum("hts,shk->thk", weights, v).reshape(len(q), -1)


class Heads(eqx.Module):
    """A split of queries, keys and values into heads.

    With `normed`, queries and keys are normalized and multiplied by a trained gain; then they are rotated.
    """

    heads: int = eqx.field(static=True)
    gains: Float[Array, "2 k"] | None

    def __init__(self, heads: int, size: int, *, normed: bool) -> None:
        self.heads = heads
        self.gains = jnp.ones((2, size)) if normed else None

    def __call__(self, qkv: Float[Array, "t _"], rotation: Any) -> tuple[Array, Array, Array]:
        q, k, v = (array.reshape(len(qkv), self.heads, -1) for array in jnp.split(qkv, 3, axis=-1))
        if self.gains is not None:
            q, k = _unit(q) * self.gains[0], _unit(k) * self.gains[1]
        return (q, k, v) if rotation is None else (rotate(q, rotation), rotate(k, rotation), v)


def rotate(q: Float[Array, "t h k"], angles: Float[Array, "t half"]) -> Float[Array, "t h k"]:
    """Rotates pairs of numbers by the angles of a token's position, so that scores depend on differences of positions.

    Source: Su et al. 2021.
    """
    size = 2 * angles.shape[-1]
    first, second = jnp.split(q[..., :size], 2, axis=-1)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    rotated = jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return jnp.concatenate([rotated, q[..., size:]], axis=-1)


class Sequential(eqx.Module):
    """A block of attention, then an MLP.

    It is written in two halves, before and after attention, so that two blocks can share one attention.
    """

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

    def queries_keys_values(self, h: Array, modulation: Array, rotation: Any) -> tuple[Array, Array, Array]:
        """Returns the inputs of attention."""
        return self.heads(self.qkv(modulate(h, modulation[0])), rotation)

    def update(self, h: Array, attended: Array, modulation: Array) -> Array:
        """Returns the tokens after the block, from the output of attention."""
        h = h + modulation[0, 2] * self.mix(attended)
        return h + modulation[1, 2] * self.down(jax.nn.gelu(self.up(modulate(h, modulation[1]))))

    def __call__(self, h: Array, time: Array, mask: Array, rotation: Any) -> Array:
        modulation = self.modulation(time)
        attended = attend(*self.queries_keys_values(h, modulation, rotation), mask)
        return self.update(h, attended, modulation)


class Parallel(eqx.Module):
    """A block of attention and an MLP side by side, with one projection before and one after both."""

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
        projected = self.into(modulate(h, modulation))
        attended = attend(*self.heads(projected[:, : self.attention], rotation), mask)
        hidden = jax.nn.gelu(projected[:, self.attention :])
        return h + modulation[2] * self.out(jnp.concatenate([attended, hidden], axis=-1))


def _attend_elementwise(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """Computes `attend` without a matrix product per head.

    The score of a pair of tokens is repeated over the numbers of its head, by the matrix `head_sum`.
    """
    heads, size = q.shape[1:]
    q, k, v = (array.reshape(len(array), -1) for array in (q, k, v))
    head_sum = jnp.kron(jnp.eye(heads, dtype=q.dtype), jnp.ones((size, size), q.dtype)) / math.sqrt(size)
    scores = jnp.where(mask[..., None], (q[:, None] * k) @ head_sum, MASKED_SCORE)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=1, keepdims=True)))
    return jnp.sum(weights * v, axis=1) / jnp.sum(weights, axis=1)


def _unit(q: Float[Array, "t h k"]) -> Float[Array, "t h k"]:
    return q * jax.lax.rsqrt(jnp.mean(q**2, axis=-1, keepdims=True) + 1e-6)
