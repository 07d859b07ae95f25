"""Embeddings: networks that summarize one variable, trained end to end with the rest.

A variable that is always observed (a time series, an image, a set of trials) need not be modeled number by number:

    embedding    array (*shape), mask of observed elements (*shape)  ->  (features,) or (tokens, features)

Transformers attend to the tokens; the MLP reads all of them as one vector. An embedded variable is given or absent, and
never latent. Convolutions, spectrograms and sets also accept missing elements.
"""

import abc
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from retrodict._errors import DataError, FileError, unknown
from retrodict._types import Roles, Tokens
from retrodict.nets._base import AbstractSettings, Constant
from retrodict.nets._blocks import Dense, normalize
from retrodict.roles import GIVEN
from retrodict.variables import Layout, Variable


Module = Callable[[Array, Array], Array]


class AbstractEmbedding(AbstractSettings):
    """Settings from which `build` makes the embedding of a variable."""

    pieces: ClassVar[int] = 0  # number of first axes along which elements may be missing; 0: all given or all absent

    @abc.abstractmethod
    def build(self, variable: Variable, *, key: PRNGKeyArray) -> Module:
        """Builds an equinox module, `module(array (*shape), mask (*shape)) -> (features,)` or `(tokens, features)`.

        `mask` is true for observed elements; `array` is zero elsewhere.

        Raises:
            DataError: the embedding does not read variables of this shape.
        """


@dataclass(frozen=True, eq=False)
class UserModule(AbstractEmbedding):
    """An equinox module of the user, `module(array (*shape)) -> (features,)` or `(tokens, features)`.

    A model with it cannot be saved, because the module has no plain settings to write. A subclass of
    `AbstractEmbedding` has.
    """

    module: Any

    def build(self, variable: Variable, *, key: PRNGKeyArray) -> Module:
        return _WithoutMask(self.module)

    def to_json(self) -> dict[str, Any]:
        raise FileError(
            f"an embedding by {type(self.module).__name__} cannot be written to a file; make it a subclass of "
            "`rd.nets.AbstractEmbedding` whose `build` makes the module from plain settings"
        )


@dataclass(frozen=True)
class CNN1d(AbstractEmbedding):
    """Strided convolutions along a series `(length,)` or `(length, channels)`.

    Each of `channels` is one layer. The result is cut into `tokens` windows of equal length, and each becomes
    `features` numbers.
    """

    pieces: ClassVar[int] = 1

    channels: tuple[int, ...] = (16, 32, 64, 64)
    kernel: int = 8
    stride: int = 4
    tokens: int = 4
    features: int = 64

    def build(self, variable: Variable, *, key: PRNGKeyArray) -> Module:
        return _Convolutions(self, variable, axes=1, key=key)


@dataclass(frozen=True)
class CNN2d(AbstractEmbedding):
    """Strided convolutions over an image `(h, w)` or `(h, w, channels)`.

    Each of `channels` is one layer. The result is cut into `tokens` pieces of equal size, and each becomes `features`
    numbers.
    """

    pieces: ClassVar[int] = 2

    channels: tuple[int, ...] = (16, 32, 64)
    kernel: int = 3
    stride: int = 2
    tokens: int = 4
    features: int = 64

    def build(self, variable: Variable, *, key: PRNGKeyArray) -> Module:
        return _Convolutions(self, variable, axes=2, key=key)


@dataclass(frozen=True)
class Spectrogram(AbstractEmbedding):
    """Log power of a series `(length,)` or `(length, channels)` by time and frequency, an image read by `then`.

    The power is that of a short-time Fourier transform with a Hann window of `window` samples, at every `hop` samples,
    up to the share `highest` of the Nyquist frequency. Missing samples count as zero. It suits waves hidden in noise,
    where convolutions of the raw series would first have to learn the frequencies.
    """

    pieces: ClassVar[int] = 1

    window: int = 256
    hop: int = 64
    highest: float = 0.5
    then: AbstractEmbedding = CNN2d()

    def build(self, variable: Variable, *, key: PRNGKeyArray) -> Module:
        return _Spectrum(self, variable, key=key)


@dataclass(frozen=True)
class SetEncoder(AbstractEmbedding):
    """A set `(n, *element)`: rho(mean of phi(element), log of their number), which does not depend on the order.

    Elements may be missing (NaN).

    Source: Zaheer et al. 2017.
    """

    pieces: ClassVar[int] = 1

    width: int = 64
    features: int = 64

    def build(self, variable: Variable, *, key: PRNGKeyArray) -> Module:
        if not variable.shape:
            raise DataError(f"SetEncoder reads sets, but '{variable.name}' is a single number")
        return _Set(math.prod(variable.shape[1:]), self.width, self.features, key=key)


class Embedded(eqx.Module):
    """All embedded variables of a layout, projected to a common width."""

    modules: tuple[Module, ...]
    projections: tuple[Dense, ...]
    names: tuple[str, ...] = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)
    shapes: tuple[tuple[int, int], ...] = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def __init__(
        self, embeddings: tuple[tuple[str, Any], ...], layout: Layout, *, width: int, key: PRNGKeyArray
    ) -> None:
        self.names, self.layout, self.width = tuple(name for name, _ in embeddings), layout, width
        keys = jr.split(key, 2 * len(embeddings) + 1)
        pairs = zip(embeddings, keys[1::2], strict=False)
        self.modules = tuple(embedding.build(layout[name], key=k) for (name, embedding), k in pairs)
        self.shapes = tuple(_output_shape(m, layout[name]) for name, m in zip(self.names, self.modules, strict=True))
        self.projections = tuple(
            Dense(features, width, key=k) for (_, features), k in zip(self.shapes, keys[2::2], strict=True)
        )

    @property
    def tokens(self) -> dict[str, int]:
        """The number of tokens of each variable."""
        return {name: count for name, (count, _) in zip(self.names, self.shapes, strict=True)}

    def __call__(self, z: Tokens, roles: Roles) -> Float[Array, "s width"]:
        """Returns the embedded tokens, zero where a variable is absent."""
        blocks = [jnp.zeros((0, self.width))]
        for name, module, dense in zip(self.names, self.modules, self.projections, strict=True):
            shape, block = self.layout[name].shape, self.layout.slices[name]
            mask = (roles[block] == GIVEN).reshape(shape)
            features = jnp.atleast_2d(module(jnp.where(mask, z[block].reshape(shape), 0.0), mask))
            blocks.append(jnp.where(jnp.any(mask), dense(features), 0.0))
        return jnp.concatenate(blocks)


def as_embeddings(embed: Any) -> tuple[tuple[str, AbstractEmbedding], ...]:
    """Returns pairs of name and embedding; an equinox module becomes a `UserModule`.

    Raises:
        DataError: a value that is neither an embedding nor an equinox module.
    """
    pairs = []
    for name, embedding in dict(embed).items():
        if not isinstance(embedding, AbstractEmbedding | eqx.Module):
            raise DataError(
                f"`embed` maps '{name}' to an embedding such as rd.nets.CNN1d() or to an equinox module, "
                f"got {type(embedding).__name__}"
            )
        pairs.append((name, embedding if isinstance(embedding, AbstractEmbedding) else UserModule(embedding)))
    return tuple(pairs)


def check_embedded(names: tuple[str, ...], layout: Layout) -> None:
    """Raises DataError unless the names are variables of the layout and at least one variable is not embedded."""
    for name in names:
        if name not in layout.names:
            raise DataError(unknown("`embed`", name, layout.names))
    if len(names) == len(layout.names):
        raise DataError("every variable is embedded, so that nothing is left to infer; leave one out of `embed`")


class _WithoutMask(eqx.Module):
    module: Any

    def __call__(self, array: Array, mask: Bool[Array, "..."]) -> Array:
        return self.module(array)


class _Convolutions(eqx.Module):
    """Convolutions as matrix products of windows.

    Inside the training loop on a CPU, XLA's own convolution is many times slower.
    """

    convolutions: tuple[Dense, ...]
    leave: Dense
    strides: tuple[int, ...] = eqx.field(static=True)
    kernel: int = eqx.field(static=True)
    axes: int = eqx.field(static=True)
    tokens: int = eqx.field(static=True)

    def __init__(self, settings: CNN1d | CNN2d, variable: Variable, *, axes: int, key: PRNGKeyArray) -> None:
        shape = variable.shape
        if len(shape) not in (axes, axes + 1):
            expected = "(length,) or (length, channels)" if axes == 1 else "(h, w) or (h, w, channels)"
            raise DataError(
                f"{type(settings).__name__} reads variables of the shape {expected}, but '{variable.name}' has {shape}"
            )
        extent, channels = list(shape[:axes]), 2 * (shape[axes] if len(shape) > axes else 1)  # values and mask
        keys = jr.split(key, len(settings.channels) + 1)
        layers, strides = [], []
        for k, outputs in zip(keys[1:], settings.channels, strict=True):
            # a layer does not shrink the map below `tokens` places
            stride = settings.stride if math.prod(extent) >= settings.stride**axes * settings.tokens else 1
            layers.append(Dense(channels * settings.kernel**axes, outputs, key=k))
            strides.append(stride)
            extent, channels = [-(-n // stride) for n in extent], outputs
        self.convolutions, self.strides, self.kernel = tuple(layers), tuple(strides), settings.kernel
        self.axes, self.tokens = axes, settings.tokens
        self.leave = Dense(channels * -(-math.prod(extent) // settings.tokens), settings.features, key=keys[0])

    def __call__(self, array: Array, mask: Bool[Array, "..."]) -> Float[Array, "tokens features"]:
        x = jnp.stack([array, mask.astype(array.dtype)], axis=-1).reshape(*array.shape[: self.axes], -1)
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            x = jax.nn.silu(normalize(convolution(windows(x, self.kernel, stride))))
        x = x.reshape(-1, x.shape[-1])  # places, channels
        x = jnp.pad(x, ((0, -len(x) % self.tokens), (0, 0)))
        return self.leave(x.reshape(self.tokens, -1))


class _Spectrum(eqx.Module):
    transform: Constant = eqx.field(static=True)
    hop: int = eqx.field(static=True)
    then: Module

    def __init__(self, settings: Spectrogram, variable: Variable, *, key: PRNGKeyArray) -> None:
        window, hop, shape = settings.window, settings.hop, variable.shape
        if len(shape) not in (1, 2) or shape[0] < window:
            raise DataError(
                f"Spectrogram reads variables of the shape (length,) or (length, channels) of at least {window} "
                f"samples, but '{variable.name}' has {shape}"
            )
        if hop < 1 or window % hop or not 0 < settings.highest <= 1:
            raise DataError(
                "Spectrogram needs a `hop` that divides `window` and `highest` in (0, 1], "
                f"got {window}, {hop} and {settings.highest}"
            )
        samples, bins = np.arange(window), np.arange(1, 1 + max(1, round(settings.highest * (window // 2))))
        phases = 2 * np.pi * np.outer(samples, bins) / window
        hann = np.sin(np.pi * (samples + 0.5) / window) ** 2
        taper = hann[:, None] / np.linalg.norm(hann) * np.sqrt(2.0)
        self.transform = Constant(np.concatenate([taper * np.cos(phases), taper * np.sin(phases)], axis=1))
        self.hop = hop
        frames = (shape[0] - window) // hop + 1
        image = Variable(variable.name, (frames, len(bins), *shape[1:]), kind=variable.kind)
        self.then = settings.then.build(image, key=key)

    def __call__(self, array: Array, mask: Bool[Array, "..."]) -> Float[Array, "..."]:
        matrix = jnp.asarray(self.transform.array, array.dtype)
        hops = array[: len(array) // self.hop * self.hop].reshape(-1, self.hop, *array.shape[1:])
        overlap = len(matrix) // self.hop
        frames = len(hops) - overlap + 1
        x = jnp.concatenate([hops[i : i + frames] for i in range(overlap)], axis=1)
        cosines, sines = jnp.split(jnp.tensordot(jnp.moveaxis(x, 1, -1), matrix, 1), 2, axis=-1)
        # (frames, frequencies, channels); the mean power of white noise of variance 1 is 1
        power = jnp.moveaxis((cosines**2 + sines**2) / 2.0, -1, 1)
        return self.then(jnp.log1p(power), jnp.ones(power.shape, bool))


def windows(x: Float[Array, "*places c"], kernel: int, stride: int) -> Float[Array, "*strided k"]:
    """Returns the inputs of a convolution at each place: `kernel` neighbors along every axis, zero beyond the ends."""
    counts = [-(-n // stride) for n in x.shape[:-1]]
    padding = [max((m - 1) * stride + kernel - n, 0) for m, n in zip(counts, x.shape, strict=False)]
    x = jnp.pad(x, [*((p // 2, p - p // 2) for p in padding), (0, 0)])
    shifts = itertools.product(range(kernel), repeat=len(counts))
    return jnp.concatenate(
        [x[tuple(slice(i, i + (m - 1) * stride + 1, stride) for i, m in zip(s, counts, strict=True))] for s in shifts],
        axis=-1,
    )


class _Set(eqx.Module):
    each: eqx.nn.MLP
    together: eqx.nn.MLP

    def __init__(self, size: int, width: int, features: int, *, key: PRNGKeyArray) -> None:
        key_each, key_together = jr.split(key)
        self.each = eqx.nn.MLP(size, width, width, 2, jax.nn.silu, key=key_each)
        self.together = eqx.nn.MLP(width + 1, features, width, 1, jax.nn.silu, key=key_together)

    def __call__(self, array: Array, mask: Bool[Array, "..."]) -> Float[Array, " features"]:
        rows = array.reshape(len(array), -1)
        observed = jnp.all(mask.reshape(rows.shape), axis=1)
        count = jnp.sum(observed)
        total = jnp.sum(jnp.where(observed[:, None], jax.vmap(self.each)(rows), 0.0), axis=0)
        mean = total / jnp.maximum(count, 1)
        return self.together(jnp.append(mean, jnp.log1p(count.astype(mean.dtype)) / np.log1p(len(rows))))


def _output_shape(module: Module, variable: Variable) -> tuple[int, int]:
    """Returns the numbers of tokens and of features that a module makes of a variable."""
    shape = variable.shape
    output = jax.eval_shape(module, jnp.zeros(shape), jnp.ones(shape, bool))
    if not hasattr(output, "shape") or len(output.shape) not in (1, 2):
        raise DataError(
            f"the embedding of '{variable.name}' must return an array (features,) or (tokens, features), "
            f"got {getattr(output, 'shape', type(output).__name__)}"
        )
    return (1, output.shape[0]) if len(output.shape) == 1 else (output.shape[0], output.shape[1])
