"""What each token is: an identity that is added to its value or stands beside it, and angles by which it is rotated.

    Learned()                  a vector per element, trained; exchangeable parts share theirs
    Sinusoidal1d(), 2d()       a trained vector per variable plus sines and cosines of the element's place in it
    Rotary1d(), Rotary2d()     a trained vector per variable; places turn queries and keys (Su et al. 2021)

Places are indices in a variable's shape, the last axis for 1-D, the first two for 2-D (rows and columns, of patches if
it is cut into them). Places that are known (times, positions) are `coordinates`: Gaussian Fourier features of them
(Tancik et al. 2020) are added to the identity.
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
    """Gaussian Fourier features of places that are known: zero for tokens without."""

    dense: Float[Array, "features width"]
    features: Constant = eqx.field(static=True)

    def __init__(self, known: np.ndarray, width: int, *, key: PRNGKeyArray) -> None:
        present = np.isfinite(known).all(axis=1)
        scale = np.where(np.nanstd(known, axis=0) > 0, np.nanstd(known, axis=0), 1.0)
        standard = np.where(present[:, None], (known - np.nanmean(known, axis=0)) / scale, 0.0)
        turns = 2 * np.pi * standard @ np.random.default_rng(0).normal(size=(known.shape[1], 64))
        found = np.where(present[:, None], np.concatenate([np.cos(turns), np.sin(turns)], axis=1), 0.0)
        self.features = Constant(found)
        self.dense = jr.normal(key, (128, width)) / np.sqrt(128)

    def __call__(self) -> Float[Array, "t width"]:
        return jnp.asarray(self.features.array) @ self.dense


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
