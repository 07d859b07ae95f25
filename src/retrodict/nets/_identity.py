"""Identities of tokens: vectors added to the values or concatenated with them, and angles that rotate queries and keys.

    Learned()                  a trained vector per element; exchangeable parts share theirs
    Sinusoidal1d(), 2d()       a trained vector per variable plus sines and cosines of the element's position in it
    Rotary1d(), Rotary2d()     a trained vector per variable; positions rotate queries and keys (Su et al. 2021)

A position is an index in a variable's shape: along the last axis in 1-D; row and column, along the first two axes, in
2-D. If a variable is cut into patches, positions are those of patches. Elements may also have coordinates, such as
times: fixed ones for all rows, or the points of a function. Gaussian Fourier features of coordinates (Tancik et al.
2020) are added to the identity.
"""

import abc
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict._errors import DataError
from retrodict.nets._base import AbstractSettings, Constant


N_FREQUENCIES = 64  # of the Fourier features of coordinates
FREQUENCY_RATIO = 10_000.0  # of the fastest sinusoid of a position to the slowest, as usual


@dataclass(frozen=True)
class Places:
    """The identity, the variable and the position of each of `t` tokens."""

    identity: np.ndarray  # (t,), index of its vector among the trained ones
    variable: np.ndarray  # (t,), index of its variable
    place: np.ndarray  # (t, 2), row and column in its variable
    extent: tuple[int, ...]  # number of axes of its variable


class Identity(eqx.Module):
    """Vectors `(t, width)` of tokens, and angles `(t, half)` or `None`."""

    table: Float[Array, "count width"]
    index: Constant = eqx.field(static=True)  # (t,), row of `table`
    sinusoids: Constant | None = eqx.field(static=True)  # (t, width)
    rotation: Constant | None = eqx.field(static=True)  # (t, half)

    def __call__(self) -> Float[Array, "t width"]:
        vectors = self.table[self.index.array]
        return vectors if self.sinusoids is None else vectors + jnp.asarray(self.sinusoids.array)

    @property
    def angles(self) -> Float[Array, "t half"] | None:
        """The angles that rotate each token's queries and keys."""
        return None if self.rotation is None else jnp.asarray(self.rotation.array)


class AbstractIdentity(AbstractSettings):
    """Settings from which `build` makes the identities of tokens."""

    @abc.abstractmethod
    def build(self, places: Places, width: int, size: int, *, key: PRNGKeyArray) -> Identity:
        """Builds identities of `width` numbers, for attention heads of `size` numbers."""


@dataclass(frozen=True)
class Learned(AbstractIdentity):
    """A trained vector per element."""

    def build(self, places: Places, width: int, size: int, *, key: PRNGKeyArray) -> Identity:
        return _identity(places.identity, width, key)


@dataclass(frozen=True)
class Sinusoidal1d(AbstractIdentity):
    """A trained vector per variable, plus sines and cosines of the index along its last axis."""

    def build(self, places: Places, width: int, size: int, *, key: PRNGKeyArray) -> Identity:
        _check_axes(places, 1, type(self).__name__)
        return _identity(places.variable, width, key, sinusoids=_sinusoids(places.place[:, -1], width))


@dataclass(frozen=True)
class Sinusoidal2d(AbstractIdentity):
    """A trained vector per variable, plus sines and cosines of row and column, half of the width each."""

    def build(self, places: Places, width: int, size: int, *, key: PRNGKeyArray) -> Identity:
        _check_axes(places, 2, type(self).__name__)
        rows, columns = (_sinusoids(places.place[:, i], w) for i, w in enumerate((width // 2, width - width // 2)))
        return _identity(places.variable, width, key, sinusoids=np.concatenate([rows, columns], axis=1))


@dataclass(frozen=True)
class Rotary1d(AbstractIdentity):
    """A trained vector per variable; the index along the last axis rotates queries and keys."""

    def build(self, places: Places, width: int, size: int, *, key: PRNGKeyArray) -> Identity:
        _check_axes(places, 1, type(self).__name__)
        return _identity(places.variable, width, key, rotation=_angles(places.place[:, -1], size // 2))


@dataclass(frozen=True)
class Rotary2d(AbstractIdentity):
    """A trained vector per variable; the row rotates half of each query and key, the column the other half."""

    def build(self, places: Places, width: int, size: int, *, key: PRNGKeyArray) -> Identity:
        _check_axes(places, 2, type(self).__name__)
        angles = [_angles(places.place[:, i], size // 4) for i in (0, 1)]
        return _identity(places.variable, width, key, rotation=np.concatenate(angles, axis=1))


class Coordinates(eqx.Module):
    """Gaussian Fourier features of standardized coordinates `(t, axes)`; zero for tokens without coordinates (NaN)."""

    dense: Float[Array, "features width"]
    frequencies: Constant = eqx.field(static=True)

    def __init__(self, axes: int, width: int, *, key: PRNGKeyArray) -> None:
        self.frequencies = Constant(np.random.default_rng(0).normal(size=(axes, N_FREQUENCIES)))
        self.dense = jr.normal(key, (2 * N_FREQUENCIES, width)) / np.sqrt(2 * N_FREQUENCIES)

    @property
    def axes(self) -> int:
        """The number of coordinates of a point."""
        return len(self.frequencies.array)

    def __call__(self, coordinates: Float[Array, "t axes"]) -> Float[Array, "t width"]:
        present = jnp.all(jnp.isfinite(coordinates), axis=1, keepdims=True)
        phases = (
            2 * np.pi * jnp.where(present, coordinates, 0.0) @ jnp.asarray(self.frequencies.array, self.dense.dtype)
        )
        features = jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=1)
        return jnp.where(present, features @ self.dense, 0.0)


def standardized(coordinates: np.ndarray) -> np.ndarray:
    """Scales coordinates `(t, axes)` to mean 0 and standard deviation 1, ignoring NaN."""
    scale = np.nanstd(coordinates, axis=0)
    return (coordinates - np.nanmean(coordinates, axis=0)) / np.where(scale > 0, scale, 1.0)


def _identity(
    index: np.ndarray,
    width: int,
    key: PRNGKeyArray,
    *,
    sinusoids: np.ndarray | None = None,
    rotation: np.ndarray | None = None,
) -> Identity:
    def constant(array: np.ndarray | None) -> Constant | None:
        return None if array is None else Constant(array)

    table = 0.5 * jr.normal(key, (int(index.max()) + 1, width))
    return Identity(table, Constant(index), constant(sinusoids), constant(rotation))


def _angles(place: np.ndarray, pairs: int) -> np.ndarray:
    if pairs < 1:
        raise DataError("rotary identities need heads of at least 2 numbers (4 in two dimensions); widen them")
    return place[:, None] * FREQUENCY_RATIO ** (-np.arange(pairs) / pairs)


def _sinusoids(place: np.ndarray, width: int) -> np.ndarray:
    angles = _angles(place, (width + 1) // 2)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width]


def _check_axes(places: Places, axes: int, name: str) -> None:
    if max(places.extent) < axes:
        raise DataError(
            f"{name} tells elements apart by their place in {axes} dimension{'s' if axes > 1 else ''}, but no variable "
            "has so many; use Learned()"
        )
