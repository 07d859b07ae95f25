"""Intervals in `given`: a value that is known to lie between two ends.

Elements with equal ends are given, elements without ends are not observed, and all others are drawn inside.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from retrodict._errors import DataError, QueryError, unknown
from retrodict.query.tokens import as_numbers
from retrodict.variables import Layout


class Interval:
    """A value in `given` that is known to lie between two ends, numbers or arrays with one end per element.

    `None` and infinite ends are open. Elements with equal ends are given, those without ends are not observed.

    Raises:
        DataError: an end that is no number, or a low end above the high one.
    """

    def __init__(self, low: Any = None, high: Any = None) -> None:
        self.low, self.high = _ends(low, -np.inf, "low"), _ends(high, np.inf, "high")
        try:
            reversed_ends = np.any(self.low > self.high)
        except ValueError:
            raise DataError(
                f"the ends of an Interval have the shapes {self.low.shape} and {self.high.shape}, which do not match"
            ) from None
        if reversed_ends:
            raise DataError(f"an Interval needs low <= high, got low={self.low} and high={self.high}; swap them")

    def __repr__(self) -> str:
        return f"Interval({self.low}, {self.high})"

    def ends(self, shape: tuple[int, ...], name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns both ends for a variable of this shape."""
        try:
            return np.broadcast_to(self.low, shape), np.broadcast_to(self.high, shape)
        except ValueError:
            raise DataError(
                f"the Interval of '{name}' has ends of the shapes {self.low.shape} and {self.high.shape}; "
                f"they must be numbers or have the shape {shape}"
            ) from None


def _ends(value: Any, infinity: float, name: str) -> np.ndarray:
    array = as_numbers(infinity if value is None else value, f"`{name}` of an Interval")
    return np.nan_to_num(array, nan=infinity, posinf=np.inf, neginf=-np.inf)


def intervals_in(given: Mapping[str, Any]) -> dict[str, Interval]:
    """Returns the intervals among the values of `given`, by name."""
    return {name: value for name, value in given.items() if isinstance(value, Interval)}


def fixed_values(layout: Layout, intervals: Mapping[str, Interval]) -> dict[str, np.ndarray]:
    """Returns the elements with equal ends, NaN elsewhere; variables without such elements are left out."""
    values = {}
    for name, interval in intervals.items():
        low, high = interval.ends(_shape_of(layout, name), name)
        if (low == high).any():
            values[name] = np.where(low == high, low, np.nan)
    return values


def interval_masks(layout: Layout, intervals: Mapping[str, Interval]) -> dict[str, np.ndarray]:
    """Returns by name which elements, booleans `shape`, have an end to stay within.

    Raises:
        QueryError: a name that the layout does not have.
        DataError: an interval outside the support of its variable.
    """
    masks = {}
    for name, interval in intervals.items():
        low, high = interval.ends(_shape_of(layout, name), name)
        masks[name] = (low < high) & (np.isfinite(low) | np.isfinite(high))
        first, last = (end.reshape(low.shape) for end in layout[name].ends)
        if np.any(masks[name] & ((high <= first) | (low >= last))):
            raise DataError(f"{interval!r} of '{name}' lies outside its support, ({first.min():g}, {last.max():g})")
    return masks


def _shape_of(layout: Layout, name: str) -> tuple[int, ...]:
    if name not in layout.names:
        raise QueryError(unknown("`given`", name, layout.names))
    return layout[name].shape
