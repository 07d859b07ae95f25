"""What each token is: an identity that is added to its value or stands beside it, and angles by which it is rotated.

    Learned()                  a vector per element, trained; exchangeable parts share theirs
    Sinusoidal1d(), 2d()       a trained vector per variable plus sines and cosines of the element's place in it
    Rotary1d(), Rotary2d()     a trained vector per variable; places turn queries and keys (Su et al. 2021)

Places are indices in a variable's shape, the last axis for 1-D, the first two for 2-D (rows and columns, of patches if
it is cut into them). Places that have numbers (times, positions) are coordinates, of a variable the same in every row
or, of a function, its points: Gaussian Fourier features of them (Tancik et al. 2020) are added to the identity.
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


WAVES = 64  # Fourier features of a place, sines and cosines each
LONGEST = 10_000.0  # places apart at which the slowest wave has turned once, as usual


@dataclass(frozen=True)
class Places:
    """Of every token: its identity among `count`, its variable, and where in that it lies, `(t, 2)` row and column."""

    identity: np.ndarray
    variable: np.ndarray
    place: np.ndarray
    extent: tuple[int, ...]  # of every token's variable, how many axes it has


class Identity(eqx.Module):
    """Vectors `(t, width)`, and angles `(t, half)` or `None`."""

    table: Float[Array, "count width"]
    which: Constant = eqx.field(static=True)
    fixed: Constant | None = eqx.field(static=True)
    turned: Constant | None = eqx.field(static=True)

    def __call__(self) -> Float[Array, "t width"]:
        found = self.table[self.which.array]
        return found if self.fixed is None else found + jnp.asarray(self.fixed.array)

    @property
    def angles(self) -> Float[Array, "t half"] | None:
        """By how much each token's queries and keys are turned."""
        return None if self.turned is None else jnp.asarray(self.turned.array)


class AbstractIdentity(AbstractSettings):
    """How tokens are told apart."""

    @abc.abstractmethod
    def build(self, places: Places, width: int, size: int, *, key: PRNGKeyArray) -> Identity:
        """The identities, `width` wide, for heads of `size` numbers."""


@dataclass(frozen=True)
class Learned(AbstractIdentity):
    """A trained vector per element."""

    def build(self, places: Places, width: int, size: int, *, key: PRNGKeyArray) -> Identity:
        return _identity(places.identity, width, key)


@dataclass(frozen=True)
class Sinusoidal1d(AbstractIdentity):
    """A trained vector per variable, plus waves of the index along its last axis."""

    def build(self, places: Places, width: int, size: int, *, key: PRNGKeyArray) -> Identity:
        _need(places, 1, type(self).__name__)
        return _identity(places.variable, width, key, fixed=_waves(places.place[:, -1], width))


@dataclass(frozen=True)
class Sinusoidal2d(AbstractIdentity):
    """A trained vector per variable, plus waves of row and column, half of the width each."""

    def build(self, places: Places, width: int, size: int, *, key: PRNGKeyArray) -> Identity:
        _need(places, 2, type(self).__name__)
        rows, columns = (_waves(places.place[:, i], w) for i, w in enumerate((width // 2, width - width // 2)))
        return _identity(places.variable, width, key, fixed=np.concatenate([rows, columns], axis=1))


@dataclass(frozen=True)
class Rotary1d(AbstractIdentity):
    """A trained vector per variable; queries and keys are turned by the index along the last axis."""

    def build(self, places: Places, width: int, size: int, *, key: PRNGKeyArray) -> Identity:
        _need(places, 1, type(self).__name__)
        return _identity(places.variable, width, key, turned=_angles(places.place[:, -1], size // 2))


@dataclass(frozen=True)
class Rotary2d(AbstractIdentity):
    """A trained vector per variable; half of each query and key is turned by the row, half by the column."""

    def build(self, places: Places, width: int, size: int, *, key: PRNGKeyArray) -> Identity:
        _need(places, 2, type(self).__name__)
        both = [_angles(places.place[:, i], size // 4) for i in (0, 1)]
        return _identity(places.variable, width, key, turned=np.concatenate(both, axis=1))


class Coordinates(eqx.Module):
    """Gaussian Fourier features of standardized coordinates `(t, axes)`: zero for tokens without any (NaN)."""

    dense: Float[Array, "features width"]
    frequencies: Constant = eqx.field(static=True)

    def __init__(self, axes: int, width: int, *, key: PRNGKeyArray) -> None:
        self.frequencies = Constant(np.random.default_rng(0).normal(size=(axes, WAVES)))
        self.dense = jr.normal(key, (2 * WAVES, width)) / np.sqrt(2 * WAVES)

    @property
    def axes(self) -> int:
        """The number of coordinates of a place."""
        return len(self.frequencies.array)

    def __call__(self, known: Float[Array, "t axes"]) -> Float[Array, "t width"]:
        present = jnp.all(jnp.isfinite(known), axis=1, keepdims=True)
        turns = 2 * np.pi * jnp.where(present, known, 0.0) @ jnp.asarray(self.frequencies.array, self.dense.dtype)
        features = jnp.concatenate([jnp.cos(turns), jnp.sin(turns)], axis=1)
        return jnp.where(present, features @ self.dense, 0.0)


def standardized(known: np.ndarray) -> np.ndarray:
    """Coordinates `(t, axes)` with mean 0 and standard deviation 1, NaN left out."""
    scale = np.nanstd(known, axis=0)
    return (known - np.nanmean(known, axis=0)) / np.where(scale > 0, scale, 1.0)


def _identity(
    which: np.ndarray,
    width: int,
    key: PRNGKeyArray,
    *,
    fixed: np.ndarray | None = None,
    turned: np.ndarray | None = None,
) -> Identity:
    def constant(array: np.ndarray | None) -> Constant | None:
        return None if array is None else Constant(array)

    table = 0.5 * jr.normal(key, (int(which.max()) + 1, width))
    return Identity(table, Constant(which), constant(fixed), constant(turned))


def _angles(place: np.ndarray, pairs: int) -> np.ndarray:
    if pairs < 1:
        raise DataError("rotary identities need heads of at least 2 numbers (4 in two dimensions); widen them")
    return place[:, None] * LONGEST ** (-np.arange(pairs) / pairs)


def _waves(place: np.ndarray, width: int) -> np.ndarray:
    turns = _angles(place, (width + 1) // 2)
    return np.concatenate([np.sin(turns), np.cos(turns)], axis=1)[:, :width]


def _need(places: Places, axes: int, name: str) -> None:
    if max(places.extent) < axes:
        raise DataError(
            f"{name} tells elements apart by their place in {axes} dimension{'s' if axes > 1 else ''}, but no variable "
            "has so many; use Learned()"
        )
