"""Intervals: values that lie between two ends. Scaling is monotone per element, so an interval stays an interval."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from retrodict._errors import DataError
from retrodict.constraints._base import AbstractConstraint, View, shape_of
from retrodict.guidance import AbstractGuide, Linear, Within
from retrodict.query.tokens import as_numbers
from retrodict.variables import Layout


class Interval:
    """An interval in place of a value in `given`. An end is a number, or an array with one end per element.

    `None` and infinite ends are open. Elements with equal ends are given. Elements without ends are not observed.

    Raises:
        DataError: an end that is not a number, or a low end above the high end.
    """

    def __init__(self, low: Any = None, high: Any = None) -> None:
        ends = zip((low, high), (-np.inf, np.inf), ("low", "high"), strict=True)
        self.low, self.high = (
            np.nan_to_num(
                as_numbers(open_ if end is None else end, f"`{name}` of an Interval"),
                nan=open_,
                posinf=np.inf,
                neginf=-np.inf,
            )
            for end, open_, name in ends
        )
        try:
            is_swapped = np.any(self.low > self.high)
        except ValueError:
            raise DataError(
                f"the ends of an Interval have the shapes {self.low.shape} and {self.high.shape}, which do not match"
            ) from None
        if is_swapped:
            raise DataError(f"an Interval needs low <= high, got low={self.low} and high={self.high}; swap them")

    def __repr__(self) -> str:
        return f"Interval({self.low}, {self.high})"

    def ends(self, shape: tuple[int, ...], name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns both ends, broadcast to the shape of the variable `name`."""
        try:
            return np.broadcast_to(self.low, shape), np.broadcast_to(self.high, shape)
        except ValueError:
            raise DataError(
                f"the Interval of '{name}' has ends of the shapes {self.low.shape} and {self.high.shape}; "
                f"they must be numbers or have the shape {shape}"
            ) from None


@dataclass(frozen=True)
class Between(AbstractConstraint):
    """The constraint that variables lie in their intervals, from the `Interval`s in `given`."""

    intervals: Mapping[str, Interval]

    def given(self, layout: Layout) -> dict[str, np.ndarray]:
        """Returns the values of elements with equal ends, and NaN for others; variables without such are left out."""
        values = {}
        for name, interval in self.intervals.items():
            low, high = interval.ends(shape_of(layout, name, "`given`"), name)
            if (low == high).any():
                values[name] = np.where(low == high, low, np.nan)
        return values

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        masks = {}
        for name, interval in self.intervals.items():
            low, high = interval.ends(shape_of(layout, name, "`given`"), name)
            masks[name] = (low < high) & (np.isfinite(low) | np.isfinite(high))
            lower, upper = (end.reshape(low.shape) for end in layout[name].ends)
            if np.any(masks[name] & ((high <= lower) | (low >= upper))):
                support = f"({lower.min():g}, {upper.max():g})"
                raise DataError(f"{interval!r} of '{name}' lies outside its support, {support}")
        return masks

    def guide(self, view: View) -> AbstractGuide:
        layout, masks = view.layout, self.masks(view.layout)
        low, high, mask = np.full(layout.size, -np.inf), np.full(layout.size, np.inf), np.zeros(layout.size, bool)
        for name, interval in self.intervals.items():
            block = layout.slices[name]
            low[block], high[block] = (end.ravel() for end in interval.ends(layout[name].shape, name))
            mask[block] = masks[name].ravel()
        center = view.units.scaling.inverse(jnp.zeros(layout.size))  # a value to scale for elements without an end
        in_support = [np.isfinite(end) & (end > layout.ends[0]) & (end < layout.ends[1]) for end in (low, high)]
        ends = [
            jnp.where(ok, view.units.scaling.forward(jnp.where(ok, end, center)), open_)[mask]
            for end, ok, open_ in zip((low, high), in_support, (-jnp.inf, jnp.inf), strict=True)
        ]
        return Within(Linear(jnp.eye(layout.size)[mask]), *ends)
