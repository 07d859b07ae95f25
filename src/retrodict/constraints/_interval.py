"""Intervals: values that lie between two ends; scaling is monotone per element, so that an interval stays one."""

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
    """Variables by name in their intervals: what `Interval`s in `given` become."""

    intervals: Mapping[str, Interval]

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        return interval_masks(layout, self.intervals)

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
