"""Intervals: values that lie between two ends; scaling is monotone per element, so that an interval stays one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from retrodict._errors import DataError
from retrodict.constraints._base import AbstractConstraint, View, known
from retrodict.guidance import AbstractGuide, Linear, Within
from retrodict.query.tokens import as_numbers
from retrodict.variables import Layout


class Interval:
    """A value in `given` that is known to lie between two ends, numbers or arrays with one end per element.

    `None` and infinite ends are open. Elements with equal ends are given, those without ends are not observed.

    Raises:
        DataError: an end that is no number, or a low end above the high one.
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
            above = np.any(self.low > self.high)
        except ValueError:
            raise DataError(
                f"the ends of an Interval have the shapes {self.low.shape} and {self.high.shape}, which do not match"
            ) from None
        if above:
            raise DataError(f"an Interval needs low <= high, got low={self.low} and high={self.high}; swap them")

    def __repr__(self) -> str:
        return f"Interval({self.low}, {self.high})"

    def ends(self, shape: tuple[int, ...], name: str) -> tuple[np.ndarray, np.ndarray]:
        """Both ends for a variable of this shape."""
        try:
            return np.broadcast_to(self.low, shape), np.broadcast_to(self.high, shape)
        except ValueError:
            raise DataError(
                f"the Interval of '{name}' has ends of the shapes {self.low.shape} and {self.high.shape}; "
                f"they must be numbers or have the shape {shape}"
            ) from None


@dataclass(frozen=True)
class Between(AbstractConstraint):
    """Variables by name in their intervals: what `Interval`s in `given` become."""

    intervals: Mapping[str, Interval]

    def given(self, layout: Layout) -> dict[str, np.ndarray]:
        """Elements with equal ends, NaN elsewhere; without the variables that have none."""
        found = {}
        for name, interval in self.intervals.items():
            low, high = interval.ends(known(layout, name, "`given`"), name)
            if (low == high).any():
                found[name] = np.where(low == high, low, np.nan)
        return found

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        found = {}
        for name, interval in self.intervals.items():
            low, high = interval.ends(known(layout, name, "`given`"), name)
            found[name] = (low < high) & (np.isfinite(low) | np.isfinite(high))
            first, last = (end.reshape(low.shape) for end in layout[name].ends)
            if np.any(found[name] & ((high <= first) | (low >= last))):
                raise DataError(f"{interval!r} of '{name}' lies outside its support, ({first.min():g}, {last.max():g})")
        return found

    def guide(self, view: View) -> AbstractGuide:
        layout, masks = view.layout, self.masks(view.layout)
        low, high, asked = np.full(layout.size, -np.inf), np.full(layout.size, np.inf), np.zeros(layout.size, bool)
        for name, interval in self.intervals.items():
            block = layout.slices[name]
            low[block], high[block] = (end.ravel() for end in interval.ends(layout[name].shape, name))
            asked[block] = masks[name].ravel()
        middle = view.units.scaling.inverse(jnp.zeros(layout.size))  # stands in where there is no end to scale
        inside = [np.isfinite(end) & (end > layout.ends[0]) & (end < layout.ends[1]) for end in (low, high)]
        ends = [
            jnp.where(ok, view.units.scaling.forward(jnp.where(ok, end, middle)), open_)[asked]
            for end, ok, open_ in zip((low, high), inside, (-jnp.inf, jnp.inf), strict=True)
        ]
        return Within(Linear(jnp.eye(layout.size)[asked]), *ends)
