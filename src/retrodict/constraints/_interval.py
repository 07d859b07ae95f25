"""Intervals: values that lie between two ends. Scaling is monotone per element, so an interval stays an interval."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from retrodict.constraints._base import AbstractConstraint, View
from retrodict.guidance import AbstractGuide, Linear, Within
from retrodict.query.interval import Interval, interval_masks
from retrodict.variables import Layout


@dataclass(frozen=True)
class Between(AbstractConstraint):
    """The constraint that variables lie in their intervals, from the `Interval`s in `given`."""

    intervals: Mapping[str, Interval]

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        return interval_masks(layout, self.intervals)

    def guide(self, view: View) -> AbstractGuide:
        layout, masks = view.layout, self.masks(view.layout)
        low, high, mask = np.full(layout.size, -np.inf), np.full(layout.size, np.inf), np.zeros(layout.size, bool)
        for name, interval in self.intervals.items():
            block = layout.slices[name]
            low[block], high[block] = (end.ravel() for end in interval.ends(layout[name].shape, name))
            mask[block] = masks[name].ravel()
        center = view.units.scaling.inverse(np.zeros(layout.size))  # a value to scale for elements without an end
        in_support = [np.isfinite(end) & (end > layout.ends[0]) & (end < layout.ends[1]) for end in (low, high)]
        ends = [
            jnp.where(ok, view.units.scaling.forward(np.where(ok, end, center)), open_)[mask]
            for end, ok, open_ in zip((low, high), in_support, (-jnp.inf, jnp.inf), strict=True)
        ]
        return Within(Linear(jnp.eye(layout.size)[mask]), *ends)
