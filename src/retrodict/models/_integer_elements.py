"""Elements that are integers, as a density on the real line sees them.

    u = sqrt(n - smallest + 3/8),        P(n) = probability of u between its values at n - 1/2 and n + 1/2

The spread of the root of a count hardly depends on its mean (Anscombe 1948). The interval between the values of u at
n - 1/2 and n + 1/2 is the cell of the integer n. The cells of the smallest and of the largest integer extend to
infinity, so that probabilities add up to one.
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from retrodict.transforms import supports


ROOT_OFFSET = 0.375

Elements: TypeAlias = Array | np.ndarray


class IntegerElements(NamedTuple):
    """A mask `(d,)` of the elements that were integers in all simulations, and the range of each element `(d,)`."""

    is_integer: Elements
    smallest: Elements
    largest: Elements

    @classmethod
    def none(cls, size: int) -> "IntegerElements":
        """No integers among `size` elements."""
        return cls(jnp.zeros(size, bool), jnp.zeros(size), jnp.zeros(size))

    @classmethod
    def of(cls, rows: np.ndarray, groups: Iterable[np.ndarray]) -> "IntegerElements":
        """Returns the integers among the elements in `groups` of rows `(n, d)`; elements of a group share a range."""
        is_integer, (smallest, largest) = np.zeros(rows.shape[1], bool), np.zeros((2, rows.shape[1]))
        for tokens in groups:
            values = rows[:, tokens]
            is_integer[tokens] = (values == np.round(values)).all()
            smallest[tokens], largest[tokens] = values.min(), values.max()
        return cls(is_integer, smallest, largest)

    def unconstrain(
        self, rows: np.ndarray, ends: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Maps rows to the real line and returns them with the bounds of their cells, alike where not integer."""
        rows = np.where(self.is_integer, np.clip(rows, self.smallest, self.largest), rows)
        real = np.asarray(supports.unconstrain(rows, *ends))
        u, low, high = (np.where(self.is_integer, self.to_roots(rows + step), real) for step in (0.0, -0.5, 0.5))
        low[self.is_integer & (rows <= self.smallest)] = -np.inf
        high[self.is_integer & (rows >= self.largest)] = np.inf
        return u, low, high

    def constrain(self, u: np.ndarray, ends: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Maps rows on the real line back to the user's units."""
        return np.where(self.is_integer, self.to_integers(u), np.asarray(supports.constrain(u, *ends)))

    def to_roots(self, rows: np.ndarray) -> np.ndarray:
        """Replaces integers by their roots, the u above."""
        return np.where(self.is_integer, np.sqrt(np.maximum(rows - self.smallest + ROOT_OFFSET, 0.0)), rows)

    def to_integers(self, rows: np.ndarray) -> np.ndarray:
        """Replaces roots by the nearest integer within the range of the simulations."""
        counts = np.round(self.smallest + np.maximum(rows, 0.0) ** 2 - ROOT_OFFSET)
        return np.where(self.is_integer, np.clip(counts, self.smallest, self.largest), rows)
